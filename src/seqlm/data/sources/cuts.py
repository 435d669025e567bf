"""Where one text is cut into splits: at line ends, or inside a line where none is near."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from ..reading import BLOCK, Segment, TextReader, open_text

NEAR = 1 << 16  # bytes within which a line end is looked for


def cut_text(segments: Sequence[Segment], fractions: Sequence[float], reader: TextReader) -> list[list[Segment]]:
    """The segments of each split: `fractions` of the bytes of whole files, in order; a part may come out empty.

    A cut is moved to the next line end, unless that would leave nothing of the next split.
    """
    total = sum(segment.end for segment in segments)
    wanted = [round(total * sum(fractions[:index])) for index in range(1, len(fractions))]
    cuts = [0]
    for position, last in zip(wanted, [*wanted[1:], total - 1], strict=True):
        cut = _cut(segments, position, last, reader)
        cuts.append(max(cuts[-1], cut))
    return [_between(segments, first, end) for first, end in zip(cuts, [*cuts[1:], total], strict=True)]


def _cut(segments: Sequence[Segment], position: int, last: int, reader: TextReader) -> int:
    """Move a byte position within the concatenation of files to the start of a line, `last` at most, or a character."""
    before = 0
    for segment in segments:
        if position <= before + segment.end:
            end = _line_end(segment, position - before, reader)
            if end is not None and before + end <= last:
                return before + end
            return before + _character(segment, position - before, reader)
        before += segment.end
    return before


def _line_end(segment: Segment, position: int, reader: TextReader) -> int | None:
    """The byte after the next line end of a file, if one is near."""
    codec, mark = reader.codec(segment.path)
    width = len("\n".encode(codec))
    position = mark + -(-max(position - mark, 0) // width) * width
    with open_text(segment.path) as handle:
        handle.seek(position)
        window = handle.read(NEAR)
    text = window.decode(codec if width > 1 else "latin-1", "replace")  # of one byte: line ends are no part of others
    feed, carriage = ("\n", "\r") if width > 1 else (one.encode(codec).decode("latin-1") for one in "\n\r")
    places = [place for end in (feed, carriage) if (reader.universal or end == feed) and (place := text.find(end)) >= 0]
    if not places:
        return None
    found = text[: min(places) + 1]
    found += feed * (found[-1] == carriage and text[len(found) : len(found) + 1] == feed)
    return position + len(found.encode(codec if width > 1 else "latin-1", "replace"))


def _character(segment: Segment, position: int, reader: TextReader) -> int:
    """The first byte from `position` on at which a character begins, found by decoding all that is before it."""
    codec, place = reader.codec(segment.path)
    decoder = codecs.getincrementaldecoder(codec)("replace")
    start = decoder.getstate()
    with open_text(segment.path) as handle:
        handle.seek(place)
        while chunk := handle.read(min(BLOCK, position - place) if place < position else 1):
            if place >= position and decoder.getstate() == start:
                break
            decoder.decode(chunk)
            place += len(chunk)
    return place


def _between(segments: Sequence[Segment], first: int, last: int) -> list[Segment]:
    """The bytes `first` to `last` of the concatenation of `segments`."""
    pieces, before = [], 0
    for path, start, end in segments:
        low, high = max(first - before, 0), min(last - before, end - start)
        if low < high:
            pieces.append(Segment(path, start + low, start + high))
        before += end - start
    return pieces
