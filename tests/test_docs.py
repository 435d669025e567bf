"""The documentation: its Python is executed, its commands are composed, its pages built, its tables are of records."""

from __future__ import annotations

import doctest
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import REPOSITORY, TINY, compose, script, seqlm

DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md"))]
PYTHON = [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")]
TORCHRUN = re.compile(r"torchrun .*?-m seqlm ")


def blocks(page: Path, *kinds: str) -> list[str]:
    """The code of a page between marks of these kinds."""
    return re.findall(rf"^```(?:{'|'.join(kinds)})\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def commands(page: Path) -> list[list[str]]:
    """The words of every `seqlm ...` in shell blocks and indented lines."""
    text = "\n".join(blocks(page, "sh", "bash"))
    text += "\n" + "\n".join(re.findall(r"^    (seqlm (?:.*\\\n)*.*)", page.read_text(encoding="utf-8"), re.M))
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        command = TORCHRUN.sub("seqlm ", line)
        if match := re.search(r"^[^#]*?(?:^|[ (])seqlm (?=[a-z])(.*)", command):
            words = shlex.split(match[1].partition(")")[0] if "<(" in command else match[1], comments=True)
            found.append(words[: words.index("|")] if "|" in words else words)
    return found


COMMANDS = [(page, words) for page in PAGES for words in commands(page)]


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.name)
def test_python_does_what_the_page_says(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if "outputs/" in page.read_text(encoding="utf-8") and ">>>" not in page.read_text(encoding="utf-8"):
        for name in ("RUN", "NAME"):
            seqlm("train", *TINY, "train.steps=2", f"run.name={name}", cwd=tmp_path)
        (tmp_path / "new.txt").write_text("a b a\n" * 9)
    code = blocks(page, "python")
    if any(">>>" in block for block in code):
        test = doctest.DocTestParser().get_doctest("\n".join(code), {}, page.name, str(page), 0)
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        runner.run(test)
        assert runner.summarize(verbose=False).failed == 0, capsys.readouterr().out
        return
    names: dict[str, object] = {"__name__": "page"}
    if "import seqlm" not in "".join(code):
        names["seqlm"] = sys.modules["seqlm"]
    for block in code:
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[" ".join(words)[:50] for _, words in COMMANDS])
def test_commands_can_be_typed(page, words):
    from seqlm.commands.verbs import VERBS
    from seqlm.config.reference import Reference

    verb, *rest = words
    assert verb in VERBS, f"{page.name}: seqlm {verb}"
    flags = {part for word in VERBS[verb].words for part in re.split(r"[ ,]+", word) if part.startswith("-")}
    of_flags = {after for flag, after in zip(rest, rest[1:], strict=False) if flag.startswith("--")}
    elsewhere = ("-", "slurm", "search=", "jobs=", "trials=")
    keys = [word for word in rest if "=" in word and word not in of_flags and not word.startswith(elsewhere)]
    if verb in ("train", "sweep"):
        first = [re.sub(r"^([^=]+=[^\[{(,'\"]*),.*", r"\1", word) for word in keys]
        compose(*[word for word in first if "init_from" not in word and not word.startswith(("trust", "callbacks"))])
    elif verb not in ("resume", "reproduce"):
        known = Reference().verb_keys(VERBS[verb].keys)
        unknown = [word for word in keys if word.partition("=")[0] not in known and "/" not in word.partition("=")[0]]
        assert not unknown, f"{page.name}: {verb}: {unknown}"
    for word in rest:
        if word.startswith("--") and verb != "train":
            assert word.partition("=")[0] in flags | {"--help"}, f"{page.name}: {' '.join(words)}"


def test_there_are_pages_with_something_to_check():
    assert len(PYTHON) >= 9 and len(COMMANDS) >= 80


def test_the_tutorial_shows_its_record():
    made = script("tutorial")
    record = json.loads(made.RECORD.read_text(encoding="utf-8"))
    page = (made.PAGES / "language.md").read_text(encoding="utf-8")
    assert f"{made.START}\n{made.table(record)}\n{made.END}" in page, "run: python scripts/tutorial.py draw"
    assert list(record["cells"]) == list(made.CELLS) and len(record["improvements"]) == len(made.IMPROVEMENTS)


def test_pages_are_built_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", DOCS, tmp_path / "html"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "html" / "tutorial" / "time.html").read_text(encoding="utf-8")
    assert "mathjax" in page and not re.search(r"""(src|href)="https?://[^"]+\.(js|css)""", page), "nothing is loaded"
