"""The terminal while a sweep runs: a line for each job, and one bar for all; plain lines where there is no terminal."""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from typing import Any

from tqdm import tqdm

from ..errors import ConfigError
from ..files import open_regular
from ..runs.folder import RunFolder
from ..runs.table import DAMAGED, share_done, summarize
from ..terminal import columns
from ..training.console import clock
from .place import DIVERGED, ENDED, FAILED
from .plan import Job, Plan

BAR = "{percentage:3.0f}% |{bar}| {desc} [{elapsed}<{remaining}]"
QUIET_SECONDS = 60.0  # between two plain lines about the whole


class Display:
    """How a sweep goes; `done` jobs of the plan were settled before. A context manager, which clears the bars."""

    def __init__(self, plan: Plan, done: int, slots: int) -> None:
        self._plan, self._done, self._before = plan, done, done
        self._fractions: dict[int, float] = {}  # by slot
        self._started, self._quiet_until = time.monotonic(), time.monotonic() + QUIET_SECONDS
        self._told_waiting = False
        self._lines: list[Any] = []
        self._bar: Any = None
        if sys.stdout.isatty():
            bar: Any = partial(tqdm, file=sys.stdout, leave=False)
            self._lines = [bar(total=0, position=slot, bar_format="{desc}") for slot in range(slots)]
            self._bar = bar(total=plan.count, initial=done, position=slots, bar_format=BAR, dynamic_ncols=True)

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *error: object) -> None:
        for bar in [*self._lines, *([self._bar] if self._bar is not None else [])]:
            bar.close()

    def write(self, text: str) -> None:
        """Print, without tearing the bars."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
        else:
            print(text, flush=True)

    def started(self, slot: int, job: Job) -> None:
        self._fractions[slot] = 0.0
        if self._bar is None:
            self.write(self._plan.title(job))
        else:
            self._show(slot, self._plan.title(job))

    def progress(self, slot: int, job: Job, seconds: float) -> None:
        """How far a running job has come, as its metrics.jsonl says."""
        record = last_record(job.place.run)
        limits = job.config.train.limits
        self._fractions[slot] = share_done(limits, record)
        if self._lines:
            loss = record.get("train/loss")
            parts = [f"step {record['step']:,}" + f"/{limits['steps']:,.0f}" * ("steps" in limits)] if record else []
            parts += [f"loss {loss:.3f}"] if isinstance(loss, float) else []
            self._show(slot, "  ".join([self._plan.title(job), *parts, clock(seconds)]))

    def ended(self, slot: int | None, job: Job, state: str, seconds: float, problem: str | None = None) -> None:
        """Say how a job came out; without a slot it ran elsewhere."""
        self.dropped(slot)
        self._done += 1
        lines = (problem or "").splitlines()
        if lines:
            told = [f"{DIVERGED if state == DIVERGED else FAILED}: {lines[0]}"]
        else:
            told = [state, *([f"valid {result(job.place.run)}"] if state in ENDED else [])]
        told += ["by another launcher"] if slot is None else [clock(seconds)]
        self.write("  ".join([self._plan.title(job), *told]))

    def settled(self, text: str) -> None:
        """Say how a job came out that nothing has to be run for."""
        self._done += 1
        self.write(text)

    def dropped(self, slot: int | None) -> None:
        """Show nothing for a slot any more."""
        if slot is not None:
            self._fractions.pop(slot, None)
            self._show(slot, "")

    def waiting(self, left: int, running: bool) -> None:
        """Say, once, that all that is left runs elsewhere."""
        if left and not running and not self._told_waiting:
            self._told_waiting = True
            self.write(f"waiting for what another launcher runs, jobs: {left}; Ctrl-C leaves them alone")

    def stopping(self, running: int, left: int) -> None:
        self.write(f"stopping at a checkpoint: {running} running, {left} not started; again: do not wait for them")

    def refresh(self) -> None:
        """Draw the bar, or now and then print a line about the whole."""
        come = self._done + sum(self._fractions.values())
        told = f"{self._done}/{self._plan.count} jobs, {len(self._fractions)} running"
        if self._bar is not None:
            self._bar.n = come
            self._bar.set_description_str(told, refresh=False)
            self._bar.refresh()
        elif time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + QUIET_SECONDS
            now = come - self._before
            left = (self._plan.count - come) * (time.monotonic() - self._started) / now if now > 0 else None
            self.write(told + (f", about {clock(left)} left" if left is not None else ""))

    def _show(self, slot: int, text: str) -> None:
        if self._lines:
            self._lines[slot].set_description_str(text[: columns(sys.stdout) - 1])


def last_record(run: RunFolder) -> dict[str, Any]:
    """The last line of metrics.jsonl with losses of training; empty if there is none yet."""
    try:
        with open_regular(run.metrics) as handle:
            handle.seek(max(0, handle.seek(0, 2) - 4096))
            lines = handle.read().split(b"\n")
    except (OSError, ConfigError):
        return {}
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and "train/loss" in record and isinstance(record.get("step"), int):
            return record
    return {}


def result(run: RunFolder) -> str:
    """The best value of the monitored metric, as `ppl 93.1`; empty before the first evaluation."""
    try:
        found = summarize(run)
    except DAMAGED:
        return ""
    value = found.valid.get(found.shown)
    return "" if value is None else f"{found.shown} {found.metrics[found.shown].text(value)}"
