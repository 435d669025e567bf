"""Entries of the cache: folders that are whole, or are made again; and the locks of who makes them.

An entry is a folder that was made aside, sealed with the digests of its files, and renamed: it is whole, or it is
made again. Its digests are checked once in a process: about 1 CPU second per GB of tokens (SHA-256 with SHA
extensions). Nothing is ever changed in place, because other processes map these files.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from ..errors import ConfigError
from ..files import flush, remove, writing
from .private import open_private

T = TypeVar("T")
MANIFEST = "MANIFEST.json"
LOCK = ".lock"
ASIDE = re.compile(r"\..*-[0-9a-f]{16}")
BLOCK = 1 << 24  # bytes: a digest is one of digests of blocks, so that several threads can make it
PATIENCE = 60.0  # seconds to wait for a lock: its holder was stopped if it is held for longer
# What `read` may raise where an entry is whole, but of another version of seqlm.
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, ConfigError)

_digests: dict[tuple[int, ...], str] = {}  # of the files of entries, as this process has read them


@contextmanager
def locked(path: Path, patience: float | None = None, waiting: str = "") -> Iterator[bool]:
    """Hold a lock file; whether that could be had within a number of seconds, and on this file system at all.

    Released even by kill -9. `waiting` is said if another process holds it. Raises OSError.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        yield _held(descriptor, PATIENCE if patience is None else patience, waiting)
    finally:
        os.close(descriptor)


def _held(descriptor: int, patience: float, waiting: str = "") -> bool:
    end, pause = time.monotonic() + patience, 0.01
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if waiting:
                print(waiting, file=sys.stderr, flush=True)
                waiting = ""
            if time.monotonic() > end:
                return False
            time.sleep(pause)
            pause = min(2 * pause, 0.5)
        except OSError:  # a file system without locks
            return False


def entry(folder: Path, make: Callable[[Path], None], read: Callable[[Path], T]) -> T:
    """An entry of the cache as `read` returns it, made by `make` in a folder of its own if it is missing or damaged.

    Of two processes that make it at once, the second to finish throws its own away. Raises OSError, and what `make`
    raises.
    """
    damage, whole = _damage(folder), False
    if damage is None:
        try:
            return read(folder)
        except UNREADABLE as error:
            damage, whole = f"{type(error).__name__}: {error}", True
    if damage:
        print(f"seqlm: {folder} is damaged ({damage}); it is made again", file=sys.stderr, flush=True)
    with _aside(folder) as aside:
        with writing(folder):
            make(aside)
            _seal(aside)
        with locked(folder.parent / LOCK):
            if whole or _damage(folder) is not None:  # else another process has made it meanwhile
                _replace(folder, aside)
    return read(folder)


def is_whole(folder: Path) -> bool:
    """Whether there is an entry, and it is whole."""
    return _damage(folder) is None


def _damage(folder: Path) -> str | None:
    """The damage of an entry, None if it is whole; an empty text if there is none, or only one without a manifest."""
    try:
        facts = folder.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
            return "other users can write to it" if stat.S_ISDIR(facts.st_mode) else "it is not a folder"
        with open_private(folder / MANIFEST) as handle:
            listed = json.loads(handle.read(1 << 16))
        for name, (size, digest) in listed.items():
            with open_private(folder / name) as handle:
                if os.fstat(handle.fileno()).st_size != size:  # before all of it is read
                    return f"{name} is not as long as it was"
                if not _matches(handle, digest):
                    return f"{name} does not match its digest"
    except FileNotFoundError as error:
        gone = Path(error.filename)
        return "" if gone in (folder, folder / MANIFEST) else f"{gone.name} is gone"
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _matches(handle: BinaryIO, digest: object) -> bool:
    """Whether an open file has a digest; it is read once, and again if it changes."""
    facts = os.fstat(handle.fileno())
    identity = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    if identity not in _digests:
        _digests[identity] = digest_of(handle)
    return _digests[identity] == digest


def digest_of(handle: BinaryIO) -> str:
    """SHA-256, in hexadecimal, of the SHA-256 of each block of 16 MiB: several threads share the work."""
    descriptor, size = handle.fileno(), os.fstat(handle.fileno()).st_size

    def one(start: int) -> bytes:
        digest = hashlib.sha256()
        for place in range(start, min(start + BLOCK, size), 1 << 20):
            digest.update(os.pread(descriptor, 1 << 20, place))
        return digest.digest()

    starts = range(0, max(size, 1), BLOCK)
    if len(starts) == 1:
        return hashlib.sha256(one(0)).hexdigest()
    with ThreadPoolExecutor(min(4, len(starts), os.cpu_count() or 1)) as threads:
        return hashlib.sha256(b"".join(threads.map(one, starts))).hexdigest()


def _seal(aside: Path) -> None:
    """Bring the files of an entry to the disk, and sizes and digests beside them; only the user may read them."""
    listed = {}
    for path in sorted(aside.iterdir()):
        if path.name != LOCK:
            path.chmod(0o600)
            with open_private(path) as handle:
                listed[path.name] = (os.fstat(handle.fileno()).st_size, digest_of(handle))
                os.fsync(handle.fileno())
    manifest = aside / MANIFEST
    manifest.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    manifest.chmod(0o600)
    flush(manifest)
    flush(aside)


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A folder beside `target` to make it in, under a name of its own; it is locked, and cleared at the end.

    Those that no process holds any more are swept. All that happens under the lock of the folder above, so that none
    is seen before it is locked.
    """
    parent = target.parent
    aside = parent / f".{target.name}-{secrets.token_hex(8)}"
    with locked(parent / LOCK) as alone:
        if alone:
            _sweep(parent)
        aside.mkdir(mode=0o700)
        lock = os.open(aside / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        _held(lock, 0)
    try:
        yield aside
    finally:
        os.close(lock)
        shutil.rmtree(aside, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove what processes that were killed left aside: a lock shows that nobody makes it any more."""
    for aside in parent.glob(".*-*"):
        with suppress(OSError):
            if not (aside / LOCK).exists():  # of a version that knew no locks; or killed while it held the one we hold
                if not ASIDE.fullmatch(aside.name) and time.time() - aside.lstat().st_mtime < 86_400:
                    continue
                shutil.rmtree(aside)
                continue
            with locked(aside / LOCK, 0) as gone:
                if gone:
                    shutil.rmtree(aside)


def _replace(folder: Path, aside: Path) -> None:
    """Give what was made its name; what has the name now goes away as a whole."""
    (aside / LOCK).unlink()
    flush(aside)
    old = folder.with_name(f".{folder.name}-{secrets.token_hex(8)}")
    with suppress(FileNotFoundError):
        folder.rename(old)
    aside.rename(folder)
    flush(folder.parent)
    remove(old)
