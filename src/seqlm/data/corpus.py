"""A corpus: text in named splits, read in blocks so that size does not matter."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

from ..errors import ConfigError

SPLITS = ("train", "valid", "test")


class Corpus(ABC):
    """Text in splits (`train`, `valid`, `test`); a source is one file in sources/ and one YAML."""

    count_bytes: ClassVar[bool] = False  # whether the literature means bytes when it says characters (bpc)

    def splits(self) -> tuple[str, ...]:
        """The names of the splits there are, in the order train, valid, test: all three, unless overridden."""
        return SPLITS

    @abstractmethod
    def read(self, split: str) -> Iterator[str]:
        """The text of `split` in blocks of bounded size, cut anywhere."""

    def fingerprint(self, split: str) -> str:
        """A hash that changes whenever the text of `split` does."""
        digest = hashlib.sha256()
        for block in self.read(split):
            digest.update(block.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def size(self, split: str) -> int | None:
        """The bytes of `split` in UTF-8, about, if they are known without reading it: a bar needs them."""
        return None

    def note(self) -> str:
        """One line about this source for the header of a run, or nothing."""
        return ""


class TextCounts:
    """Characters and words of a text that arrives in blocks cut anywhere.

    A word is what stands between white space; the end of each line counts as one more, as `<eos>` does
    in word-level language modelling. With `count_bytes`, characters are bytes of UTF-8.
    """

    def __init__(self, *, count_bytes: bool = False) -> None:
        self.characters = 0
        self._count_bytes = count_bytes
        self._words = 0
        self._lines = 0
        self._last = "\n"

    def add(self, block: str) -> None:
        if not block:
            return
        self.characters += len(block.encode("utf-8", "surrogateescape")) if self._count_bytes else len(block)
        # A word cut in two by the block boundary was counted at its first half.
        self._words += len(block.split()) - (not self._last.isspace() and not block[0].isspace())
        self._lines += block.count("\n")
        self._last = block[-1]

    @property
    def words(self) -> int:
        return self._words + self._lines + (self._last != "\n")


def check_sizes(sizes: Sequence[int]) -> dict[str, int]:
    """The number of examples of each split; raises ConfigError if they are none."""
    if len(sizes) != len(SPLITS) or min(sizes) < 1:
        raise ConfigError(f"data.sizes={list(sizes)} must be three numbers of at least 1: train, valid, test")
    return dict(zip(SPLITS, sizes, strict=True))


def check_fractions(fractions: Sequence[float]) -> Sequence[float]:
    """The parts of train, valid and test; raises ConfigError if they are none."""
    if not 2 <= len(fractions) <= 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ConfigError(
            f"data.fractions={list(fractions)} must be 2 or 3 positive numbers of sum 1: train, valid, test"
        )
    return fractions
