"""Text files, read in one way by every source and verb: encoding, byte order mark, line ends, and bounds."""

from __future__ import annotations

import codecs
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TypeAlias

from ..errors import ConfigError
from ..files import MB, open_regular

Newlines: TypeAlias = Literal["universal", "keep"]
BLOCK = 1 << 20  # bytes held at once while reading
HEAD = 1 << 16  # bytes that are looked at to tell what a file is
LONGEST_LINE = 16 * MB  # characters, where a text is read line by line
LARGEST_FILE = 4096 * MB  # bytes of a file whose lines are examples, which are held in memory
# Byte order marks, which are no part of the text; the longer ones first, for they begin with shorter ones.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
    b"\x84\x31\x95\x33": "gb18030",
}
# Beginnings of files that hold no text, though the first bytes of some might be one.
SIGNATURES = {
    b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z",
    b"%PDF-": "PDF", b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"\x93NUMPY": "NumPy", b"\xd0\xcf\x11\xe0": "Office",
}  # fmt: skip
ENCODINGS = "cp1252, latin-1, gb18030, shift_jis, ..."


class Segment(NamedTuple):
    """Bytes `start` to `end` of a file."""

    path: Path
    start: int
    end: int


def whole_file(path: Path, key: str) -> Segment:
    """The segment of all of `path`; raises ConfigError, naming `key`, if it is missing or empty."""
    if not path.is_file():
        raise ConfigError(f"{key}={path} does not exist or is not a file")
    size = path.stat().st_size
    if size == 0:
        raise ConfigError(f"{key}={path} is empty")
    return Segment(path, 0, size)


def split_blanks(line: str) -> list[str]:
    """The words of a line of tagged text: spaces and tabs stand between them, any other space is part of a word."""
    line = line.strip(" \t")
    return re.split(r"[ \t]+", line) if line else []


class TextReader:
    """Decodes text files, and remembers what in them was not plain UTF-8 with line feeds, for the header of a run.

    Args:
        encoding: auto: what the byte order mark says, else UTF-8, and a NUL is no text; or any encoding that Python
            knows, read to the letter. None: UTF-8, as runs before version 0.2 were read.
        newlines: universal: a carriage return, alone or before a line feed, is a line end, and becomes a line feed;
            keep: it is a character as any other. None: keep, as runs before version 0.2 were read.
    """

    def __init__(self, encoding: str | None = "auto", newlines: Newlines | None = "universal") -> None:
        if encoding not in (None, "auto") and not _is_encoding(encoding):
            raise ValueError(f"encoding={encoding} is no text encoding that Python knows; allowed: auto, {ENCODINGS}")
        self._encoding = encoding or "utf-8"
        self.universal = newlines == "universal"
        self._seen: dict[str, dict[str, None]] = {}  # remark -> names of files

    def blocks(self, segment: Segment, errors: str = "strict") -> Iterator[str]:
        """The text of a segment in blocks cut anywhere. Raises ConfigError for what is no text in its encoding."""
        with open_text(segment.path) as handle:
            yield from self.decode(handle, str(segment.path), segment.start, segment.end, errors)

    def lines(self, path: Path) -> Iterator[str]:
        """The lines of a file without their ends. Raises ConfigError for one that is no text, or too long."""
        with open_text(path) as handle:
            if os.fstat(handle.fileno()).st_size > LARGEST_FILE:
                raise ConfigError(f"{path} is larger than {LARGEST_FILE / MB:,.0f} MB; split it into several files")
            yield from split_lines(self.decode(handle, str(path)), str(path))

    def content(self, path: Path) -> list[str]:
        """The lines of a file but for empty ones at its end. Raises ConfigError if they are all blank."""
        lines = list(self.lines(path))
        while lines and not lines[-1]:
            lines.pop()
        if not any(line.strip() for line in lines):
            raise ConfigError(f"{path} is empty")
        return lines

    def numbered(self, path: Path) -> Iterator[tuple[int, str]]:
        """The lines of a file that are not blank, with their numbers. Raises ConfigError if there are none."""
        return numbered(self.lines(path), str(path))

    def objects(self, path: Path) -> Iterator[tuple[int, Any]]:
        """The JSON in each line that is not blank, with its number. Raises ConfigError with file and line."""
        for number, line in self.numbered(path):
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{path}, line {number}: not JSON ({error})") from None

    def note(self) -> str:
        """One line about files read so far that were not plain; empty if all were."""
        return "; ".join(f"{_some(list(names))}: {remark}" for remark, names in self._seen.items())

    def codec(self, path: Path) -> tuple[str, int]:
        """The encoding of a file, and the bytes of its mark. Raises ConfigError if it holds no text."""
        with open_text(path) as handle:
            return self._codec(handle.read(HEAD), str(path))

    def is_binary(self, path: Path) -> bool:
        """Whether a file is evidently no text, in whatever encoding."""
        with open_text(path) as handle:
            head = handle.read(HEAD)
        if head.startswith(tuple(MARKS)):
            return False
        wide = self._encoding.lower().startswith(("utf-16", "utf-32", "utf_16", "utf_32", "utf16", "utf32"))
        return head.startswith(tuple(SIGNATURES)) or (b"\0" in head and not wide and not _wide(head))

    def decode(
        self, handle: BinaryIO, name: str, start: int = 0, end: int | None = None, errors: str = "strict"
    ) -> Iterator[str]:
        """The text of an open file, from byte `start` to `end`, in blocks cut anywhere, as soon as they are there.

        Args:
            handle: at its beginning; a pipe if `start` is 0
            name: of the file, for messages
            errors: as of bytes.decode
        """
        head = _read_head(handle)
        codec, mark = self._codec(head, name)
        start = max(start, mark)
        if start > len(head):
            handle.seek(start)
        head = head[start:]
        decoder = codecs.getincrementaldecoder(codec)(errors)
        lines = io.IncrementalNewlineDecoder(None, translate=True) if self.universal else None
        place, ended = start, False
        while not ended:
            left = BLOCK if end is None else min(BLOCK, end - place)
            chunk, head = (head or _read_some(handle, left))[:left], head[left:]
            place += len(chunk)
            ended = not chunk or place == end  # no chunk: the end of the file, or it became shorter
            try:
                text = decoder.decode(chunk, ended)
            except UnicodeDecodeError as error:
                raise self._refusal(name, codec, error, place) from None
            except UnicodeError as error:  # of codecs of Python's own, as idna
                raise ConfigError(f"{name} is not {codec} ({error})") from None
            if self._encoding == "auto" and "\0" in text:
                raise ConfigError(
                    f"{name} holds NUL bytes, as no text does; to read it all the same: data.encoding={codec}"
                )
            text = lines.decode(text, ended) if lines else text
            if text:
                yield text
        if lines and set(lines.newlines or ()) & {"\r", "\r\n"}:
            self.remark("carriage returns are read as line ends (data.newlines=keep leaves them)", name)

    def _codec(self, head: bytes, name: str) -> tuple[str, int]:
        """The encoding of a file that begins with `head`, and the bytes of its mark."""
        mark = next((mark for mark in MARKS if head.startswith(mark)), b"")
        marked = MARKS.get(mark, "")
        if self._encoding != "auto":
            given = codecs.lookup(self._encoding).name.removesuffix("-sig")
            if not marked:
                return given + "-le" * (given in ("utf-16", "utf-32")), 0
            if marked.startswith(given):  # of utf-16 the mark knows the order of bytes
                return marked, len(mark)
            raise ConfigError(
                f"{name} begins with the mark of {marked}, but data.encoding={self._encoding}; use data.encoding=auto"
            )
        if marked:
            if marked != "utf-8":
                self.remark(f"read as {marked}, as its mark says", name)
            return marked, len(mark)
        for signature, kind in SIGNATURES.items():
            if head.startswith(signature):
                raise ConfigError(f"{name} is a {kind} file, not a text; unpack or convert it")
        if b"\0" in head:
            wide = _wide(head)
            looks = f"it looks like UTF-{wide[4:6]}: " if wide else "to read it all the same: "
            raise ConfigError(f"{name} holds NUL bytes, as no UTF-8 text does; {looks}data.encoding={wide or 'utf-8'}")
        return "utf-8", 0

    def _refusal(self, name: str, codec: str, error: UnicodeDecodeError, place: int) -> ConfigError:
        """The error for bytes that are not in the encoding, in what ends at byte `place` of the file."""
        offset = place - len(error.object) + error.start
        line = ""
        if Path(name).is_file() and not codec.startswith(("utf-16", "utf-32")):
            with open_text(Path(name)) as handle:
                before = sum(piece.count(b"\n") for piece in _pieces(handle, offset))
            line = f", line {before + 1:,}"
        title = "UTF-8" if codec == "utf-8" else codec
        return ConfigError(
            f"{name}{line}: byte 0x{error.object[error.start]:02x} is not {title} ({error.reason}, at byte {offset:,})"
            f"; data.encoding= says how it is written ({ENCODINGS})"
        )

    def remark(self, remark: str, name: str) -> None:
        """Keep a remark on a file for `note`."""
        self._seen.setdefault(remark, {})[Path(name).name] = None


def numbered(lines: Iterable[str], name: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers. Raises ConfigError if there are none."""
    found = False
    for number, line in enumerate(lines, start=1):
        if line.strip():
            found = True
            yield number, line
    if not found:
        raise ConfigError(f"{name} is empty")


def split_lines(blocks: Iterable[str], name: str, end: str = "") -> Iterator[str]:
    """The lines of a text that arrives in blocks; only a line feed ends one, in place of which `end` stands.

    Raises ConfigError if one is too long.
    """
    pieces: list[str] = []
    number, length = 1, 0
    for block in blocks:
        first, *others = block.split("\n")
        pieces.append(first)
        length += len(first)
        if length > LONGEST_LINE:
            raise ConfigError(
                f"{name}, line {number:,}: longer than {LONGEST_LINE:,} characters, which is all that is read of a line"
            )
        if others:
            yield "".join(pieces) + end
            yield from (other + end for other in others[:-1])
            pieces, length, number = [others[-1]], len(others[-1]), number + len(others)
    if length:
        yield "".join(pieces)


@contextmanager
def open_text(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading. Raises ConfigError if it cannot be read."""
    try:
        handle = open_regular(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
    with handle:
        yield handle


def _read_some(handle: BinaryIO, size: int) -> bytes:
    """At most `size` bytes: of a pipe those that are there, so that whoever writes may wait for an answer."""
    return handle.read1(size) if isinstance(handle, io.BufferedReader) else handle.read(size)


def _read_head(handle: BinaryIO) -> bytes:
    """The first bytes of a file: enough for a mark, if there are as many."""
    head = b""
    while len(head) < 4 and (more := _read_some(handle, HEAD)):
        head += more
    return head


def _pieces(handle: BinaryIO, size: int) -> Iterator[bytes]:
    """The first `size` bytes of a file, in blocks."""
    while size > 0 and (piece := handle.read(min(BLOCK, size))):
        size -= len(piece)
        yield piece


def _is_encoding(name: str) -> bool:
    """Whether Python decodes text in this encoding, block by block."""
    try:
        info = codecs.lookup(name)
        return info.incrementaldecoder is not None and "a\n".encode(name).decode(name) == "a\n"
    except (LookupError, UnicodeError, ValueError):
        return False


def _wide(head: bytes) -> str:
    """The encoding, of two or four bytes a character, that the NULs in a file without a mark speak for; or nothing."""
    zeros = [head[place::4].count(0) for place in range(4)]
    few = len(head) // 6  # of the quarter at each place
    likely = {
        "utf-32-le": zeros[0] <= few < min(zeros[1:]),
        "utf-32-be": zeros[3] <= few < min(zeros[:3]),
        "utf-16-le": max(zeros[::2]) <= few < min(zeros[1::2]),
        "utf-16-be": max(zeros[1::2]) <= few < min(zeros[::2]),
    }
    return next((codec for codec, one in likely.items() if one), "")


def _some(names: list[str]) -> str:
    """The first of some names, and how many others there are."""
    return names[0] + (f" and {len(names) - 1:,} more" if len(names) > 1 else "")
