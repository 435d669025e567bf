"""Locks that a process holds while it lives, on this machine or another, and a look at them that takes nothing.

flock decides between processes of one machine: the kernel frees it however its holder ends. Between machines it decides
where the file system hands it on (docs/sweeps.md). For those that do not, a holder also writes a lease into the file,
its process, host and a token, and touches it every BEAT_SECONDS: the lease of another host counts until it has not been
touched for LEASE_SECONDS. Both times are the file system's own, so the clocks of machines do not matter.
"""

from __future__ import annotations

import fcntl
import math
import os
import secrets
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..errors import ConfigError, SeqlmError
from ..files import beside, create, open_regular, writing

LOOKS, LOOK_SECONDS = 200, 0.01  # how often, and after how long, a lock that others look at is tried again
BEAT_SECONDS, LEASE_SECONDS = 10.0, 60.0
FREE = b"free "  # over the first bytes of a lease that was given back: its length stays, on a full disk, too
_clocks: dict[int, tuple[float, float]] = {}  # by file system: how far it is ahead of time.monotonic, and seen when


def hostname() -> str:
    """The name of this machine, by which its leases are known."""
    return socket.gethostname()


class Held(Exception):
    """Another process holds the lock; the text names it."""


class LeaseLost(SeqlmError):
    """Another machine has taken over what this process held, because it gave no sign of life."""


class Holder(NamedTuple):
    """Who has written into a lock file; without a token it was an older version, which knew no leases."""

    pid: str
    host: str
    token: str

    def __str__(self) -> str:
        return f"pid {self.pid}" + f" on {self.host}" * (self.host != hostname())


class Lease:
    """A lock that this process holds; `path` is where its file is, for who renames the folder."""

    def __init__(self, path: Path, handle: IO[bytes]) -> None:
        self.path, self._handle = path, handle
        self.holder = Holder(str(os.getpid()), hostname(), secrets.token_hex(8))
        self.lost = False

    def check(self) -> None:
        """Raise LeaseLost if another machine has taken the lock over, as it may when this process stood still."""
        if not self.lost:
            with suppress(OSError), open_regular(self.path) as fresh:  # opened again: a network may keep old content
                self.lost = (found := _holder(fresh)) is None or found.token != self.holder.token
        if self.lost:
            raise LeaseLost(
                f"{self.path.parent} was taken over by another machine while this process gave no sign of life for "
                f"{LEASE_SECONDS:.0f} s; nothing more of it is written here"
            )

    def write(self) -> None:
        """Put the lease into the file. Raises NoRoom."""
        text = " ".join(self.holder).encode() + b"\n"
        with writing(self.path):
            os.pwrite(self._handle.fileno(), text, 0)
            os.ftruncate(self._handle.fileno(), len(text))
            os.fsync(self._handle.fileno())

    def beat(self, ended: threading.Event) -> None:
        """Give a sign of life now and then, until the lock is given back or lost."""
        while not ended.wait(BEAT_SECONDS):
            try:
                self.check()
                os.utime(self._handle.fileno())  # to the time of the file system, which a network's server knows
            except LeaseLost:
                return
            except OSError:  # unreachable for now
                continue

    def give_back(self) -> None:
        """Free the lock for every machine at once."""
        with suppress(OSError, LeaseLost):
            self.check()
            os.pwrite(self._handle.fileno(), FREE, 0)


@contextmanager
def held(path: Path) -> Iterator[Lease]:
    """Hold a lock until the end, of the block or of the process. Raises Held, ConfigError, OSError.

    Who only looks whether it is held shares it for a moment, which is waited for.
    """
    with _opened(path) as handle:
        _lock(handle, path)
        lease, ended = Lease(path, handle), threading.Event()
        with _claimed(path):
            _check_others(handle, path)
            lease.write()
        beats = threading.Thread(target=lease.beat, args=(ended,), daemon=True)
        beats.start()
        try:
            yield lease
        finally:
            ended.set()
            beats.join()
            lease.give_back()


def is_held(path: Path) -> bool:
    """Whether a process holds this lock. Nobody is kept from holding it. Raises OSError.

    Raises ConfigError for a pipe in its place, which may never be opened.
    """
    try:
        with open_regular(path) as handle:
            return not _locks(handle, fcntl.LOCK_SH) or _seconds_left(handle, path) > 0
    except FileNotFoundError:
        return False


def knows_leases(path: Path) -> bool:
    """Whether the last holder wrote a lease: then `is_held` is right about other hosts, too. Raises as `is_held`."""
    try:
        with open_regular(path) as handle:
            text = handle.read(len(FREE))
            handle.seek(0)
            return text == FREE or bool((found := _holder(handle)) and found.token)
    except FileNotFoundError:
        return False


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC  # not into a file that a link in its place names
    descriptor = os.open(path, flags, 0o666)
    with os.fdopen(descriptor, "rb+", buffering=0) as handle:  # closing it writes nothing, which might fail
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ConfigError(f"{path} is not a regular file; delete it")
        yield handle


def _lock(handle: IO[bytes], path: Path) -> None:
    """Lock the file against processes of this machine, or raise Held."""
    for _ in range(LOOKS):
        if _locks(handle, fcntl.LOCK_EX):
            return
        with open_regular(path) as other:
            if not _locks(other, fcntl.LOCK_SH):  # it is not a look
                break
        time.sleep(LOOK_SECONDS)
    raise Held(str(_holder(handle) or "pid unknown"))


def _check_others(handle: IO[bytes], path: Path) -> None:
    """Raise Held if the lease of another host counts; say whose lease it is that does not any more."""
    other, left = _holder(handle), _seconds_left(handle, path)
    if left > 0:
        raise Held(f"{other}; if that machine is gone, its lease ends in {math.ceil(left)} s")
    if other is not None and other.token and other.host != hostname():
        print(f"note: {path.parent} is taken over from {other}, which gives no sign of life", file=sys.stderr)


def _seconds_left(handle: IO[bytes], path: Path) -> float:
    """How long the lease in the file counts, if another host has written it; 0 for any other."""
    other = _holder(handle)
    if other is None or not other.token or other.host == hostname():
        return 0.0
    found, now = os.fstat(handle.fileno()), time.monotonic()
    ahead, seen = _clocks.get(found.st_dev, (0.0, -math.inf))
    if now - seen > LEASE_SECONDS:  # one look at the clock for a thousand locks
        ahead = _time_there(path) - now
        _clocks[found.st_dev] = ahead, now
    return found.st_mtime + LEASE_SECONDS - (now + ahead)


def _time_there(path: Path) -> float:
    """The time of the file system that a file is on; where nothing may be written, that of this machine."""
    probe = beside(path)
    try:
        with create(probe) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink()


@contextmanager
def _claimed(path: Path) -> Iterator[None]:
    """Let one machine at a time read the lease and write its own: making a file is atomic on every file system."""
    claim = path.with_name(f"{path.name}.claim")
    for _ in range(LOOKS):  # one that stays was left by a process that was killed right here
        with suppress(FileExistsError), writing(path):
            create(claim).close()
            break
        time.sleep(LOOK_SECONDS)
    try:
        yield
    finally:
        with suppress(OSError):
            claim.unlink()


def _holder(handle: IO[bytes]) -> Holder | None:
    """Who has written into a lock file, if it was not given back."""
    handle.seek(0)
    parts = handle.read(500).decode(errors="replace").split()
    if not parts or not parts[0].isdigit() or len(parts) not in (1, 3):
        return None
    return Holder(*parts) if len(parts) == 3 else Holder(parts[0], hostname(), "")


def _locks(handle: IO[Any], kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
