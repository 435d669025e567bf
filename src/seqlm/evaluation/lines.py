"""Lines of a text, scored token by token: alone, or one behind the other."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.batching.batches import IGNORE_INDEX
from ..data.tokenizers.text import EOS, Tokenizer
from ..tasks.base import EVALUATED_AT_ONCE
from .scored_line import Grouping, ScoredLine
from .surprisal import Found, Surprisal
from .word_bounds import Space

Context = Literal["line", "stream"]
Columns: TypeAlias = "list[NDArray[Any] | None]"  # ln p, rank and entropy of tokens, as Found has them
AT_ONCE = 1 << 15  # tokens of lines that are read side by side: short ones do not wait for a long one
READ_AT_ONCE = 1 << 13  # of those tokens, in one call of the model: a long line needs no more memory
AHEAD = 64  # batches of lines that are looked through for lines of like length
AHEAD_CHARACTERS = 1 << 22  # of those lines, about


class _Line(NamedTuple):
    """A line as tokens: its text, what each is in it, and their numbers."""

    text: str
    pieces: list[str]
    ids: NDArray[np.int64]


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
        batch_size: int = 128,
        step: int | None = None,
    ) -> None:
        self.surprisal, self.tokenizer = surprisal, tokenizer
        self.context, self.bos, self.eos = context, bos, eos
        self.backward, self.batch_size, self.step = backward, batch_size, step
        self._grouping = Grouping(tokenizer.kind, tokenizer.unk_id, space, ended=eos)

    def score(self, lines: Iterable[str], *, with_ends: bool = False) -> Iterator[ScoredLine]:
        """The lines, scored, in their order; as they come, `batch_size` at a time. A line holds no line feed.

        Unless they come `with_ends`: a line feed behind each. Then characters without one have no end, as in training.
        """
        encoded = (self._encoded(line.removesuffix("\n"), not with_ends or line[-1:] == "\n") for line in lines)
        try:
            if self.context == "line":
                yield from self._alone(encoded)
            elif self.backward:  # the text begins at its end
                turned = (line._replace(ids=line.ids[::-1]) for line in reversed(list(encoded)))
                yield from map(_turned, reversed(list(self._in_a_row(turned))))
            else:
                yield from self._in_a_row(encoded)
        finally:
            self.surprisal.restore()

    def _encoded(self, text: str, ended: bool) -> _Line:
        ids, pieces = self.tokenizer.encode(text), self.tokenizer.pieces(text)
        if self.eos and (ended or self.tokenizer.kind == "word"):
            ids, pieces = [*ids, self.tokenizer.eos_id], [*pieces, EOS]
        return _Line(text, pieces, np.array(ids, dtype=np.int64))

    def _scored(self, line: _Line, columns: Sequence[Any]) -> ScoredLine:
        log_p, rank, entropy = columns
        return ScoredLine(line.text, line.pieces, line.ids, log_p, rank, entropy, self._grouping)

    def _alone(self, lines: Iterator[_Line]) -> Iterator[ScoredLine]:
        """Lines of like length are read side by side; shorter ones are padded at their end, which changes nothing."""
        while window := _window(lines, self.batch_size):
            scored: list[Any] = [None] * len(window)
            for places in _alike(window, self.batch_size):
                batch = [window[place] for place in places]
                for place, line in zip(places, self._score_batch(batch), strict=True):
                    scored[place] = line
            yield from scored

    def _score_batch(self, batch: Sequence[_Line]) -> Iterator[ScoredLine]:
        """Score lines that stand alone."""
        inputs, targets = self._side_by_side(batch)
        state, found = self.surprisal.start(len(batch)), [_not_scored(self.surprisal, 0 if self.bos else 1, len(batch))]
        steps = max(1, READ_AT_ONCE // len(batch))
        for start in range(0, len(targets), steps):
            part = slice(start, start + steps)
            state, one = self.surprisal.read(inputs[part], targets[part], state)
            found.append(_arrays(one))
        columns = [None if one is None else np.ascontiguousarray(one.T) for one in _joined(found)]
        for row, line in enumerate(batch):
            order = self._order(len(line.ids))
            yield self._scored(line, [None if one is None else one[row, order] for one in columns])

    def _side_by_side(self, batch: Sequence[_Line]) -> tuple[Tensor, Tensor]:
        """The inputs and targets (T, B) of lines, each behind the end of another, or behind its own first token."""
        sizes = np.array([len(line.ids) for line in batch])
        within = np.arange(sizes.max()) < sizes[:, None]
        tokens = np.full(within.shape, self.tokenizer.eos_id)
        tokens[within] = np.concatenate([line.ids[self._order(len(line.ids))] for line in batch])
        targets = np.where(within, tokens, IGNORE_INDEX)
        if self.bos:
            tokens = np.pad(tokens, ((0, 0), (1, 0)), constant_values=self.tokenizer.eos_id)
        else:
            targets = targets[:, 1:]
        inputs, targets = (np.ascontiguousarray(one.T) for one in (tokens[:, :-1], targets))
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    def _order(self, size: int) -> slice | NDArray[np.int64]:
        """The order that the tokens of a line are read in, which turns what was found back, too.

        A line that is read backward begins at its end, and ends with the end of the line before.
        """
        if not self.backward:
            return slice(size)
        order = np.arange(size)
        return np.concatenate([order[-2::-1], order[-1:]]) if self.eos else order[::-1]

    def _in_a_row(self, lines: Iterator[_Line]) -> Iterator[ScoredLine]:
        """Lines of one text: each is read behind the other."""
        stream = _Stream(self.surprisal, self.tokenizer.eos_id if self.bos else None, self.step)
        waiting: deque[_Line] = deque()
        while some := list(islice(lines, self.batch_size)):
            waiting += some
            stream.add(np.concatenate([line.ids for line in some]))
            yield from self._finished(stream, waiting)
        stream.end()
        yield from self._finished(stream, waiting)

    def _finished(self, stream: _Stream, waiting: deque[_Line]) -> Iterator[ScoredLine]:
        """The lines all of whose tokens have been scored."""
        while waiting and (columns := stream.take(len(waiting[0].ids))) is not None:
            yield self._scored(waiting.popleft(), columns)


class _Stream:
    """Tokens that are read one behind the other, whatever the lines they stand in; `first` stands before them."""

    def __init__(self, surprisal: Surprisal, first: int | None, step: int | None) -> None:
        self._surprisal, self._step, self._state = surprisal, step, surprisal.start(1)
        self._last = first  # the token before those that wait
        self._tokens = np.empty(0, dtype=np.int64)
        self._found = _not_scored(surprisal, 0, 1)

    def add(self, tokens: NDArray[np.int64]) -> None:
        """Read on: all of the tokens, or as many as whole steps are."""
        if self._last is None and len(tokens):  # it is read, and not scored
            self._last, tokens = int(tokens[0]), tokens[1:]
            self._found = _joined([self._found, _not_scored(self._surprisal, 1, 1)])
        self._tokens = np.concatenate([self._tokens, tokens])
        step = self._step or EVALUATED_AT_ONCE
        while len(self._tokens) >= (step if self._step else 1):
            self._read(step)

    def end(self) -> None:
        """Read what still waits."""
        if len(self._tokens):
            self._read(len(self._tokens))

    def take(self, count: int) -> Columns | None:
        """The numbers of the next `count` tokens, if they are known."""
        log_p = self._found[0]
        if log_p is None or len(log_p) < count:
            return None
        taken = [None if one is None else one[:count, 0] for one in self._found]
        self._found = [None if one is None else one[count:] for one in self._found]
        return taken

    def _read(self, count: int) -> None:
        ids, self._tokens = torch.from_numpy(self._tokens[:count]), self._tokens[count:]
        assert self._last is not None
        inputs = torch.cat([torch.tensor([self._last]), ids[:-1]])
        self._state, found = self._surprisal.read(inputs[:, None], ids[:, None], self._state)
        self._last = int(ids[-1])
        self._found = _joined([self._found, _arrays(found)])


def _window(lines: Iterator[_Line], batch_size: int) -> list[_Line]:
    """The next lines: of one batch where each is to be answered at once, else of many, as long as they are short."""
    window: list[_Line] = []
    characters, most = 0, batch_size * (AHEAD if batch_size > 1 else 1)
    while len(window) < most and characters < AHEAD_CHARACTERS and (line := next(lines, None)) is not None:
        window.append(line)
        characters += len(line.text)
    return window


def _alike(lines: Sequence[_Line], batch_size: int) -> Iterator[list[int]]:
    """Places of lines of like length, the padding of which holds AT_ONCE tokens at most, or of one line."""
    sizes = [len(line.ids) for line in lines]
    batch: list[int] = []
    for place in sorted(range(len(lines)), key=sizes.__getitem__):
        if batch and (len(batch) == batch_size or (len(batch) + 1) * sizes[place] > AT_ONCE):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _not_scored(surprisal: Surprisal, count: int, batch_size: int) -> Columns:
    """The columns of `count` tokens that have no probability."""
    shape = (count, batch_size)
    rank, entropy = (np.zeros(shape, np.int64), np.full(shape, math.nan)) if surprisal.ranked else (None, None)
    return [np.full(shape, math.nan), rank, entropy]


def _arrays(found: Found) -> Columns:
    """The columns (T, B) of tokens that were read."""
    log_p, rank, entropy = (None if one is None else one.cpu() for one in found)
    assert log_p is not None
    exact = [log_p.double(), rank, None if entropy is None else entropy.double()]
    return [None if one is None else one.numpy() for one in exact]


def _joined(parts: Sequence[Columns]) -> Columns:
    """Columns one below the other."""
    return [None if one[0] is None else np.concatenate(one) for one in zip(*parts, strict=True)]


def _turned(line: ScoredLine) -> ScoredLine:
    """A line whose tokens were found in the other order."""
    found = {name: getattr(line, name) for name in ("ids", "log_p", "rank", "entropy")}
    return replace(line, **{name: one[::-1] for name, one in found.items() if one is not None})
