"""The cache: what can be made again, in folders that belong to this user and that nobody else may write to.

$SEQLM_CACHE, or seqlm in the user's cache folder
    kernels/KEY/    compiled code
    KEY/            tokens, vocabularies and counts of a text
    unpacked/KEY/   members of an archive
    downloads/      files as they were published: each has a known SHA-256
    choices/        the engines that are the fastest on this machine

Code is run from here, so that who may write here may act as the user. Folders are made with the rights 0700, whatever
the umask is. One that another user owns (root too), or that a group or others may write to, is not used at all: a
folder seqlm-UID in the temporary folder takes its place, and a line says so. Files are opened without following links,
and must be the user's alone too. A cache serves one user; containers of that user may share it. Root in a container
that is given another user's folder is refused like anybody; in a user namespace the folder belongs to root.

An entry is a folder that was made aside, sealed with the digests of its files, and renamed: it is whole, or it is
made again. Its digests are checked once in a process: about 1 second per GB of tokens with one thread (SHA-256 with
SHA extensions), half of that with two. Nothing is ever changed in place, because other processes map these files.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import hashlib
import json
import os
import pwd
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from .errors import ConfigError
from .files import flush, writing

T = TypeVar("T")
MANIFEST = "MANIFEST.json"
LOCK = ".lock"
ASIDE = re.compile(r"\..*-[0-9a-f]{16}")
BLOCK = 1 << 24  # bytes: a digest is one of digests of blocks, so that several threads can make it
PATIENCE = 60.0  # seconds to wait for a lock: its holder was stopped if it is held for longer
# What `read` may raise where an entry is whole, but of another version of seqlm.
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, ConfigError)

_digests: dict[tuple[int, ...], str] = {}  # of the files of entries, as this process has read them
_warned: set[Path] = set()


def cache_folder() -> Path:
    """$SEQLM_CACHE, or seqlm in the user's cache folder; raises RuntimeError for a user without a home."""
    if os.environ.get("SEQLM_CACHE"):
        return Path(os.environ["SEQLM_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seqlm"


def private_folder(*names: str) -> Path:
    """A folder of the cache, made if need be, that nobody but this user may write to.

    Where it, or one above it in the cache, is another's or open to others, the result is a folder below the temporary
    folder, with one line of warning. Raises OSError if it cannot be made.
    """
    try:
        folder = cache_folder()
    except RuntimeError as error:
        return _below(_instead(Path("~"), str(error)), names)
    for above in (folder, *(folder.joinpath(*names[: depth + 1]) for depth in range(len(names)))):
        if problem := _make_private(above):
            return _below(_instead(above, problem), names)
    return folder.joinpath(*names)


def _below(folder: Path, names: tuple[str, ...]) -> Path:
    folder = folder.joinpath(*names)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # below a folder that is private
    return folder


def _make_private(folder: Path) -> str:
    """Make a folder if there is none; why it is not this user's alone, or an empty text."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    facts = folder.stat()
    owners = {facts.st_uid, folder.lstat().st_uid if folder.is_symlink() else facts.st_uid}
    if not stat.S_ISDIR(facts.st_mode):
        raise NotADirectoryError(20, os.strerror(20), str(folder))
    if others := owners - {os.geteuid()}:
        return f"belongs to {_user(others.pop())}"
    return "can be written to by other users" if facts.st_mode & 0o022 else ""


def _user(number: int) -> str:
    try:
        return f"the user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"the user with the number {number}"


def _instead(folder: Path, problem: str) -> Path:
    """The private folder that takes the place of the cache."""
    place = Path(tempfile.gettempdir()) / f"seqlm-{os.geteuid()}"
    try:
        with suppress(FileExistsError):
            place.mkdir(mode=0o700)
        facts = place.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
            place = _of_this_process()
    except OSError:
        place = _of_this_process()
    if folder not in _warned:
        _warned.add(folder)
        ours_by_mistake = problem.startswith("can be") and not folder.stat().st_mode & stat.S_ISVTX  # unlike /tmp
        advice = f"type chmod -R go-w {folder}, or " if ours_by_mistake else ""
        print(
            f"seqlm: warning: the cache {folder} {problem} and is not used; {place} takes its place: {advice}set "
            "SEQLM_CACHE to a folder of your own",
            file=sys.stderr,
            flush=True,
        )
    return place


@functools.cache
def _of_this_process() -> Path:
    """A folder with a name that nobody could foresee; it is removed with the process."""
    made, owner = Path(tempfile.mkdtemp(prefix="seqlm-")), os.getpid()

    def clear() -> None:
        if os.getpid() == owner:  # not in a process that was forked from it
            shutil.rmtree(made, ignore_errors=True)

    atexit.register(clear)
    return made


def open_private(path: Path) -> BinaryIO:
    """Open a file of the cache for reading. Raises OSError for a link, and for what is not this user's alone."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not is_private(os.fstat(descriptor)):
        os.close(descriptor)
        raise PermissionError(1, "not a file that only this user may write to", str(path))
    return os.fdopen(descriptor, "rb")


def is_private(facts: os.stat_result) -> bool:
    """Whether a file is a regular one that this user owns, and nobody else may write to."""
    return stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & 0o022


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
        for name, digest in listed.items():
            with open_private(folder / name) as handle:
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
    """Bring the files of an entry to the disk, and their digests beside them; only the user may read them."""
    digests = {}
    for path in sorted(aside.iterdir()):
        if path.name != LOCK:
            path.chmod(0o600)
            with open_private(path) as handle:
                digests[path.name] = digest_of(handle)
                os.fsync(handle.fileno())
    manifest = aside / MANIFEST
    manifest.write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
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
    with suppress(OSError):
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
