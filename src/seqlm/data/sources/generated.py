"""Pairs of sequences whose answer is known: sources and targets drawn from a seed, no source in two splits."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from ...errors import ConfigError
from ..corpus import SPLITS, check_sizes
from ..examples import Example, Examples
from .entropy import ALPHABET

TRIES = 10_000  # draws in a row that bring nothing new before a split counts as exhausted


class Pair(NamedTuple):
    """A source and its target."""

    source: str
    target: str
    group: str  # pairs of one group are in one split


class Generated(Examples):
    """Different pairs, `sizes` of them in train, valid and test. A tenth of all groups is for test, another for valid.

    Which split a group is in follows from it and the seed alone: other sizes change no split but by its size.
    """

    def __init__(self, *, sizes: Sequence[int], seed: int) -> None:
        self.sizes, self.seed = check_sizes(sizes), seed
        self._pairs: dict[str, list[Pair]] = {}

    @abstractmethod
    def draw(self, rng: np.random.Generator, split: str) -> Pair:
        """Draw any pair; the caller drops those of other splits."""

    def examples(self, split: str) -> Iterator[Example]:
        if split not in self._pairs:
            self._pairs[split] = self._drawn(split)
        return ({"words": pair.source, "target": pair.target} for pair in self._pairs[split])

    def note(self) -> str:
        return "no source is in two splits"

    def _drawn(self, split: str) -> list[Pair]:
        rng = np.random.default_rng([self.seed, SPLITS.index(split)])
        found: dict[str, Pair] = {}
        tries = 0
        while len(found) < self.sizes[split]:
            pair = self.draw(rng, split)
            tries += 1
            if pair.source not in found and self._split_of(pair.group) == split:
                found[pair.source], tries = pair, 0
            elif tries == TRIES:
                raise ConfigError(
                    f"data.sizes: {split} should have {self.sizes[split]:,} different sources, but no more than "
                    f"{len(found):,} were found; ask for fewer, or for more kinds of them"
                )
        return list(found.values())

    def _split_of(self, group: str) -> str:
        tenth = int.from_bytes(hashlib.sha256(f"{self.seed} {group}".encode()).digest()[:8], "big") % 10
        return {0: "test", 1: "valid"}.get(tenth, "train")


class Copy(Generated):
    """Letters to copy: "c a b" -> "c a b". Lengths are uniform from `min_length` to `max_length`.

    `symbols`: how many letters there are. Train has no sequence of the `unseen_lengths`, valid and test have.
    """

    def __init__(
        self,
        *,
        symbols: int = 10,
        min_length: int = 1,
        max_length: int = 20,
        unseen_lengths: Sequence[int] = (),
        sizes: Sequence[int] = (10_000, 1_000, 1_000),
        seed: int = 0,
    ) -> None:
        super().__init__(sizes=sizes, seed=seed)
        if not 2 <= symbols <= len(ALPHABET):
            raise ConfigError(f"data.symbols={symbols} must be from 2 to {len(ALPHABET)}")
        if not 1 <= min_length <= max_length:
            raise ConfigError(f"data.min_length={min_length} must be from 1 to data.max_length={max_length}")
        lengths = range(min_length, max_length + 1)
        seen = [length for length in lengths if length not in unseen_lengths]
        if not set(unseen_lengths) <= set(lengths) or not seen:
            raise ConfigError(
                f"data.unseen_lengths={list(unseen_lengths)} must be some of the lengths {min_length} to {max_length}, "
                "not all"
            )
        self.symbols, self.lengths = symbols, {"train": seen, "valid": list(lengths), "test": list(lengths)}

    def draw(self, rng: np.random.Generator, split: str) -> Pair:
        length = self.lengths[split][rng.integers(len(self.lengths[split]))]
        letters = [ALPHABET[symbol] for symbol in rng.integers(self.symbols, size=length)]
        source = " ".join(letters)
        return Pair(source, " ".join(self.answer(letters)), source)

    def answer(self, letters: list[str]) -> list[str]:
        """The target of a source sequence."""
        return letters


class Reverse(Copy):
    """Letters to reverse: "c a b" -> "b a c". The arguments are those of Copy."""

    def answer(self, letters: list[str]) -> list[str]:
        return letters[::-1]


class Arithmetic(Generated):
    """Whole numbers of up to `digits` digits and one of the `operations`: "12+345" -> "357", "5-12" -> "-7".

    The number of digits is uniform, for each number. a+b and b+a are in one split, as are a*b and b*a.
    W. Zaremba and I. Sutskever, "Learning to Execute", arXiv 1410.4615 (2014), has such sums.
    """

    def __init__(
        self,
        *,
        digits: int = 3,
        operations: Sequence[Literal["+", "-", "*"]] = ("+",),
        sizes: Sequence[int] = (50_000, 2_000, 2_000),
        seed: int = 0,
    ) -> None:
        super().__init__(sizes=sizes, seed=seed)
        if not 1 <= digits <= 18:
            raise ConfigError(f"data.digits={digits} must be from 1 to 18")
        if not operations or not set(operations) <= set("+-*"):
            raise ConfigError(f"data.operations={list(operations)} must be some of +, -, *")
        self.digits, self.operations = digits, list(operations)

    def draw(self, rng: np.random.Generator, split: str) -> Pair:
        sign = self.operations[rng.integers(len(self.operations))]
        a, b = self._number(rng), self._number(rng)
        value = {"+": a + b, "-": a - b, "*": a * b}[sign]
        first, second = (a, b) if sign == "-" else sorted((a, b))
        return Pair(f"{a}{sign}{b}", str(value), f"{first}{sign}{second}")

    def _number(self, rng: np.random.Generator) -> int:
        size = int(rng.integers(1, self.digits + 1))
        return int(rng.integers(10 ** (size - 1) if size > 1 else 0, 10**size))
