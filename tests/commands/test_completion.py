"""Tab completion: what follows each word, in a real bash; it is quick, and never prints an error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seqlm.commands.completion import SCRIPTS, candidates, split
from seqlm.commands.verbs import VERBS
from seqlm.config.reference import Reference

from ..conftest import REPOSITORY, seqlm

# Calls the function that the script has bound to seqlm as bash does at TAB, for each line of standard input.
DRIVER = """\
source <(seqlm completion bash)
[ "$(complete -p seqlm)" = "complete -o nospace -F _seqlm seqlm" ] || exit 1
while IFS= read -r line; do
    COMP_LINE=$line COMP_POINT=${#line}
    _seqlm seqlm
    printf '%s\\t' "${COMPREPLY[@]}"
    echo
done
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with two runs, and a command seqlm on the path."""
    for name in ("gru-1", "my run"):
        (tmp_path / "outputs" / name).mkdir(parents=True)
        (tmp_path / "outputs" / name / "run.json").touch()
    (tmp_path / "outputs" / ".sweeps").mkdir()
    (tmp_path / "text.txt").touch()
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "seqlm"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m seqlm "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "src"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


CASES = [
    ("seqlm tr", ["train "]),
    ("seqlm train model=g", ["gru "]),  # bash breaks words at =, and replaces what follows it
    ("seqlm train -m model=gru,ls", ["gru,lstm "]),
    ("seqlm train train.st", ["train.steps="]),
    ("seqlm train tra", ["train."]),
    ("seqlm train experiment=zar", ["zaremba_large ", "zaremba_medium ", "zaremba_small "]),
    ("seqlm train data=text data.path=te", ["text.txt "]),
    ("seqlm train --cf", ["--cfg "]),
    ("seqlm train --cfg ", ["job ", "hydra ", "all "]),
    ("seqlm resume ", ["outputs/gru-1 ", "outputs/my\\ run "]),
    ("seqlm eval gr", ["gru-1 "]),  # a name in outputs
    ("seqlm eval outputs/my\\ ", ["outputs/my\\ run "]),
    ("seqlm eval outputs/gru-1 split=", ["train ", "valid ", "test "]),
    ("seqlm predict outputs/gru-1 t", ["text.txt "]),
    ("seqlm compare outputs/gru-1 --json te", ["text.txt "]),
    ("seqlm runs o", ["outputs/"]),
    ("seqlm bench n", ["neighbour "]),
    ("seqlm completion z", ["zsh "]),
    ("seqlm nonsense ", []),
    ("seqlm train nowhere/", []),
    ("seqlm train 'open", []),
]


def test_in_a_real_bash(home):
    lines = "".join(f"{line}\n" for line, _ in CASES)
    done = subprocess.run(["bash", "--norc", "-c", DRIVER], input=lines, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    found = [line.split("\t")[:-1] for line in done.stdout.splitlines()]
    for (line, expected), got in zip(CASES, found, strict=True):
        assert [each for each in got if each] == expected, line


def test_every_verb_completes_its_words(home):
    Path("outputs/grid/.sweep").mkdir(parents=True)
    assert candidates(["sweep"], "") == ["grid"]
    assert candidates([], "")[: len(VERBS)] == [*VERBS]
    for verb, entry in VERBS.items():
        flags = candidates([verb], "-")
        named = {part for word in entry.words if word.startswith("-") for part in word.replace(",", "").split()}
        assert {part for part in named if part.startswith("-")} <= set(flags) and "--help" in flags
        assert candidates([verb], ""), verb
        if entry.usage.startswith("RUN"):
            assert "outputs/gru-1" in candidates([verb], ""), verb
        for key in Reference().verb_keys(entry.keys) if entry.keys not in ("train", "resume") else ():
            given = [verb, *["text.txt"] * entry.usage.count("FILE|-"), *["outputs/gru-1"] * ("RUN" in entry.usage)]
            assert any(found.startswith(key) or found == f"{key}." for found in candidates(given, key)), (verb, key)


def test_groups_options_and_keys():
    reference = Reference()
    for group, options in reference.groups.items():
        assert f"{group}=" in candidates(["train"], group)
        assert candidates(["train"], f"{group}=") == [f"{group}={option}" for option in options]
    for name, key in reference.keys().items():
        assert not key.value or f"{name}=" in candidates(["train"], name)
    assert "model.cell.depth=" in candidates(["train", "model/cell=rhn"], "model.cell.")
    assert candidates(["train"], "model.tied=") == ["model.tied=true", "model.tied=false"]
    assert candidates(["train"], "model.hidden_size=") == ["model.hidden_size=320"]  # its default
    assert candidates(["train"], "train.steps=") == []
    assert candidates(["train"], "+trai") == ["+train."]
    assert "optim.lr=" not in candidates(["resume", "RUN"], "optim.lr")


def test_lines_are_split_as_a_shell_does():
    assert split("seqlm train mo") == (["seqlm", "train"], "mo")
    assert split("seqlm train ") == (["seqlm", "train"], "")
    assert split("seqlm eval my\\ ") == (["seqlm", "eval"], "my ")
    assert split("seqlm eval 'my r") == (["seqlm", "eval"], "my r")
    assert split("seqlm eval my\\") == (["seqlm", "eval"], "my")


def test_a_shell_that_is_not_known():
    failed = seqlm("completion", "csh", cwd=REPOSITORY, check=False)
    assert (
        failed.returncode == 2 and failed.stderr == "seqlm: seqlm completion needs a shell, not csh: bash, zsh, fish\n"
    )


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_scripts_are_right_syntax(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(SCRIPTS[shell])
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True, capture_output=True)
