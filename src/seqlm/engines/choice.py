"""Which of several ways to compute the same thing is the fastest here: measured once, then remembered.

    pick, product -> [choice] -> a way

Machines differ so much that no rule holds for all of them. But two ways give different last digits, so a choice must
not change under a run: it is kept in the cache folder for this machine, and in the folder of the run, which goes on
with it wherever it is resumed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..cache.entries import locked
from ..cache.private import open_private, private_folder
from ..device import hardware, processor
from ..files import MB, write_atomically
from ..terminal import status

Ways = Mapping[str, Callable[[], float]]  # a trial each, which returns its seconds
Answer = dict[str, Any]  # {"way": the chosen one, "seconds": {way: seconds}}
CLEARLY = 1.1  # so much faster must another way be than the one that was chosen once, or noise would decide
BARELY = 1.02  # or than the usual one, at first
SECONDS = 0.04  # of measuring, for each way, unless LEAST_ROUNDS take longer
LEAST_ROUNDS, MOST_ROUNDS = 1, 30
SETTLED, MOST_TO_SETTLE = 0.9, 4  # a trial that takes so much of the one before is no longer warming up; so many are
HOPELESS = 1.4  # times the seconds of the fastest: a way so slow is not tried again
HICCUP = 0.1  # seconds in which a way must have been so slow, or a short pause of the machine would decide
PATIENCE = 60.0  # seconds to wait for another process that measures


class Choices:
    """The ways that were chosen, by the question that was asked."""

    def __init__(self) -> None:
        self.made: dict[str, str] = {}
        self.answers: dict[str, Answer] = {}  # what this machine has measured, as far as it was asked for
        self.again = False  # whether to measure anew what this machine knows
        self._keep: Callable[[dict[str, str]], None] = lambda made: None
        self._settle: Callable[[str, str], str] = lambda question, way: way
        self._lock = threading.RLock()
        self._stored: dict[str, Answer] | None = None  # the file, while it is locked

    def choose(self, question: str, ways: Ways) -> str:
        """The name of the fastest way; of about equal ones, the first.

        `question` is all that the answer may depend on, besides processor, torch and seqlm. Nothing is measured where
        there is one way, nor if SEQLM_TUNE=0, for instance beside other processes: then it is the first.
        """
        if (known := self.known(question, ways)) is not None:
            return known
        if len(ways) == 1:
            return next(iter(ways))
        with self._lock:
            if self.known(question, ways) is None:
                own = self._answer(question, ways)
                settled = self._settle(question, own)
                self.made[question] = settled if settled in ways else own
                self._keep(self.made)
            return self.made[question]

    def known(self, question: str, ways: Container[str]) -> str | None:
        """The way that was chosen, if one was."""
        known = self.made.get(question)
        return known if known is not None and known in ways else None

    @contextmanager
    def of_run(self, known: Mapping[str, str], settle: Callable[[str, str], str] | None = None) -> Iterator[None]:
        """Begin with the choices that a run has made, and put back at the end what was there before.

        `settle(question, way)` gives the way that all processes of the run take, if there are several.
        """
        before = self.made, self._keep, self._settle
        self.made, self._keep, self._settle = dict(known), lambda made: None, settle or (lambda question, way: way)
        try:
            yield
        finally:
            self.made, self._keep, self._settle = before

    def keep(self, keep: Callable[[dict[str, str]], None]) -> None:
        """Call a function with all choices, now, and before one more is used; until the end of `of_run`."""
        self._keep = keep
        keep(self.made)

    def times_as_fast(self, question: str, way: str, other: str) -> float | None:
        """How many times as fast `way` is as `other`, if that was measured on this machine."""
        if question not in self.answers:
            self.answers[question] = _read(_file()).get(question, {"seconds": {}})  # it is replaced as a whole: no lock
        seconds = self.answers[question]["seconds"]
        return seconds[other] / seconds[way] if seconds.get(way) and seconds.get(other) else None

    def _answer(self, question: str, ways: Ways) -> str:
        """The choice of this machine, measured if there is none yet."""
        if os.environ.get("SEQLM_TUNE") == "0":
            return next(iter(ways))
        with self._store() as stored:
            known = stored.get(question)
            if known is None or known["way"] not in ways or self.again:
                with status("measuring which engine is the fastest"):
                    seconds = measure(ways)
                usual = known["way"] if known and known["way"] in ways else next(iter(ways))
                way = fastest(seconds, usual, CLEARLY if known else BARELY)
                known = stored[question] = {"way": way, "seconds": seconds}
        self.answers[question] = known
        return str(known["way"])

    @contextmanager
    def _store(self) -> Iterator[dict[str, Answer]]:
        """The answers of this machine, by question; what is added is written. Other processes wait meanwhile."""
        if self._stored is not None:  # a way that is being measured asks a question of its own
            yield self._stored
            return
        with _locked_file() as path:
            stored = self._stored = _read(path)
            before = dict(stored)
            try:
                yield stored
            finally:
                self._stored = None
            if path is not None and stored != before:
                with suppress(OSError):
                    record = {"sha256": _digest(stored), "answers": stored}
                    write_atomically(path, json.dumps(record, indent=1, sort_keys=True) + "\n", 0o600)


def fastest(seconds: Mapping[str, float], usual: str, margin: float) -> str:
    """The way with the least seconds, if it beats the usual one by the margin."""
    best = min(seconds, key=seconds.__getitem__)
    return best if seconds[best] * margin < seconds[usual] else usual


def timed(function: Callable[[], object]) -> Callable[[], float]:
    """A trial of all that a function does."""

    def trial() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return trial


def measure(ways: Ways) -> dict[str, float]:
    """The least seconds of each way, tried in turns; infinity for one that this build of torch does not have."""
    seconds, spent, able = dict.fromkeys(ways, math.inf), dict.fromkeys(ways, 0.0), list[str]()
    for name, trial in ways.items():
        with suppress(RuntimeError, NotImplementedError, AttributeError):
            first = _settle(trial)
            seconds[name], spent[name] = min(first), sum(first)
            able.append(name)
    end = time.perf_counter() + SECONDS * len(able)
    for done in range(MOST_ROUNDS):
        limit = HOPELESS * min(seconds.values())
        able = [name for name in able if seconds[name] <= limit or spent[name] < HICCUP]
        if len(able) == 1 or (done >= LEAST_ROUNDS and time.perf_counter() > end):
            break
        for name in able if done % 2 else reversed(able):  # what ran before leaves caches warm for its like
            took = ways[name]()
            seconds[name], spent[name] = min(seconds[name], took), spent[name] + took
    return seconds


def _settle(trial: Callable[[], float]) -> list[float]:
    """The seconds of trials until they get no shorter.

    At first something is made or compiled, and memory is new: the large layers of torch take three trials.
    """
    took = [trial(), trial()]
    while took[-1] < SETTLED * took[-2] and len(took) < MOST_TO_SETTLE:
        took.append(trial())
    return took[1:]


def shape_class(*sizes: int) -> str:
    """Sizes as they stand in a question, each rounded up to two or three binary digits: what is alike is asked once."""
    return "x".join(str(_round_up(size)) for size in sizes)


def length_class(steps: int, most: int) -> int:
    """A number of steps as it stands in a question: the next power of two, or `most`."""
    return min(most, 1 << (steps - 1).bit_length())


def _round_up(size: int) -> int:
    step = 1 << max(0, size.bit_length() - 3)
    return -(-size // step) * step


def _file() -> Path | None:
    """The file of what this machine has measured; None where there can be none."""
    try:
        return private_folder("choices") / f"{_machine()}.json"
    except OSError:
        return None


@contextmanager
def _locked_file() -> Iterator[Path | None]:
    """That file, held; None where it cannot be: every run measures then.

    Who holds it measures for seconds; if it is held for longer, its holder was stopped, and nobody waits for that.
    """
    path, held = _file(), False
    with ExitStack() as lock:
        with suppress(OSError):  # nothing may be written there
            held = path is not None and lock.enter_context(locked(path.parent / ".lock", PATIENCE))
        yield path if held else None


def _read(path: Path | None) -> dict[str, Answer]:
    """The answers in the file, or nothing if it is damaged: they can be measured again."""
    try:
        if path is None:
            return {}
        with open_private(path) as handle:
            record = json.loads(handle.read(16 * MB))
        stored: dict[str, Answer] = record["answers"]
        whole = record["sha256"] == _digest(stored)
        return stored if whole and all(answer["way"] in answer["seconds"] for answer in stored.values()) else {}
    except (OSError, ValueError, AttributeError, LookupError, TypeError, RecursionError):
        return {}


def _digest(answers: Mapping[str, Answer]) -> str:
    return hashlib.sha256(json.dumps(answers, sort_keys=True).encode()).hexdigest()


@functools.cache
def _machine() -> str:
    """All that an answer depends on besides the question."""
    facts = (hardware(torch.device("cpu")), processor(), str(torch.__version__), __version__)
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]


measured = Choices()  # of this process
