"""A campaign is a number of cases, each in a process of its own, drawn from the seed, the campaign and its number."""

from __future__ import annotations

import fcntl
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .jobs import Action, Done, Job

CASE_SECONDS = 300.0  # after which a case counts as failed
BROKEN = "broken case"


@dataclass
class Case:
    """One case: its number, its random numbers, a folder of its own, and what it has found."""

    number: int
    rng: random.Random
    folder: Path
    shared: Path  # of all cases of the campaign
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def count(self, what: str, times: int = 1) -> None:
        """One more of what the record lists."""
        self.counts[what] += times

    def fail(self, kind: str, detail: str) -> None:
        """Note a failure, and count its kind."""
        self.counts[kind] += 1
        self.failures.append(f"{kind}: {detail}")

    def start(self, action: Action | Iterable[object], **options: Any) -> Job:
        """Start a job in the folder of the case, with the cache of the case unless `env` names another."""
        env = {"SEQLM_CACHE": str(self.folder / "cache"), "HOME": str(self.folder), **options.pop("env", {})}
        folder = options.pop("folder", self.folder)
        return Job(action if callable(action) else list(action), folder, env=env, **options)

    def run(self, action: Action | Iterable[object], **options: Any) -> Done:
        """A job, awaited."""
        return self.start(action, **options).wait()

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """A folder that all cases share, filled by the first one that asks for it."""
        folder = self.shared / name
        with (self.shared / f".{name.replace('/', '-')}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (done := folder / ".made").is_file():
                shutil.rmtree(folder, ignore_errors=True)  # of one that failed
                folder.mkdir()
                make(folder)
                done.touch()
        return folder


@dataclass(frozen=True)
class Campaign:
    """An attack: what it does in a case, how many there are, and what must have been seen.

    Args:
        name: Its name on the command line.
        about: One line, for the documentation.
        case: Does one case.
        sizes: Number of cases, of the short form and of the full one.
        least: Counts of the full form that must be reached at least.
        mutants: Changes of the product by name, each of which must make the campaign fail.
        alone: Whether its cases must not run side by side.
    """

    name: str
    about: str
    case: Callable[[Case], None]
    sizes: Mapping[str, int]
    least: Mapping[str, int] = field(default_factory=dict)
    mutants: Mapping[str, Callable[[], None]] = field(default_factory=dict)
    alone: bool = False


@dataclass
class Report:
    """Findings of a campaign."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int | None, str]] = field(default_factory=list)  # case, what was seen
    mutants: dict[str, bool] = field(default_factory=dict)  # broken products by name: whether they were noticed
    cases: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def attack(campaign: Campaign, numbers: Iterable[int], *, seed: int, workers: int, place: Path) -> Report:
    """Do the cases of these numbers, `workers` side by side, and gather what they found."""
    started, used = time.monotonic(), _cpu_seconds()
    home = place / campaign.name
    for folder in ("shared", "cases"):
        (home / folder).mkdir(parents=True)
    report, running = Report(), dict[int, _Running]()
    for number in numbers:
        while len(running) >= (1 if campaign.alone else workers):
            _gather(running, report)
        process = _Running.start(campaign, number, seed, home)
        running[process.watched] = process
    while running:
        _gather(running, report)
    report.failures.sort(key=lambda failure: (failure[0] or 0, failure[1]))
    report.seconds, report.cpu_seconds = time.monotonic() - started, _cpu_seconds() - used
    return report


class _Running(NamedTuple):
    """The process of a case."""

    number: int
    pid: int
    watched: int  # its descriptor
    deadline: float
    result: Path

    @classmethod
    def start(cls, campaign: Campaign, number: int, seed: int, home: Path) -> _Running:
        sys.stdout.flush()
        result = home / "cases" / f"{number}.json"
        pid = os.fork()
        if not pid:
            try:
                os.setsid()  # so that all of it can be ended at once
                _do(campaign, number, seed, home, result)
            finally:
                os._exit(0)
        return cls(number, pid, os.pidfd_open(pid), time.monotonic() + CASE_SECONDS, result)

    def end(self, report: Report) -> None:
        """Add what it found; it is killed if it still runs."""
        late = time.monotonic() >= self.deadline
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.watched)
        report.cases += 1
        if self.result.is_file():
            found = json.loads(self.result.read_text(encoding="utf-8"))
        else:
            reason = f"not done after {CASE_SECONDS:.0f} s" if late else "its process ended"
            found = {"counts": {BROKEN: 1}, "failures": [f"{BROKEN}: {reason}"]}
        report.counts.update(found["counts"])
        report.failures += [(self.number, failure) for failure in found["failures"]]


def _do(campaign: Campaign, number: int, seed: int, home: Path, result: Path) -> None:
    """One case, in its own process; its result is written whole or not at all."""
    rng = random.Random(f"{seed} {campaign.name} {number}")
    case = Case(number, rng, home / "cases" / str(number), home / "shared")
    case.folder.mkdir()
    try:
        campaign.case(case)
    except BaseException:
        case.fail(BROKEN, traceback.format_exc(limit=-3))
    aside = result.with_suffix(".part")
    aside.write_text(json.dumps({"counts": case.counts, "failures": case.failures}), encoding="utf-8")
    aside.rename(result)
    _remove(case.folder)


def _gather(running: dict[int, _Running], report: Report) -> None:
    """Wait until a case ends, or its time is over."""
    poll = select.poll()
    for watched in running:
        poll.register(watched, select.POLLIN)
    wait = min(process.deadline for process in running.values()) - time.monotonic()
    ended = [watched for watched, _ in poll.poll(1000 * max(0.0, wait))]
    late = [watched for watched, process in running.items() if time.monotonic() >= process.deadline]
    for watched in {*ended, *late}:
        running.pop(watched).end(report)


def _remove(folder: Path) -> None:
    """Remove what a case has left, also where it has taken rights away."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _cpu_seconds() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in usage)
