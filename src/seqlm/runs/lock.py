"""Locks that a process holds while it lives, and a look at them that takes nothing from anybody."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..files import open_regular

LOOKS, LOOK_SECONDS = 200, 0.01  # how often, and after how long, a lock that others look at is tried again


class Held(Exception):
    """Another process holds the lock; the text is what that one has written into its file."""


@contextmanager
def held(path: Path) -> Iterator[IO[bytes]]:
    """Hold a lock until the end, of the block or of the process. Raises Held, OSError.

    Who only looks whether it is held shares it for a moment, which is waited for.
    """
    with path.open("ab+", buffering=0) as handle:  # closing it writes nothing, which might fail
        for _ in range(LOOKS):
            if _locks(handle, fcntl.LOCK_EX):
                yield handle
                return
            if is_held(path):
                break
            time.sleep(LOOK_SECONDS)
        handle.seek(0)
        raise Held((handle.read(100) or b"").decode(errors="replace"))


def is_held(path: Path) -> bool:
    """Whether a process holds this lock. Nothing is written, and nobody is kept from holding it. Raises OSError.

    Raises ConfigError for a pipe in its place, which may never be opened.
    """
    try:
        with open_regular(path) as handle:
            return not _locks(handle, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _locks(handle: IO[Any], kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
