"""Terminal output that comes and goes: bars, lines of status, colours; none in files and pipes. Imports no torch."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TextIO, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar("T")
STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
DELAY = 0.3  # seconds that something takes before a bar is drawn for it

_statuses: list[str] = []  # what is being done, the innermost last


class Part(NamedTuple):
    """A part of a line; where the line is too long, the least important parts are left out."""

    text: str
    importance: int
    style: str = ""


def is_terminal(stream: TextIO) -> bool:
    """Whether lines on `stream` can be drawn over."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def columns(stream: TextIO) -> int:
    """The width of a terminal, 80 where it is not known."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):
        return shutil.get_terminal_size().columns


def rows(stream: TextIO) -> int:
    """The height of a terminal, 24 where it is not known."""
    try:
        return os.get_terminal_size(stream.fileno()).lines or 24
    except (OSError, ValueError, AttributeError):
        return shutil.get_terminal_size().lines


def has_blocks(stream: TextIO) -> bool:
    """Whether a stream can write the blocks that bars and curves are drawn with."""
    return (stream.encoding or "").lower().startswith("utf")


def output_width() -> int | None:
    """Columns for a table: those of the terminal, or $COLUMNS; None for a file or a pipe, as wide as need be."""
    if os.environ.get("COLUMNS", "").isdigit():
        return int(os.environ["COLUMNS"])
    return columns(sys.stdout) if sys.stdout.isatty() else None


def paint(text: str, style: str, stream: TextIO) -> str:
    """`text` in a style of STYLES; plain where `stream` is no terminal, or the user has set NO_COLOR."""
    if not style or not text or os.environ.get("NO_COLOR") or not is_terminal(stream):
        return text
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m"


def fit(parts: Sequence[Part], width: int) -> list[Part]:
    """Those of the parts, joined by two spaces, that `width` has room for; none of them is cut."""
    kept = [part for part in parts if part.text]
    while kept and sum(len(part.text) + 2 for part in kept) - 2 > width:
        kept.remove(min(kept, key=lambda part: part.importance))
    return kept


def line(parts: Sequence[Part], stream: TextIO) -> str:
    """Parts as a line, in their styles; on a terminal as many as there is room for."""
    kept = fit(parts, columns(stream) - 1) if is_terminal(stream) else [part for part in parts if part.text]
    return "  ".join(paint(part.text, part.style, stream) for part in kept)


def wrap(text: str, stream: TextIO, indent: int = 0) -> list[str]:
    """`text` in lines that a terminal has room for behind `indent` columns, broken between words; elsewhere in one."""
    if not is_terminal(stream):
        return [text]
    room = columns(stream) - 1 - indent
    return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)


def labelled(rows: Sequence[tuple[str, str]], stream: TextIO) -> str:
    """Rows of a label and a text, without those that have none; on a terminal a long text is broken between words."""
    width, lines = max(len(label) for label, _ in rows), []
    for label, text in rows:
        # A command is to be copied, and a path to be clicked on: each stays in one piece.
        whole = label == "run" or text.startswith(("seqlm ", "tensorboard ", "trackio ", "mlflow "))
        pieces = [text] if whole else wrap(text, stream, width + 2)
        for index, piece in enumerate(pieces if text else ()):
            head = paint(label.ljust(width), "bold", stream) if index == 0 else " " * width
            lines.append(f"{head}  {piece}")
    return "\n".join(lines)


@contextmanager
def status(text: str) -> Iterator[None]:
    """Say on a terminal what is being done while it lasts; the line is erased at the end."""
    _statuses.append(text)
    _draw_status()
    try:
        yield
    finally:
        _statuses.pop()
        _draw_status()


def _draw_status() -> None:
    if is_terminal(sys.stderr):
        shown = f"{_statuses[-1]} ..."[: columns(sys.stderr) - 1] if _statuses else ""
        sys.stderr.write(f"\r\x1b[K{paint(shown, 'dim', sys.stderr)}")
        sys.stderr.flush()


def bar(
    total: int | None, title: str, unit: str, *, large: bool = False, done: int = 0, delay: float = DELAY
) -> tqdm[NoReturn]:
    """A bar on a terminal's standard error, for what takes a while; it leaves nothing behind.

    Args:
        total: how many there are; None: nobody knows.
        unit: what is counted.
        large: counts are shown as 1.2M.
        done: how many of them were done before.
        delay: seconds before it is drawn.
    """
    from tqdm import tqdm

    shown = is_terminal(sys.stderr)
    if shown and _statuses:
        sys.stderr.write("\r\x1b[K")
    return tqdm(
        file=sys.stderr, total=total, desc=title, unit=unit, unit_scale=large, initial=done, leave=False, position=0,
        delay=delay, dynamic_ncols=True, disable=not shown,
    )  # fmt: skip


def track(
    items: Iterable[T],
    title: str,
    unit: str,
    total: int | None = None,
    *,
    size: Callable[[T], int] | None = None,
) -> Iterator[T]:
    """The same items, with a bar; each counts `size` of it, or one. `total` is their number if that is not known."""
    if total is None and isinstance(items, Sequence):
        total = len(items)
    with bar(total, title, unit, large=size is not None) as shown:
        for item in items:
            yield item
            shown.update(1 if size is None else size(item))
