"""The file that a verb reads line by line, or standard input in its place."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..data.reading import TextReader


def check_source(source: str, content: str) -> None:
    """Raise ConfigError if `source` is neither a file nor `-`; `content` says what should be on each of its lines."""
    if source != "-" and not Path(source).is_file():
        raise ConfigError(f"{source} is not a file; give one with {content} on each line, or - for standard input")


def source_name(source: str) -> str:
    """A file as messages call it."""
    return "standard input" if source == "-" else source


def lines_of(reader: TextReader, source: str, *, end: str = "", errors: str = "strict") -> Iterator[str]:
    """The lines of a file or of standard input, read as they are asked for, with `end` in place of a line feed.

    Raises ConfigError for what is no text, or cannot be read; `errors` as of bytes.decode.
    """
    from ..data.reading import open_text, split_lines

    name = source_name(source)
    with nullcontext(sys.stdin.buffer) if source == "-" else open_text(Path(source)) as handle:
        yield from split_lines(reader.decode(handle, name, errors=errors), name, end)
