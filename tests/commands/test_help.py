"""Help: every verb lists its words and keys with meaning and default, from the comments of the YAML files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from seqlm import errors
from seqlm.commands.verbs import VERBS
from seqlm.config.comparison import RESUMABLE
from seqlm.config.reference import Reference

from ..conftest import REPOSITORY, seqlm

COMMANDS = REPOSITORY / "src" / "seqlm" / "commands"


@pytest.fixture(autouse=True)
def columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def shown(*words, folder=REPOSITORY):
    return " ".join(seqlm(*words, cwd=folder).stdout.split())


def test_the_overview_has_a_line_for_each_verb():
    lines = seqlm(cwd=REPOSITORY).stdout.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "] == [*VERBS]
    assert seqlm("help", cwd=REPOSITORY).stdout == seqlm("--help", cwd=REPOSITORY).stdout


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_a_file_and_lists_its_words(verb):
    assert (COMMANDS / f"{verb}.py").is_file()
    text = seqlm(verb, "--help", cwd=REPOSITORY).stdout
    assert text.startswith(f"seqlm {verb} ") and max(map(len, text.splitlines())) <= 96
    for word, meaning in VERBS[verb].words.items():
        assert f"  {word}" in text and meaning.split()[0] in text
    for key in Reference().verb_keys(VERBS[verb].keys).values() if VERBS[verb].keys not in ("train", "resume") else ():
        assert re.search(rf"^  {re.escape(key.name)}(=|\.\*)", text, re.M), key
    assert seqlm(verb, "-h", cwd=REPOSITORY).stdout == text


def test_words_that_may_be_left_out_have_a_default():
    """Those in brackets of the usage, flags among them."""
    for verb, entry in VERBS.items():
        optional = re.findall(r"\[([^]]+)\]", entry.usage)
        for word, meaning in entry.words.items():
            if any(word.split()[0] in each for each in optional) or word.startswith("-"):
                assert re.search("default|without|left out|listed below", meaning), (verb, word)


def test_help_of_train():
    text = shown("train", "--help")
    for part in (
        "train.bptt=64 time steps of a chunk: truncated backpropagation",
        "model=lstm or bilm, classifier",
        "experiment=null or atis_bielman",
        "Most used keys: run.name=null",
        "model.cell.forget_bias=0.0 added to the forget gate's bias",
        "seqlm train experiment=zaremba_small data.path=ptb a published setting",
        "--config-dir DIR",
    ):
        assert part in text, part
    assert "model.cell.reset" not in text
    assert "model.cell.reset=after" in shown("train", "model=gru", "--help")
    assert "optim.momentum=0.0" in shown("train", "experiment=zaremba_small", "-h")


def test_help_of_train_knows_a_folder_of_ones_own(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# Mine.\ndefaults: [gru]\nhidden_size: 7  # small\n")
    assert " mine," in shown("train", "--config-dir", str(tmp_path), "--help")
    assert "model.hidden_size=7 small" in shown("train", "--config-dir", str(tmp_path), "model=mine", "--help")


def test_help_of_resume_lists_the_keys_that_may_change():
    text = shown("resume", "--help")
    for key in RESUMABLE:
        assert key in text or key.startswith(("published", "data.", "logger.")), key
    assert "train.bptt" not in text and "optim" not in text


def test_help_is_quick_to_import():
    """Neither hydra nor omegaconf nor torch; --cfg job needs the first two."""
    code = (
        "import sys; sys.argv = ['seqlm', *{!r}]\nfrom seqlm.cli import main\nmain()\n"
        "assert not {{'torch', 'hydra', 'omegaconf', 'yaml', 'numpy'}} & set(sys.modules)"
    )
    for words in (["--help"], ["train", "--help"], ["runs", "--help"], ["completion", "bash", "seqlm train mo"]):
        subprocess.run([sys.executable, "-c", code.format(words)], check=True, capture_output=True, cwd=REPOSITORY)


def test_the_command_that_installs_an_extra(tmp_path, monkeypatch):
    checkout = tmp_path / "my seqlm"
    (checkout / "src" / "seqlm").mkdir(parents=True)
    monkeypatch.setattr(errors, "__file__", str(checkout / "src" / "seqlm" / "errors.py"))
    assert errors.install_hint("plots") == "pip install 'seqlm[plots]'"  # no pyproject.toml: installed
    (checkout / "pyproject.toml").touch()
    assert errors.install_hint("plots") == f"pip install -e '{checkout}[plots]'"
    monkeypatch.chdir(checkout)
    assert errors.install_hint("plots") == "pip install -e '.[plots]'"


def test_extras_are_named_in_one_place():
    extras = re.findall(r"install_hint\('(\w+)'\)", "".join(path.read_text() for path in COMMANDS.parent.rglob("*.py")))
    known = (REPOSITORY / "pyproject.toml").read_text()
    assert {"plots", "translate"} <= set(extras) and all(f"\n{extra} = [" in known for extra in extras)
    named = [path.name for path in Path(COMMANDS.parent).rglob("*.py") if "pip install" in path.read_text()]
    assert named == ["errors.py"]
