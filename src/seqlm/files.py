"""Files that are written whole or not at all, their digests, and the cache folder. Imports no torch."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO

from .errors import ConfigError

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


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text`: a reader sees the old content or the new, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as handle:
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


def cache_folder() -> Path:
    """$SEQLM_CACHE, or seqlm in the user's cache folder; raises RuntimeError for a user without a home."""
    if os.environ.get("SEQLM_CACHE"):
        return Path(os.environ["SEQLM_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seqlm"
