"""Contiguous streams cut into chunks: how truncated backpropagation through time reads a text.

The text w0 w1 w2 ... is cut into `batch_size` contiguous streams, read side by side in chunks of
`bptt` steps. A stream goes on in the next chunk where it stopped in this one, so the model's
carry does too. For 11 tokens, batch_size 2, bptt 4, `<eos>` standing before the first:

              stream 0        stream 1
              input  target   input  target
    chunk 0   <eos>    w0       w5     w6
                w0     w1       w6     w7
                w1     w2       w7     w8
                w2     w3       w8     w9
    chunk 1     w3     w4       w9    w10
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
from .batches import IGNORE_INDEX, Batches, require_positive

Tokens: TypeAlias = NDArray[np.unsignedinteger]
LEAST = 5  # steps of a chunk whose length is drawn


class Chunk(NamedTuple):
    """inputs (T, B) and targets (T, B), int64; targets are IGNORE_INDEX where there is nothing to predict."""

    inputs: Tensor
    targets: Tensor
    tokens: int  # targets that count

    @property
    def batch_size(self) -> int:
        """Streams read side by side."""
        return self.inputs.shape[1]

    def to(self, device: torch.device) -> Chunk:
        """The chunk on the device that computes."""
        return Chunk(self.inputs.to(device), self.targets.to(device), self.tokens)

    def parts(self, count: int) -> list[Chunk]:
        """Its streams in `count` groups."""
        if count == 1:
            return [self]
        cut = zip(self.inputs.chunk(count, 1), self.targets.chunk(count, 1), strict=True)
        return [Chunk(inputs, targets, int((targets != IGNORE_INDEX).sum())) for inputs, targets in cut]


class Lengths(NamedTuple):
    """How long the chunks of training are: all `bptt` steps, or drawn anew in every epoch, about that long.

    length = max(5, round down N(b, std)), at most b + 4 std, with b = bptt, or bptt / 2 with probability
    `half_prob`. The draws of an epoch follow from `seed` and its number alone. S. Merity et al., arXiv 1708.02182, 4.1,
    but for the upper bound, which keeps memory in bounds.
    """

    bptt: int
    std: float = 0.0
    half_prob: float = 0.0
    seed: int = 0

    @property
    def drawn(self) -> bool:
        """Whether lengths differ."""
        return self.std > 0 or self.half_prob > 0

    def of_epoch(self, epoch: int, steps: int) -> list[int]:
        """Lengths that cover `steps` steps; the last may reach beyond them."""
        if not self.drawn:
            return [self.bptt] * -(-steps // self.bptt)
        generator = np.random.default_rng([self.seed, epoch])
        lengths: list[int] = []
        while (covered := sum(lengths)) < steps:
            count = (steps - covered) // self.bptt + 1
            base = np.where(generator.random(count) < self.half_prob, self.bptt / 2, float(self.bptt))
            length = np.minimum(np.floor(generator.normal(base, self.std)), base + 4 * self.std)
            lengths += np.maximum(length, LEAST).astype(int).tolist()
        return lengths[: int(np.searchsorted(np.cumsum(lengths), steps)) + 1]


class Streams(Batches):
    """The chunks of a text of N tokens in `batch_size` streams of ceil(N / batch_size) steps.

    `bptt` is the length of all of them, or Lengths. `first` is the token that stands before the text.
    Raises ConfigError, naming the keys under `where` (`train.`), if there are more streams than tokens or `bptt` is
    longer than a stream (unless `clip`: evaluation may use shorter chunks, it changes no number).
    """

    def __init__(
        self,
        tokens: Tokens,
        batch_size: int,
        bptt: int | Lengths,
        *,
        first: int,
        where: str = "",
        clip: bool = False,
    ) -> None:
        lengths = Lengths(bptt) if isinstance(bptt, int) else bptt
        bptt = lengths.bptt
        require_positive(where, batch_size=batch_size, bptt=bptt)
        if batch_size > len(tokens):
            raise ConfigError(
                f"{where}batch_size={batch_size} is larger than the stream: there are {len(tokens):,} tokens; "
                f"use {where}batch_size={max(1, len(tokens) // bptt)} or more text"
            )
        self.steps = -(-len(tokens) // batch_size)
        if bptt > self.steps and not clip:
            raise ConfigError(
                f"{where}bptt={bptt} is longer than the text: {len(tokens):,} tokens in "
                f"{where}batch_size={batch_size} streams are {self.steps} steps; use {where}bptt={self.steps} at "
                "most, a smaller batch or more text"
            )
        self.tokens, self.batch_size, self.first = tokens, batch_size, first
        self.lengths = lengths._replace(bptt=min(bptt, self.steps))
        self.start_epoch(0)

    @property
    def targets(self) -> int:
        """Target tokens of an epoch."""
        return len(self.tokens)

    def count(self, epoch: int) -> int:
        """The number of chunks in an epoch."""
        return len(self.lengths.of_epoch(epoch, self.steps))

    def lr_scale(self, index: int) -> float:
        """A chunk that was drawn longer is a larger step."""
        return self.heights[index] / self.lengths.bptt if self.lengths.drawn else 1.0

    def start_epoch(self, epoch: int) -> None:
        """Cut the text for this epoch."""
        self.heights = self.lengths.of_epoch(epoch, self.steps)
        self.tops = np.cumsum([0, *self.heights[:-1]]).tolist()

    def __len__(self) -> int:
        """The number of chunks in this epoch."""
        return len(self.heights)

    def __getitem__(self, index: int) -> Chunk:
        if not 0 <= index < len(self):
            raise IndexError(index)
        top = self.tops[index]
        height = min(self.heights[index], self.steps - top)
        # Step t + 1 holds the targets of step t.
        text = np.full((height + 1, self.batch_size), IGNORE_INDEX, dtype=np.int64)
        for stream in range(self.batch_size):
            start = stream * self.steps + top
            low, high = max(start - 1, 0), min(start + height, (stream + 1) * self.steps, len(self.tokens))
            if low < high:
                text[low - (start - 1) : high - (start - 1), stream] = self.tokens[low:high]
        if top == 0:
            text[0, 0] = self.first
        targets = torch.from_numpy(text[1:])
        inputs = torch.from_numpy(np.where(text[:-1] == IGNORE_INDEX, self.first, text[:-1]))
        return Chunk(inputs, targets, int((targets != IGNORE_INDEX).sum()))
