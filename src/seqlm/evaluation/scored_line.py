"""A line of text that has been scored: its tokens, its words, and the whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..data.tokenizers.text import EOS, UNK
from .word_bounds import Space, word_starts, word_text


class Grouping(NamedTuple):
    """How the tokens of a text make its words.

    Args:
        kind: of the tokenizer
        unk_id: the token that stands for all that are unknown; None if nothing is
        space: the word that a space between words counts to: leading, the one behind it; trailing, the one before it
        ended: whether a token can be the end of a line
    """

    kind: str
    unk_id: int | None
    space: Space
    ended: bool


class Word(NamedTuple):
    """A word of a line: text, tokens `start` to `end` of the line, ln p of all of them, and whether one is unknown.

    The end of the line is one by itself, with the white space that no word stands behind; it is never unknown.
    """

    text: str
    start: int
    end: int
    log_p: float
    unknown: bool
    is_end: bool


@dataclass(frozen=True)
class ScoredLine:
    """A line of a text, and how probable it was.

    Arrays have an entry for each token, the end of the line last if it was scored. Log-probabilities are in nats.

    Args:
        text: the line
        pieces: what each token is in it; EOS for the end of the line
        ids: numbers of the tokens in the vocabulary
        log_p: ln p of each; nan for a first token that stands in place of a beginning
        rank: how many tokens would have been as probable or more, 1 for the most probable; None if not asked for
        entropy: of the distribution that each was drawn from, in nats; None if not asked for
        grouping: how the tokens make words
    """

    text: str
    pieces: list[str]
    ids: NDArray[np.int64]
    log_p: NDArray[np.float64]
    rank: NDArray[np.int64] | None
    entropy: NDArray[np.float64] | None
    grouping: Grouping = field(repr=False)

    @cached_property
    def _known(self) -> NDArray[np.float64]:
        return self.log_p[~np.isnan(self.log_p)]

    @property
    def total(self) -> float:
        """ln p of the line: the sum over its tokens."""
        return float(self._known.sum())

    @property
    def scored(self) -> int:
        """Tokens that have a probability."""
        return len(self._known)

    @cached_property
    def unknown(self) -> NDArray[np.bool_]:
        """Whether each token is not in the vocabulary; its log_p is then that of `<unk>`."""
        if self.grouping.unk_id is None:
            return np.zeros(len(self.ids), dtype=bool)
        named = np.array([piece == UNK for piece in self.pieces], dtype=bool)
        unknown: NDArray[np.bool_] = (self.ids == self.grouping.unk_id) & ~named
        return unknown

    @cached_property
    def words(self) -> list[Word]:
        """The same by words; the end of the line is one by itself."""
        pieces, kind = self.pieces, self.grouping.kind
        starts = word_starts(pieces, kind, self.grouping.space)
        if not starts:
            return []
        log_p = np.add.reduceat(self.log_p, starts).tolist()
        unknown = np.logical_or.reduceat(self.unknown, starts).tolist()
        words = []
        for place, (start, end) in enumerate(pairwise([*starts, len(pieces)])):
            is_end = self.grouping.ended and end == len(pieces) and pieces[-1] == EOS
            text = EOS if is_end else word_text(pieces[start:end], self.ids[start:end], kind)
            words.append(Word(text, start, end, log_p[place], unknown[place] and not is_end, is_end))
        return words
