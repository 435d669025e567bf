"""Errors that a user can cause, and the exit code of each."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .terminal import paint

MOST_LINES = 6  # of a list of mistakes


class SeqlmError(Exception):
    """A failure the user should read as a few lines, never as a traceback."""

    exit_code = 1


class ConfigError(SeqlmError):
    """Something the user typed or gave cannot be used: key, value, file or folder."""

    exit_code = 2


def several(problems: Sequence[str]) -> ConfigError:
    """The error for one or more mistakes, a line each: the first ones, and how many there are beside them."""
    lines = list(dict.fromkeys("\n".join(problems).splitlines()))
    kept = lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 1], f"and {len(lines) - MOST_LINES + 1} more"]
    return ConfigError("\n".join(kept))


class RunExists(ConfigError):
    """A new run was given the name of one that is there."""


class NonFiniteError(SeqlmError):
    """A loss, a gradient or a weight is NaN or infinite; nothing is saved, averaged or evaluated with it."""

    exit_code = 3


class CallbackError(SeqlmError):
    """A callback of the user's own failed; checkpoints of the run are whole."""


class OutOfMemory(SeqlmError):
    """More memory was asked for than there is."""


class Stopped(SeqlmError):
    """A signal ended the work; everything is saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class RankFailed(SeqlmError):
    """Another process of this training has failed, was killed or is stopped."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


NO_ROOM = {  # errors of a file system that takes no more
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of this user is used up",
    errno.EFBIG: "a file may not be that large here",
    errno.EROFS: "the file system is read-only",
}


class NoRoom(OSError):
    """A file could not be written because its file system takes no more."""

    def __init__(self, error: OSError, path: Path, needed: int | None) -> None:
        super().__init__(error.errno, error.strerror, str(path))
        self.needed = needed

    def __str__(self) -> str:
        return describe(self)


def describe(error: Exception) -> str:
    """An error of the system in words: the path, and where its disk is full the bytes that are needed and free."""
    if not isinstance(error, OSError):
        return str(error)
    path, cause = error.filename, NO_ROOM.get(error.errno or 0)
    if cause is None:
        return f"{path}: {error.strerror}" if path and error.strerror else str(error)
    if path is None:
        return f"a file, or the output, could not be written: {cause}"
    if error.errno != errno.EROFS:
        folder = next((one for one in Path(path).absolute().parents if one.is_dir()), Path("/"))
        needed = getattr(error, "needed", None)
        needs = f"{needed:,} bytes are needed, " if needed else ""
        cause += f" ({needs}{shutil.disk_usage(folder).free:,} bytes are free)"
    return f"{path} could not be written: {cause}"


def describe_failure(error: Exception) -> str:
    """The first line of an error, as a record keeps it; with its kind, if users are not meant to read it."""
    told = describe(error) if isinstance(error, (SeqlmError, OSError)) else f"{type(error).__name__}: {error}"
    return (told.splitlines() or [""])[0]


def print_error(error: SeqlmError | OSError) -> int:
    """Print an error for the user; returns the exit code that belongs to it."""
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # it was typed
        error = ConfigError(f"{str(error.filename)[:40]}... is too long for the name of a file")
    said = describe(error) if isinstance(error, OSError) else error
    print(f"{paint('seqlm:', 'red', sys.stderr)} {said}", file=sys.stderr, flush=True)
    if isinstance(error, OSError) and error.errno in NO_ROOM and error.filename is None:
        silence_output()  # it would fail once more when the process ends
    return error.exit_code if isinstance(error, SeqlmError) else 1  # OSError: a full disk, a folder without permission


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: Python's, that of torch on the CPU, or that of a GPU."""
    # A thread that cannot start has no room for its stack.
    words = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "can't start new thread")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )


@contextmanager
def memory_advice(advice: Callable[[], str]) -> Iterator[None]:
    """Turn an allocation that fails into OutOfMemory: how much was asked for, and the lines of `advice`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        found = re.search(r"allocate (\d+) bytes|allocate ([\d.]+ [KMG]iB)", str(error))
        asked = f": {found[2] or f'{int(found[1]) / 1e9:,.3g} GB'} more were asked for" if found else ""
        raise OutOfMemory(f"out of memory{asked}\n{advice()}") from None


def install_hint(extra: str) -> str:
    """The command that installs what an extra adds, for a seqlm that runs from a checkout too (`pip install -e`)."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "pyproject.toml").is_file():
        return f"pip install 'seqlm[{extra}]'"
    place = "." if checkout == Path.cwd() else str(checkout)
    return f"pip install -e {shlex.quote(f'{place}[{extra}]')}"


def upgrade_hint(*packages: str) -> str:
    """The command that installs packages, or newer versions of them."""
    return f"pip install -U {' '.join(packages)}"


def broken_pipe() -> int:
    """Exit code for when nobody reads our output any more, as in `seqlm runs | head`; silences the rest of it."""
    silence_output()
    return 141


def silence_output() -> None:
    """Let what is still to be printed on standard output go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
