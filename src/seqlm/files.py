"""Files that are written whole or not at all, their digests. Imports no torch."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from .errors import NO_ROOM, ConfigError, NoRoom

MB = 1 << 20


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading its bytes. Raises ConfigError for a pipe or a device, which may never end; OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # to open a pipe would wait for its writer
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ConfigError(f"{path} is not a regular file; copy what it holds into one")
    return os.fdopen(descriptor, "rb")


def read_bounded(path: Path, limit: int) -> bytes:
    """All of a regular file. Raises ConfigError if it is larger than `limit` bytes, or no regular file; OSError."""
    with open_regular(path) as handle:
        data = handle.read(limit + 1)
    if len(data) > limit:
        raise ConfigError(f"{path} is larger than {limit / MB:,.0f} MB, which is all that is read of such a file")
    return data


def read_json(path: Path, limit: int = 16 * MB) -> Any:
    """The JSON in a regular file of at most `limit` bytes.

    Raises ConfigError if it is larger or no regular file; ValueError if it is damaged, or nested too deep; OSError.
    """
    data = read_bounded(path, limit)
    if data.count(b"[") + data.count(b"{") > 1 << 22:  # an empty list takes thirty times the memory of its brackets
        raise ValueError("more than 4 million lists and mappings")
    try:
        return json.loads(data.decode("utf-8", "surrogatepass"))
    except RecursionError:
        raise ValueError("nested too deep") from None


def beside(path: Path) -> Path:
    """A name beside `path` that no other process has, to write it under: process numbers are alike in containers."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def create(path: Path, mode: int = 0o666) -> BinaryIO:
    """Make a file that is not there and open it for writing; the umask takes from the rights `mode`. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, mode), "wb")


@contextmanager
def writing(path: Path, needed: int | None = None) -> Iterator[None]:
    """Raise NoRoom, with the path and the bytes that are needed, where a file system takes no more."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM or isinstance(error, NoRoom):
            raise
        raise NoRoom(error, path, needed) from error


@contextmanager
def replacing(path: Path, mode: int = 0o666, needed: int | None = None) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` once it is whole: a reader sees the old content or the new."""
    aside = beside(path)
    try:
        with writing(path, needed), create(aside, mode) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_atomically(path: Path, text: str, mode: int = 0o666) -> None:
    """Replace `path` by `text`: a reader sees the old content or the new, never a part."""
    data = text.encode()
    with replacing(path, mode, len(data)) as handle:
        handle.write(data)


def remove(path: Path) -> None:
    """Delete a folder with all that is in it, or whatever has its name, if it can be: to open a pipe would wait."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises ConfigError if it is no regular file; OSError."""
    with open_regular(path) as handle:
        digest = hashlib.sha256()
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def to_json(value: Any, indent: int | None = None, ascii: bool = True) -> str:
    """JSON that every reader takes: infinities and NaN, which JSON lacks, become null."""

    def plain(item: Any) -> Any:
        if isinstance(item, float) and not math.isfinite(item):
            return None
        if isinstance(item, dict):
            return {key: plain(inner) for key, inner in item.items()}
        return [plain(inner) for inner in item] if isinstance(item, (list, tuple)) else item

    return json.dumps(plain(value), indent=indent, allow_nan=False, ensure_ascii=ascii)


def free_path(path: Path) -> Path:
    """The path, or the first of <path>.2, <path>.3, ... that is not there."""
    others = (path.with_name(f"{path.name}.{number}") for number in itertools.count(2))
    return next(one for one in itertools.chain([path], others) if not one.exists())


def file_stem(text: str) -> str:
    """`text` as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("_") or "run"
