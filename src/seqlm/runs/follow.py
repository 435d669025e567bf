"""metrics.jsonl as it grows, read from any machine that sees the folder; nothing is locked. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..errors import ConfigError
from ..files import open_regular
from .folder import RunFolder, record_of


class News(NamedTuple):
    """Records that were not there at the last look, and the step that the run has gone back to before them, if so."""

    back_to: int | None
    records: Sequence[dict[str, Any]]


class Follower:
    """Reads what a run adds to its records. A resume or a rollback puts a shorter file in their place."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._file: tuple[int, int] | None = None  # which one was read: its number is another once it was replaced
        self._read = 0  # bytes of it
        self._lines: list[int] = []  # hashes of the lines that were told
        self._steps: list[int] = []  # and the steps of their records

    def news(self) -> News:
        """Records that have come since the last call; a line that is being written comes with the next."""
        try:
            with open_regular(self._run.metrics) as handle:
                file, size = _identity(handle.fileno())
                replaced = file != self._file or size < self._read
                handle.seek(0 if replaced else self._read)
                data = handle.read()
        except (OSError, ConfigError):  # not there yet
            return News(None, [])
        whole = data[: data.rfind(b"\n") + 1]
        self._read = (0 if replaced else self._read) + len(whole)
        self._file = file
        lines = whole.split(b"\n")[:-1]
        return self._replaced(lines) if replaced else News(None, self._told(lines))

    def _replaced(self, lines: Sequence[bytes]) -> News:
        """The news of another file: what it has in common with the one before was told already."""
        hashes = [hash(line) for line in lines]
        pairs = zip(hashes, self._lines, strict=False)
        same = next((place for place, (new, old) in enumerate(pairs) if new != old), min(len(hashes), len(self._lines)))
        back = same < len(self._lines)
        del self._lines[same:], self._steps[same:]
        step = (self._steps or [0])[-1] if back else None
        return News(step, self._told(lines[same:]))

    def _told(self, lines: Sequence[bytes]) -> list[dict[str, Any]]:
        found = []
        for line in lines:
            record = record_of(line)
            self._lines.append(hash(line))
            self._steps.append(record["step"] if record else (self._steps or [0])[-1])
            found += [record] if record else []
        return found


def _identity(descriptor: int) -> tuple[tuple[int, int], int]:
    """Which file is open, and its size."""
    status = os.fstat(descriptor)
    return (status.st_dev, status.st_ino), status.st_size
