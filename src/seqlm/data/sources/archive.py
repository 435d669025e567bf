"""Untrusted archives: only regular files are unpacked, only those asked for, and only so many bytes."""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, cast

from ...errors import ConfigError, describe
from ...files import beside, create, flush, open_regular, writing

MOST = 2 << 30  # bytes that all members together may declare
MOST_MEMBERS = 100_000
LONGEST_NAME = 1000
MOST_LISTED = 256 << 20  # bytes of headers that are read to know what there is: a name alone may declare gigabytes
MOST_AT_ONCE = 16 << 20  # of these; the directory of a zip file is read in one piece
BLOCK = 1 << 20
OPENERS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}  # by the first bytes of a file
# What zipfile and tarfile raise for archives that are damaged, encrypted, or packed in unknown ways.
DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, LookupError, RuntimeError, ValueError,
    OSError,
)  # fmt: skip


class _Member(NamedTuple):
    """A regular file in an archive."""

    size: int
    open: Callable[[], IO[bytes]]


class _Listed:
    """A file whose headers are being read: gives out so many bytes, and not too many at once."""

    def __init__(self, file: Any) -> None:
        self.file, self.left = file, MOST_LISTED
        self.seekable, self.tell, self.seek = file.seekable, file.tell, file.seek
        self.listing = True

    def read(self, size: int = -1) -> bytes:
        if not self.listing:
            return cast("bytes", self.file.read(size))
        data: bytes = self.file.read(size if 0 <= size <= MOST_AT_ONCE else MOST_AT_ONCE + 1)
        self.left -= len(data)
        if len(data) > MOST_AT_ONCE or self.left < 0:
            most = MOST_LISTED if self.left < 0 else MOST_AT_ONCE
            raise _Refused(f"is refused: its names and headers take more than {most >> 20} MB")
        return data


@contextmanager
def _opened(path: Path) -> Iterator[tuple[zipfile.ZipFile | tarfile.TarFile, _Listed]]:
    """An archive, and the file that it reads. Raises _Refused, one of DAMAGED, or ConfigError."""
    with ExitStack() as held:
        file = held.enter_context(open_regular(path))
        if zipfile.is_zipfile(file):
            file.seek(0)
            listed = _Listed(file)
            yield held.enter_context(zipfile.ZipFile(cast("IO[bytes]", listed))), listed
            return
        file.seek(0)
        start = file.read(6)
        file.seek(0)
        opener = next((opener for magic, opener in OPENERS.items() if start.startswith(magic)), None)
        listed = _Listed(held.enter_context(opener(file)) if opener else file)
        yield held.enter_context(tarfile.TarFile(fileobj=cast("IO[bytes]", listed))), listed


def is_archive(path: Path) -> bool:
    """Whether `path` is a zip or a tar file, compressed or not, by its content."""
    try:
        with _opened(path):
            return True
    except _Refused:
        return True  # which `unpack` will tell
    except DAMAGED:
        return False


def check_size(archive: Path) -> None:
    """Raise ConfigError for an archive that is larger than all that is unpacked of one, before it is read."""
    if (size := archive.stat().st_size) > MOST + MOST_LISTED:
        raise ConfigError(f"{archive} is refused: it has {size >> 20:,} MB, and {MOST >> 20:,} MB of one are unpacked")


def unpack(archive: Path, choices: Sequence[Sequence[str]], folder: Path) -> list[Path]:
    """For each choice of file names in `choices` the first that `archive` has, in any folder, written into `folder`.

    Raises ConfigError, and leaves no new file, if one of them is missing or twice there, if the archive is damaged,
    declares more than 2 GiB, 100,000 members or names of 1,000 characters, or has a member that is a link, a device, or
    lies outside the archive (`/x`, `../x`).
    """
    try:
        with _opened(archive) as (opened, listed):
            members = _zip_members(opened) if isinstance(opened, zipfile.ZipFile) else _tar_members(opened, listed)
            listed.listing = False
            chosen = [_choose(members, names) for names in choices]
            folder.mkdir(parents=True, exist_ok=True)
            asides = [beside(folder / name) for name, _ in chosen]
            try:
                for (_, member), aside in zip(chosen, asides, strict=True):
                    _write(member, aside)
                for (name, _), aside in zip(chosen, asides, strict=True):
                    aside.replace(folder / name)
            finally:
                for aside in asides:
                    aside.unlink(missing_ok=True)
    except _Refused as error:
        raise ConfigError(f"{archive} {error}; give data.path= with the unpacked files, or another archive") from None
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno:  # of the system, not of the format
            raise ConfigError(
                f"{archive} cannot be unpacked into {folder} ({describe(error)}); SEQLM_CACHE names another folder"
            ) from error
        raise ConfigError(
            f"{archive} cannot be unpacked ({type(error).__name__}: {error}); remove it to download it again, or give "
            "data.path= with the unpacked files"
        ) from error
    return [folder / name for name, _ in chosen]


class _Refused(Exception):
    """An archive that is not safe to unpack; the message says why."""


def _zip_members(archive: zipfile.ZipFile) -> dict[str, list[_Member]]:
    members: dict[str, list[_Member]] = {}
    total = 0
    for count, info in enumerate(archive.infolist()):
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not made on Unix
        total = _check(info.filename, info.file_size, kind in (0, stat.S_IFREG, stat.S_IFDIR), total, count)
        if not info.is_dir():
            # An archive that declares less than a member holds fails at its checksum: zipfile reads no further.
            member = _Member(info.file_size, partial(archive.open, info))
            members.setdefault(PurePosixPath(info.filename).name, []).append(member)
    return members


def _tar_members(archive: tarfile.TarFile, listed: _Listed) -> dict[str, list[_Member]]:
    members: dict[str, list[_Member]] = {}
    total = 0
    for count, info in enumerate(archive):
        total = _check(info.name, info.size, info.isreg() or info.isdir(), total, count)
        if info.isreg():
            member = _Member(info.size, partial(_open, archive, info))
            members.setdefault(PurePosixPath(info.name).name, []).append(member)
    listed.listing = False
    rest = 0  # its checksum stands at the end of a compressed stream: nobody looks unless we read that far
    while block := listed.read(BLOCK):
        rest += len(block)
        _check("", rest, True, total)
    return members


def _open(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    return cast("IO[bytes]", archive.extractfile(info))  # None for what is no regular file only


def _check(name: str, size: int, plain: bool, total: int, count: int = 0) -> int:
    """The bytes declared so far, with those of one more member; raises _Refused if it has no place in an archive."""
    if count >= MOST_MEMBERS:
        raise _Refused(f"is refused: it has more than {MOST_MEMBERS:,} members")
    if len(name) > LONGEST_NAME:
        raise _Refused(f"is refused: the name {name[:40]!r}... has more than {LONGEST_NAME:,} characters")
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or name[1:2] == ":":
        raise _Refused(f"is refused: its member {name!r} lies outside of it")
    if not plain:
        raise _Refused(f"is refused: its member {name!r} is a link or a device, not a file")
    if total + size > MOST:
        raise _Refused(f"is refused: it would unpack to more than {MOST:,} bytes")
    return total + size


def _choose(members: dict[str, list[_Member]], names: Sequence[str]) -> tuple[str, _Member]:
    for name in names:
        if len(members.get(name, ())) > 1:
            raise _Refused(f"has {len(members[name])} files of the name {name}")
        if name in members:
            return name, members[name][0]
    raise _Refused(f"has no {' and no '.join(names)} in it")


def _write(member: _Member, target: Path) -> None:
    """Copy a member, at most the bytes it declares."""
    left = member.size
    with writing(target, member.size), member.open() as source, create(target) as out:
        while block := source.read(BLOCK):
            left -= len(block)
            if left < 0:
                raise _Refused(f"is refused: a member holds more than the {member.size:,} bytes it declares")
            out.write(block)
    if left:
        raise _Refused(f"is cut short: {left:,} bytes of a member are missing")
    flush(target)
