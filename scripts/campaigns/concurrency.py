"""Several processes on one run, one name and one cache."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .hooks import replace
from .jobs import Done, Job
from .runner import Campaign, Case
from .settings import difference, outcome, train_or_resume, trained, training, words_of

NONE_YET = ("no whole checkpoint", "no best", "does not exist", "none is whole")
OFTEN = ("checkpoint.every=1", "checkpoint.keep_last=1", "checkpoint.keep_best=0")


def case(case: Case) -> None:
    name = list(KINDS)[case.number % len(KINDS)]
    case.count("encounters")
    KINDS[name](case, name)


def _two(case: Case, one: Callable[[], Job], other: Callable[[], Job]) -> list[Done]:
    """Start both, the second a little later."""
    first = one()
    time.sleep(case.rng.uniform(0, 0.3))
    second = other()
    return [first.wait(), second.wait()]


def _check(case: Case, where: str, done: Sequence[Done], allowed: Sequence[int] = (0, 2)) -> bool:
    """Whether nobody ended with a traceback, and at least one came to its end."""
    for each in done:
        if not each.clean or each.code not in allowed:
            case.fail("failed", f"{where}: {each.tail()}")
            return False
    if all(each.code for each in done):
        case.fail("failed", f"{where}: nobody came through: {' / '.join(each.tail(3) for each in done)}")
    return any(each.code == 0 for each in done)


def _equal(case: Case, where: str, whole: Path, run: Path) -> None:
    wanted = json.loads((whole / "outcome.json").read_text(encoding="utf-8"))["outcome"]
    if differs := difference(wanted, outcome(run)):
        case.fail("differs", f"{where}: {differs}")
    if left := [path.name for path in run.parent.glob(".run*")]:
        case.fail("litter", f"{where}: {left}")


def _one_name(case: Case, where: str) -> None:
    words, whole = trained(case, "lm")
    start = lambda: case.start(training(case, words))  # noqa: E731
    if _check(case, where, _two(case, start, start)):
        _equal(case, where, whole, case.folder / "run")


def _one_cache(case: Case, where: str) -> None:
    words, whole = trained(case, "lm", "bf16")  # with kernels in the cache
    done = _two(case, *[lambda name=name: case.start(training(case, words, name=name)) for name in ("one", "two")])
    if _check(case, where, done, allowed=(0,)):
        _equal(case, where, whole, case.folder / "one")
        _equal(case, where, whole, case.folder / "two")
    if left := [path.name for path in (case.folder / "cache").rglob(".*") if path.name != ".lock"]:
        case.fail("litter", f"{where}: {left}")


def _no_cache(case: Case, where: str) -> None:
    """The cache is deleted while two trainings read it."""
    words, whole = trained(case, "lm", "bf16")
    jobs = [case.start(training(case, words, name=name)) for name in ("one", "two")]
    for _ in range(5):
        time.sleep(case.rng.uniform(0, 0.3))
        shutil.rmtree(case.folder / "cache", ignore_errors=True)
    ended = [job.wait() for job in jobs]
    for name, done in zip(("one", "two"), ended, strict=True):  # who was encoding just then may refuse it
        if not done.clean or done.code not in (0, 2):
            case.fail("failed", f"{where}: {done.tail()}")
        elif done.code == 0:
            _equal(case, where, whole, case.folder / name)


def _resume_twice(case: Case, where: str) -> None:
    words, whole = trained(case, "tagging", "dropout")
    run = case.folder / "run"
    _interrupted(case, words)
    start = lambda: case.start(train_or_resume(case, words, run))  # noqa: E731
    if _check(case, where, _two(case, start, start)):
        _equal(case, where, whole, run)


def _interrupted(case: Case, words: Sequence[str]) -> None:
    """A run that is killed somewhere, after it has begun."""
    job = case.start(training(case, words))
    while not (case.folder / "run" / "metrics.jsonl").is_file():
        time.sleep(0.01)
    job.kill(9)
    job.wait()


def _readers(case: Case, where: str) -> None:
    """Every verb that reads, while checkpoints come and go."""
    words, _ = words_of(case, "lm", "plain", *OFTEN, "train.steps=200", "train.eval_every=5"), None
    run = case.folder / "run"
    job = case.start(training(case, words))
    verbs: list[list[object]] = [
        ["eval", run],
        ["runs", "."],
        ["sample", run, "tokens=4"],
        ["eval", run, "checkpoint=last"],
        ["verify", run],
    ]
    while not run.is_dir() and os.waitid(os.P_PID, job.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.01)
    for number in range(6):
        done = case.run(verbs[number % len(verbs)])
        case.count("readings beside training")
        none_yet = any(words in done.text for words in NONE_YET)
        if not done.clean or (done.code and not none_yet):
            case.fail("failed", f"{where}: {verbs[number % len(verbs)][0]}: {done.tail()}")
        if "damaged" in done.text:
            case.fail("false alarm", f"{where}: {done.tail()}")
    _check(case, where, [job.wait()], allowed=(0,))


def _rm(case: Case, where: str) -> None:
    """rm beside a training is refused, or comes after it."""
    words, whole = trained(case, "lm")
    run = case.folder / "run"
    job = case.start(training(case, words))
    while not run.is_dir():
        time.sleep(0.01)
    time.sleep(case.rng.uniform(0, 0.2))
    removal = case.run(["rm", run, "--yes"])
    done = job.wait()
    if not removal.clean or removal.code not in (0, 2):
        case.fail("failed", f"{where}: {removal.tail()}")
    if _check(case, where, [done], allowed=(0,)) and removal.code == 2:
        _equal(case, where, whole, run)


def _reader_first(case: Case, where: str) -> None:
    """`seqlm runs` again and again takes nothing from a resume that starts meanwhile."""
    words, whole = trained(case, "lm")
    run = case.folder / "run"
    _interrupted(case, words)

    def ask() -> None:
        from seqlm.runs.folder import RunFolder

        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            RunFolder(run).status()

    asking = case.start(ask)
    done = case.run(train_or_resume(case, words, run))
    if _check(case, where, [done, asking.wait()], allowed=(0,)):
        _equal(case, where, whole, run)


KINDS: dict[str, Callable[[Case, str], None]] = {
    "two trainings of one name": _one_name,
    "two trainings with one cold cache": _one_cache,
    "a cache that is deleted": _no_cache,
    "two resumes": _resume_twice,
    "readers beside a training": _readers,
    "rm beside a training": _rm,
    "runs beside a resume": _reader_first,
}


def _no_lock() -> None:
    from contextlib import nullcontext

    replace("seqlm.runs.folder:RunFolder.locked", lambda self: nullcontext())


CAMPAIGN = Campaign(
    "concurrency",
    f"two processes at once, in {len(KINDS)} kinds of encounter",
    case,
    sizes={"short": len(KINDS), "full": 10 * len(KINDS)},
    least={"encounters": 10 * len(KINDS)},
    mutants={"no-lock": _no_lock},
)
