"""A part of a page that is made: what stands between two marks."""

from __future__ import annotations

from pathlib import Path


def shows(path: Path, start: str, end: str, made: str, *, write: bool) -> bool:
    """Whether a page has this text between its marks; it is put there if `write`."""
    before = path.read_text(encoding="utf-8")
    head, rest = before.split(start)
    after = f"{head}{start}\n{made}{end}{rest.split(end, 1)[1]}"
    if write and after != before:
        path.write_text(after, encoding="utf-8")
    return after == before
