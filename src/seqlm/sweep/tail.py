"""A sweep as its folder shows it: a line for each job, drawn again and again on a terminal. Imports no torch."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ..config.verb_schema import TailConfig
from ..errors import ConfigError
from ..runs.folder import RunFolder
from ..runs.table import share_of, table
from ..terminal import columns, is_terminal, rows
from ..training.console import clock
from .display import last_record, result
from .place import FAILURES, FINISHED, NEW, RUNNING, Place

LOOK_SECONDS = 2.0  # between two looks
SETTLED_SECONDS = 10.0  # without any job that runs: its launcher has no more of them
TITLES = ("job", "state", "step", "loss", "best valid", "eta")
Line = tuple[str, ...]


def watch_sweep(folder: Path, options: TailConfig) -> bool:
    """Show the jobs of a sweep until none runs any more, or once; returns whether one has failed."""
    watched, idle_since = WatchedSweep(folder), time.monotonic()
    while True:
        lines = watched.lines()
        watched.show(lines)
        if not lines or any(line[1] == RUNNING for line in lines):
            idle_since = time.monotonic()
        if not options.follow or time.monotonic() - idle_since >= SETTLED_SECONDS:
            return any(line[1] in FAILURES for line in lines)
        time.sleep(LOOK_SECONDS)


class WatchedSweep:
    """The jobs of a sweep that have begun; one that has no run yet is known by its digest alone."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._drawn = folder, 0
        self._told: dict[str, tuple[str, str]] = {}  # by job, where there is no terminal to draw on
        self._settled: dict[str, Line] = {}  # jobs that change no more

    def lines(self) -> list[Line]:
        """A line for each job, by name."""
        runs = {path.parent.name for path in self._folder.glob("[!.]*/run.json")}
        digests = {name.rpartition("-")[2] for name in runs}
        aside = (self._folder / ".sweep").glob("[!.]*.*")
        without_run = sorted({path.stem for path in aside} - digests)
        states = {digest: Place(self._folder, digest, digest).state() for digest in without_run}
        found = [self._line(name) for name in sorted(runs)]
        return found + [(digest, state, "", "", "", "") for digest, state in states.items() if state != NEW]

    def show(self, lines: list[Line]) -> None:
        """Draw all of them over what was drawn before; without a terminal print those that have changed."""
        if is_terminal(sys.stdout):
            room = max(1, rows(sys.stdout) - 3)
            running = [line for line in lines if line[1] == RUNNING]
            kept = lines if len(lines) <= room else [*running, *(line for line in lines if line[1] != RUNNING)][:room]
            text = [line[: columns(sys.stdout) - 1] for line in table([TITLES, *kept], 2).splitlines()]
            text += [f"and {len(lines) - len(kept)} more"] * (len(kept) < len(lines))
            up = f"\x1b[{self._drawn}F\x1b[J" * bool(self._drawn)
            sys.stdout.write(up + "\n".join(text) + "\n")
            sys.stdout.flush()
            self._drawn = len(text)
            return
        for line in lines:
            told = (line[1], line[4])  # its state and its best
            if self._told.get(line[0]) != told:
                self._told[line[0]] = told
                parts = [*line[:2], f"step {line[2]}" * bool(line[2]), f"loss {line[3]}" * bool(line[3])]
                parts += [f"valid {line[4]}" * bool(line[4]), f"eta {line[5]}" * bool(line[5])]
                print("  ".join(part for part in parts if part), flush=True)

    def _line(self, name: str) -> Line:
        if name in self._settled:
            return self._settled[name]
        place = Place(self._folder, name, name.rpartition("-")[2])
        state, record = place.state(), last_record(place.run)
        loss = record.get("train/loss")
        line = (
            name,
            state,
            f"{record['step']:,}" if record else "",
            f"{loss:.3f}" if isinstance(loss, float) else "",
            result(place.run),
            _left(place.run, record) if state == RUNNING else "",
        )
        if state == FINISHED:
            self._settled[name] = line
        return line


def _left(run: RunFolder, record: dict[str, float]) -> str:
    """The time that a run still takes, if it goes on as so far."""
    try:
        share = share_of(run, record)
    except ConfigError:
        return ""
    return clock(record.get("seconds", 0.0) * (1 - share) / share) if share else ""
