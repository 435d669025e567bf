"""Contiguous streams cut into windows: how truncated backpropagation through time reads a text.

The text w0 w1 w2 ... is laid out in `batch_size` columns, each a contiguous piece, and read downwards
in windows of `window` rows. A column goes on in the next window where it stopped in this one, so the
model's carry does too. For 11 tokens, batch_size 2, window 4, `<eos>` standing before the first:

              column 0        column 1
              input  target   input  target
    window 0  <eos>    w0       w5     w6
                w0     w1       w6     w7
                w1     w2       w7     w8
                w2     w3       w8     w9
    window 1    w3     w4       w9    w10
                w4     w5        -      -      (no target: not scored)

Every token is a target exactly once.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import ConfigError

Tokens: TypeAlias = NDArray[np.unsignedinteger]
LEAST = 5  # rows of a window whose length is drawn
IGNORE = -1  # target of the cells that fill up the last columns


class Window(NamedTuple):
    """inputs (T, B) and targets (T, B), int64; targets are IGNORE where there is nothing to predict."""

    inputs: Tensor
    targets: Tensor
    tokens: int  # targets that count

    @property
    def columns(self) -> int:
        """Columns read side by side."""
        return self.inputs.shape[1]

    def to(self, device: torch.device) -> Window:
        """The window on the device that computes."""
        return Window(self.inputs.to(device), self.targets.to(device), self.tokens)

    def parts(self, count: int) -> list[Window]:
        """Its columns in `count` groups."""
        if count == 1:
            return [self]
        cut = zip(self.inputs.chunk(count, 1), self.targets.chunk(count, 1), strict=True)
        return [Window(inputs, targets, int((targets != IGNORE).sum())) for inputs, targets in cut]


class Lengths(NamedTuple):
    """How long the windows of training are: all `window` rows, or drawn anew in every epoch, about that long.

    length = max(5, round down N(b, spread)), at most b + 4 spread, with b = window, or window / 2 with probability
    `halved`. The draws of an epoch follow from `seed` and its number alone. S. Merity et al., arXiv 1708.02182, 4.1,
    but for the upper bound, which keeps memory in bounds.
    """

    window: int
    spread: float = 0.0
    halved: float = 0.0
    seed: int = 0

    @property
    def drawn(self) -> bool:
        """Whether lengths differ."""
        return self.spread > 0 or self.halved > 0

    def of_epoch(self, epoch: int, rows: int) -> list[int]:
        """Lengths that cover `rows` rows; the last may reach beyond them."""
        if not self.drawn:
            return [self.window] * -(-rows // self.window)
        generator = np.random.default_rng([self.seed, epoch])
        lengths: list[int] = []
        while (covered := sum(lengths)) < rows:
            count = (rows - covered) // self.window + 1
            base = np.where(generator.random(count) < self.halved, self.window / 2, float(self.window))
            length = np.minimum(np.floor(generator.normal(base, self.spread)), base + 4 * self.spread)
            lengths += np.maximum(length, LEAST).astype(int).tolist()
        return lengths[: int(np.searchsorted(np.cumsum(lengths), rows)) + 1]


class Streams:
    """The windows of a text of N tokens in `batch_size` columns of ceil(N / batch_size) rows.

    `window` is the length of all of them, or Lengths. `first` is the token that stands before the text.
    Raises ConfigError, naming the keys under `where` (`train.`), if there are more columns than tokens or `window` is
    longer than a column (unless `clip`: evaluation may use a shorter window, it changes no number).
    """

    def __init__(
        self,
        tokens: Tokens,
        batch_size: int,
        window: int | Lengths,
        *,
        first: int,
        where: str = "",
        clip: bool = False,
    ) -> None:
        lengths = Lengths(window) if isinstance(window, int) else window
        window = lengths.window
        for name, value in (("batch_size", batch_size), ("window", window)):
            if value < 1:
                raise ConfigError(f"{where}{name}={value} must be at least 1")
        if batch_size > len(tokens):
            raise ConfigError(
                f"{where}batch_size={batch_size} is larger than the stream: there are {len(tokens):,} tokens; "
                f"use {where}batch_size={max(1, len(tokens) // window)} or more text"
            )
        self.rows = -(-len(tokens) // batch_size)
        if window > self.rows and not clip:
            raise ConfigError(
                f"{where}window={window} is longer than the text: {len(tokens):,} tokens in "
                f"{where}batch_size={batch_size} columns are {self.rows} rows; use {where}window={self.rows} at most, "
                "fewer columns or more text"
            )
        self.tokens, self.batch_size, self.first = tokens, batch_size, first
        self.lengths = lengths._replace(window=min(window, self.rows))
        self.start_epoch(0)

    @property
    def targets(self) -> int:
        """Target tokens of an epoch."""
        return len(self.tokens)

    def count(self, epoch: int) -> int:
        """The number of windows in an epoch."""
        return len(self.lengths.of_epoch(epoch, self.rows))

    def scale(self, index: int) -> float:
        """A window that was drawn longer is a larger step."""
        return self.heights[index] / self.lengths.window if self.lengths.drawn else 1.0

    def start_epoch(self, epoch: int) -> None:
        """Cut the text for this epoch."""
        self.heights = self.lengths.of_epoch(epoch, self.rows)
        self.tops = np.cumsum([0, *self.heights[:-1]]).tolist()

    def __len__(self) -> int:
        """The number of windows in this epoch."""
        return len(self.heights)

    def __getitem__(self, index: int) -> Window:
        if not 0 <= index < len(self):
            raise IndexError(index)
        top = self.tops[index]
        height = min(self.heights[index], self.rows - top)
        text = np.full((height + 1, self.batch_size), IGNORE, dtype=np.int64)  # row r + 1 holds the targets of row r
        for column in range(self.batch_size):
            start = column * self.rows + top
            low, high = max(start - 1, 0), min(start + height, (column + 1) * self.rows, len(self.tokens))
            if low < high:
                text[low - (start - 1) : high - (start - 1), column] = self.tokens[low:high]
        if top == 0:
            text[0, 0] = self.first
        targets = torch.from_numpy(text[1:])
        inputs = torch.from_numpy(np.where(text[:-1] == IGNORE, self.first, text[:-1]))
        return Window(inputs, targets, int((targets != IGNORE).sum()))
