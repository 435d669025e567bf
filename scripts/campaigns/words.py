"""Wrong command lines: a few lines that name the right one first, and nothing is written."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from pathlib import Path

from .hooks import replace
from .runner import Campaign, Case
from .settings import training, words_of

TABLE = Path(__file__).resolve().parents[2] / "tests" / "commands" / "wrong_words.py"
LINES = 10  # of a case
LEAST_LINES = 150
SHORT = 6  # lines of an answer at most


def case(case: Case) -> None:
    table = _table()
    home = case.folder / "home"
    shutil.copytree(case.once("home", lambda folder: _prepare(case, folder)), home)
    for number in range(LINES * case.number, min(len(table), LINES * (case.number + 1))):
        line, answer = table[number]
        before = sorted(home.rglob("*"))
        done = case.run(shlex.split(line.replace("RUN", "outputs/done")), folder=home)
        case.count("wrong lines")
        case.count("right suggestions", int(bool(re.search(answer, done.text, re.DOTALL))))
        if not done.clean or done.code != 2:
            case.fail("not refused", f"{line}: {done.tail()}")
        elif len(done.text.strip().splitlines()) > SHORT:
            case.fail("long answer", f"{line}: {done.tail()}")
        elif not re.search(answer, done.text, re.DOTALL):
            case.fail("wrong suggestion", f"{line}: {answer}: {done.tail()}")
        if sorted(home.rglob("*")) != before:
            case.fail("written", line)


def _prepare(case: Case, folder: Path) -> None:
    done = case.run(training(case, words_of(case, "lm"), folder / "outputs", "done"), folder=folder)
    if done.code:
        raise AssertionError(done.tail(20))
    (folder / "f.txt").write_text("some text\n", encoding="utf-8")


def _table() -> list[tuple[str, str]]:
    """Lines and a pattern of the answer of each: those of the tests."""
    spec = importlib.util.spec_from_file_location("wrong_words", TABLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lines: list[tuple[str, str]] = module.LINES
    return lines


def _no_suggestions() -> None:
    for name in ("seqlm.config.values:unknown_key", "seqlm.config.compose.explain:unknown_word"):
        replace(name, lambda key, *_: f"{key} is unknown")


CAMPAIGN = Campaign(
    "words",
    "wrong command lines, answered with the right one",
    case,
    sizes={"short": 1, "full": 25},
    least={"wrong lines": LEAST_LINES},
    mutants={"no-suggestions": _no_suggestions},
)
