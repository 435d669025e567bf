"""A text read from both of its ends at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from .batches import Batches
from .streams import Chunk, Streams, Tokens


class Pair(NamedTuple):
    """A chunk of a text, and one of the same text backwards."""

    forward: Chunk
    backward: Chunk

    @property
    def tokens(self) -> int:
        """Targets that count, in both directions."""
        return self.forward.tokens + self.backward.tokens

    @property
    def batch_size(self) -> int:
        """Sequences read side by side, in each direction."""
        return self.forward.batch_size

    def to(self, device: torch.device) -> Pair:
        """Both on the device that computes."""
        return Pair(self.forward.to(device), self.backward.to(device))

    def parts(self, count: int) -> list[Pair]:
        """The sequences of both in `count` groups."""
        return [Pair(*pair) for pair in zip(self.forward.parts(count), self.backward.parts(count), strict=True)]


class Both(Batches):
    """Streams of a text and of the same text backwards, cut alike; every token is a target twice, once in each.

    `streams` cuts a text.
    """

    def __init__(self, streams: Callable[[Tokens], Streams], tokens: Tokens) -> None:
        self.forward, self.backward = streams(tokens), streams(tokens[::-1])
        self.batch_size = self.forward.batch_size

    @property
    def targets(self) -> int:
        """Targets of an epoch, in both directions."""
        return 2 * self.forward.targets

    def count(self, epoch: int) -> int:
        """The number of pairs in an epoch."""
        return self.forward.count(epoch)

    def lr_scale(self, index: int) -> float:
        """As for the stream of either."""
        return self.forward.lr_scale(index)

    def start_epoch(self, epoch: int) -> None:
        """Cut the text for this epoch."""
        self.forward.start_epoch(epoch)
        self.backward.start_epoch(epoch)

    def __len__(self) -> int:
        return len(self.forward)

    def __getitem__(self, index: int) -> Pair:
        return Pair(self.forward[index], self.backward[index])
