"""text8: the first 10^8 characters of a Wikipedia reduced to 26 letters and the space."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from ..corpus import Corpus
from .download import Remote
from .published import AS_PUBLISHED, cut_bytes, find_files


class Text8(Corpus):
    """text8 from `path`, the file, text8.zip, or the folder it is in, or downloaded (31 MB).

    The first 90,000,000 characters are train, 5,000,000 valid, the last 5,000,000 test; 27 different ones, no line
    feed. Raises ConfigError for a file of another size. M. Mahoney, "About the Test Data" (2006).
    """

    REMOTE: ClassVar[Remote] = Remote(
        "http://mattmahoney.net/dc/text8.zip",
        "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
        31_344_016,
    )
    CHARACTERS: ClassVar[dict[str, int]] = {"train": 90_000_000, "valid": 5_000_000, "test": 5_000_000}

    def __init__(self, *, path: str | None = None) -> None:
        (file,) = find_files(path, [("text8",)], [self.REMOTE])
        self._segments = cut_bytes(file, self.CHARACTERS)

    def size(self, split: str) -> int:
        return self._segments[split].end - self._segments[split].start

    def read(self, split: str) -> Iterator[str]:
        return AS_PUBLISHED.blocks(self._segments[split])
