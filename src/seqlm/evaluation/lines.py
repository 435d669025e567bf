"""Lines of a text, scored token by token: alone, or one behind the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.batching.batches import IGNORE_INDEX
from ..data.tokenizers.text import EOS, Tokenizer
from ..tasks.base import EVALUATED_AT_ONCE
from .surprisal import Found, Surprisal
from .word_bounds import Space, word_starts, word_text

Context = Literal["line", "stream"]
AT_ONCE = 1 << 15  # tokens of lines that are read side by side: short ones do not wait for a long one
STEPS = 256  # of lines that are read at once: a long one needs no more memory
AHEAD = 64  # batches of lines that are looked through for lines of like length
AHEAD_CHARACTERS = 1 << 22  # of those lines, about
BITS = 1 / math.log(2)  # in a nat


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


@dataclass
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
        unknown: whether a token is not in the vocabulary; log_p is then that of `<unk>`
        words: the same by words; the end of the line is one by itself
    """

    text: str
    pieces: list[str]
    ids: NDArray[np.int64]
    log_p: NDArray[np.float64]
    rank: NDArray[np.int64] | None
    entropy: NDArray[np.float64] | None
    unknown: NDArray[np.bool_]
    grouped: Callable[[ScoredLine], list[Word]] = field(repr=False)

    @property
    def words(self) -> list[Word]:
        return self.grouped(self)

    @property
    def total(self) -> float:
        """ln p of the line: the sum over its tokens."""
        return float(np.nansum(self.log_p))

    @property
    def scored(self) -> int:
        """Tokens that have a probability."""
        return int(np.count_nonzero(~np.isnan(self.log_p)))


class LineScorer:
    """Scores lines of text by a language model.

    ln p(line) = sum_t ln p(w_t | what stands before w_t); surprisal in bits is -log_2 p.

    Args:
        surprisal: reads chunks of tokens
        tokenizer: of the run
        context: line: each line is read as if nothing stood before it; stream: what came before is remembered
        bos: whether the end of a line stands before the first token; else the first token is read and not scored
        eos: whether the end of each line is a token to be scored
        space: the word that a space between words counts to: leading, the one behind it; trailing, the one before it
        backward: the model reads from the end of the text
        batch_size: lines read together
        step: tokens read at once in a stream, cut where `seqlm eval` cuts; None: as many as there are
    """

    def __init__(
        self,
        surprisal: Surprisal,
        tokenizer: Tokenizer,
        *,
        context: Context = "line",
        bos: bool = True,
        eos: bool = True,
        space: Space = "leading",
        backward: bool = False,
        batch_size: int = 32,
        step: int | None = None,
    ) -> None:
        self.surprisal, self.tokenizer = surprisal, tokenizer
        self.context, self.bos, self.eos, self.space = context, bos, eos, space
        self.backward, self.batch_size, self.step = backward, batch_size, step

    def score(self, lines: Iterable[str], *, with_ends: bool = False) -> Iterator[ScoredLine]:
        """The lines, scored, in their order; as they come, `batch_size` at a time. A line holds no line feed.

        Unless they come `with_ends`: a line feed behind each. Then characters without one have no end, as in training.
        """
        encoded = (self._encoded(line.removesuffix("\n"), not with_ends or line[-1:] == "\n") for line in lines)
        try:
            if self.context == "line":
                yield from self._alone(encoded)
            elif self.backward:
                whole = list(encoded)  # it begins at the end
                scored = list(self._in_a_row(reversed([_turned(line) for line in whole])))
                yield from map(_turned, reversed(scored))
            else:
                yield from self._in_a_row(encoded)
        finally:
            self.surprisal.restore()

    def _encoded(self, text: str, ended: bool) -> ScoredLine:
        ids, pieces = self.tokenizer.encode(text), self.tokenizer.pieces(text)
        if self.eos and (ended or self.tokenizer.kind == "word"):
            ids, pieces = [*ids, self.tokenizer.eos_id], [*pieces, EOS]
        found = np.array(ids, dtype=np.int64)
        named = np.array([piece == "<unk>" for piece in pieces], dtype=bool)
        unknown = np.zeros(len(ids), dtype=bool) if self.tokenizer.unk_id is None else found == self.tokenizer.unk_id
        log_p = np.full(len(ids), math.nan)
        return ScoredLine(text, pieces, found, log_p, None, None, unknown & ~named, self._words)

    def _alone(self, lines: Iterator[ScoredLine]) -> Iterator[ScoredLine]:
        """Lines of like length are read side by side; shorter ones are padded at their end, which changes nothing."""
        while window := _window(lines, self.batch_size):
            for batch in _alike(window, self.batch_size):
                self._score_batch(batch)
            yield from window

    def _score_batch(self, batch: Sequence[ScoredLine]) -> None:
        """Score lines that stand alone."""
        sequences = [self._sequence(line) for line in batch]
        steps = max(len(ids) for ids in sequences) - 1
        if steps < 1:
            return
        tokens = torch.full((steps + 1, len(batch)), self.tokenizer.eos_id)
        goals = torch.full((steps, len(batch)), IGNORE_INDEX)
        for row, ids in enumerate(sequences):
            tokens[: len(ids), row] = torch.from_numpy(ids)
            goals[: len(ids) - 1, row] = torch.from_numpy(ids[1:])
        state, found = self.surprisal.start(len(batch)), []
        for inputs, targets in zip(tokens[:-1].split(STEPS), goals.split(STEPS), strict=True):
            state, part = self.surprisal.read(inputs, targets, state)
            found.append(_arrays(part))
        for row, line in enumerate(batch):
            columns = [None if one[0] is None else np.concatenate([part[:, row] for part in one]) for one in
                       zip(*found, strict=True)]  # fmt: skip
            self._fill(line, columns, len(sequences[row]) - 1)

    def _sequence(self, line: ScoredLine) -> NDArray[np.int64]:
        """The tokens that are read for a line, behind the end of another."""
        ids = line.ids
        if self.backward:  # it begins at its end, and ends at the end of the line before
            ids = np.concatenate([ids[-2::-1], ids[-1:]]) if self.eos else ids[::-1]
        return np.concatenate([[self.tokenizer.eos_id], ids]) if self.bos else np.ascontiguousarray(ids)

    def _fill(self, line: ScoredLine, columns: Sequence[Any], count: int) -> None:
        """Give a line the numbers of its `count` targets."""
        size = len(line.ids)
        place = np.arange(size - count, size)
        if self.backward:
            place = np.r_[place[-2::-1], place[-1:]][:count] if self.eos else np.arange(count)[::-1]
        line.log_p[place] = columns[0][:count]
        if columns[1] is not None:
            line.rank, line.entropy = np.zeros(size, dtype=np.int64), np.full(size, math.nan)
            line.rank[place], line.entropy[place] = columns[1][:count], columns[2][:count]

    def _in_a_row(self, lines: Iterator[ScoredLine]) -> Iterator[ScoredLine]:
        """Lines of one text: each is read behind the other."""
        stream, waiting = _Stream(self.surprisal, self.tokenizer.eos_id if self.bos else None, self.step), []
        while some := list(islice(lines, self.batch_size)):
            waiting += some
            stream.add(np.concatenate([line.ids for line in some]))
            yield from self._finished(stream, waiting)
        stream.end()
        yield from self._finished(stream, waiting)

    def _finished(self, stream: _Stream, waiting: list[ScoredLine]) -> Iterator[ScoredLine]:
        """The lines all of whose tokens have been scored."""
        while waiting and (columns := stream.take(len(waiting[0].ids))) is not None:
            line = waiting.pop(0)
            line.log_p, line.rank, line.entropy = columns
            yield line

    def _words(self, line: ScoredLine) -> list[Word]:
        kind = self.tokenizer.kind
        starts = word_starts(line.pieces, kind, self.space)
        words = []
        for start, end in zip(starts, [*starts[1:], len(line.pieces)], strict=False):
            is_end = self.eos and end == len(line.pieces) and line.pieces[-1] == EOS
            text = EOS if is_end else word_text(line.pieces[start:end], line.ids[start:end], kind)
            unknown = not is_end and bool(line.unknown[start:end].any())
            words.append(Word(text, start, end, float(line.log_p[start:end].sum()), unknown, is_end))
        return words


class _Stream:
    """Tokens that are read one behind the other, whatever the lines they stand in; `first` stands before them."""

    def __init__(self, surprisal: Surprisal, first: int | None, step: int | None) -> None:
        self._surprisal, self._step, self._state = surprisal, step, surprisal.start(1)
        self._last = first  # the token before those that wait
        self._tokens = np.empty(0, dtype=np.int64)
        self._found: list[Any] = [
            np.empty(0),
            *([np.empty(0, np.int64), np.empty(0)] if surprisal.ranked else [None] * 2),
        ]

    def add(self, tokens: NDArray[np.int64]) -> None:
        """Read on: all of the tokens, or as many as whole steps are."""
        if self._last is None and len(tokens):  # it is read, and not scored
            self._last, tokens = int(tokens[0]), tokens[1:]
            self._append([np.full(1, math.nan), np.zeros(1, np.int64), np.full(1, math.nan)])
        self._tokens = np.concatenate([self._tokens, tokens])
        step = self._step or EVALUATED_AT_ONCE
        while len(self._tokens) >= (step if self._step else 1):
            self._read(step)

    def end(self) -> None:
        """Read what still waits."""
        if len(self._tokens):
            self._read(len(self._tokens))

    def take(self, count: int) -> list[Any] | None:
        """The numbers of the next `count` tokens, if they are known."""
        if len(self._found[0]) < count:
            return None
        taken = [None if one is None else one[:count] for one in self._found]
        self._found = [None if one is None else one[count:] for one in self._found]
        return taken

    def _read(self, count: int) -> None:
        ids, self._tokens = torch.from_numpy(self._tokens[:count]), self._tokens[count:]
        assert self._last is not None
        inputs = torch.cat([torch.tensor([self._last]), ids[:-1]])
        self._state, found = self._surprisal.read(inputs[:, None], ids[:, None], self._state)
        self._last = int(ids[-1])
        self._append([None if one is None else one[:, 0] for one in _arrays(found)])

    def _append(self, columns: Sequence[Any]) -> None:
        pairs = zip(self._found, columns, strict=True)
        self._found = [None if one is None else np.concatenate([one, new]) for one, new in pairs]


def _window(lines: Iterator[ScoredLine], batch_size: int) -> list[ScoredLine]:
    """The next lines: of one batch where each is to be answered at once, else of many, as long as they are short."""
    window: list[ScoredLine] = []
    characters, most = 0, batch_size * (AHEAD if batch_size > 1 else 1)
    while len(window) < most and characters < AHEAD_CHARACTERS and (line := next(lines, None)) is not None:
        window.append(line)
        characters += len(line.text)
    return window


def _alike(lines: Sequence[ScoredLine], batch_size: int) -> Iterator[list[ScoredLine]]:
    """Lines in batches of like length, the padding of which holds AT_ONCE tokens at most, or one line."""
    batch: list[ScoredLine] = []
    for line in sorted(lines, key=lambda line: len(line.ids)):
        if batch and (len(batch) == batch_size or (len(batch) + 1) * len(line.ids) > AT_ONCE):
            yield batch
            batch = []
        batch.append(line)
    if batch:
        yield batch


def _arrays(found: Found) -> list[Any]:
    log_p, rank, entropy = (None if one is None else one.cpu() for one in found)
    assert log_p is not None
    exact: list[Tensor | None] = [log_p.double(), rank, None if entropy is None else entropy.double()]
    return [None if one is None else one.numpy() for one in exact]


def _turned(line: ScoredLine) -> ScoredLine:
    """A line whose tokens stand in the other order."""
    for name in ("ids", "log_p", "rank", "entropy", "unknown"):
        if (values := getattr(line, name)) is not None:
            setattr(line, name, np.ascontiguousarray(values[::-1]))
    line.pieces = line.pieces[::-1]
    return line
