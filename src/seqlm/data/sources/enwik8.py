"""enwik8: the first 10^8 bytes of a Wikipedia with its markup, of the Hutter Prize."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from ..corpus import Corpus
from ..reading import TextReader
from .download import Remote
from .published import cut_bytes, find_files


class Enwik8(Corpus):
    """enwik8 from `path`, the file, enwik8.zip, or the folder it is in, or downloaded (36 MB).

    The first 90,000,000 bytes are train, 5,000,000 valid, the last 5,000,000 test; 205 different ones. A split may
    begin or end inside a character of UTF-8: such bytes are read as lone surrogates, which the byte tokenizer turns
    back, so that its tokens are the bytes of the file. `bpc` is bits per byte, as published. Raises ConfigError for a
    file of another size. M. Mahoney, "About the Test Data" (2006).
    """

    REMOTE: ClassVar[Remote] = Remote(
        "http://mattmahoney.net/dc/enwik8.zip",
        "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
        36_445_475,
    )
    BYTES: ClassVar[dict[str, int]] = {"train": 90_000_000, "valid": 5_000_000, "test": 5_000_000}
    count_bytes = True

    def __init__(self, *, path: str | None = None) -> None:
        (file,) = find_files(path, [("enwik8",)], [self.REMOTE])
        self._segments = cut_bytes(file, self.BYTES)

    def size(self, split: str) -> int:
        return self._segments[split].end - self._segments[split].start

    def read(self, split: str) -> Iterator[str]:
        return TextReader("utf-8", "keep").blocks(self._segments[split], errors="surrogateescape")
