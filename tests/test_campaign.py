"""The campaigns of scripts/campaign.py in their short form, and broken products that they must notice."""

from __future__ import annotations

import os
import sys

import pytest

from .conftest import REPOSITORY

SCRIPTS = str(REPOSITORY / "scripts")
# Each group in a process of its own: to load torch and the product takes as long as a campaign.
GROUPS = [
    ("kill", "signals", "memory", "nonfinite"),
    ("flip", "disk", "concurrency", "soak"),
    ("hostile", "words", "fuzz", "portability"),
]
MUTANTS = [("kill", "forget-random-state"), ("fuzz", "let-json-errors-through")]


def campaigns(commands: list[list[str]], folder: str) -> None:
    """Do `scripts/campaign.py short WORDS` for each of `commands`, in processes that have torch and never used it."""
    sys.path.insert(0, SCRIPTS)
    from campaigns.jobs import preload
    from campaigns.main import main

    preload()
    for number, words in enumerate(commands):
        if not os.fork():
            output = os.open(f"{folder}/{number}", os.O_CREAT | os.O_WRONLY)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os._exit(main(["short", "--workers", "1", *words]))
        code = os.waitstatus_to_exitcode(os.wait()[1])
        os.rename(f"{folder}/{number}", f"{folder}/{number}-{code}")


def outcomes(processes, folder, commands: list[list[str]]) -> list[tuple[int, str]]:
    """The exit code of each command, and what it printed."""
    process = processes.Process(target=campaigns, args=(commands, str(folder)))
    process.start()
    process.join()
    files = sorted(folder.iterdir(), key=lambda path: int(path.name.split("-")[0]))
    return [(int(path.name.split("-")[1]), path.read_text()) for path in files]


@pytest.mark.parametrize("names", GROUPS, ids=" ".join)
def test_the_product_withstands(names, processes, tmp_path):
    found = outcomes(processes, tmp_path, [["--only", name] for name in names])
    assert len(found) == len(names) and not any(code for code, _ in found), "\n".join(text for _, text in found)


def test_a_broken_product_is_noticed(processes, tmp_path):
    found = outcomes(processes, tmp_path, [["--only", name, "--mutant", mutant] for name, mutant in MUTANTS])
    unnoticed = [(mutant, text) for mutant, (code, text) in zip(MUTANTS, found, strict=True) if code != 1]
    assert not unnoticed
