"""Folders and files that belong to this user, and that nobody else may write to.

Code is run from here, so that who may write here may act as the user. Folders are made with the rights 0700, whatever
the umask is. One that another user owns (root too), or that a group or others may write to, is not used at all: a
folder seqlm-UID in the temporary folder takes its place, and a line says so. Files are opened without following links,
and must be the user's alone too. A cache serves one user; containers of that user may share it. Root in a container
that is given another user's folder is refused like anybody; in a user namespace the folder belongs to root.
"""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import shutil
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

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
