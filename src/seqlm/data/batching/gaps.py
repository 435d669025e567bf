"""Pieces of a text with gaps in them: how a text is read from both sides."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import ConfigError
from .batches import IGNORE_INDEX, Batches, require_positive
from .streams import Chunk, Tokens


class Gaps(Batches):
    """Pieces of `bptt` tokens, `batch_size` of them in a batch, with a share of their tokens masked as `mask`.

    A text of N tokens has ceil(N / bptt) pieces; the last one begins early enough to be as long as the others, and
    what another piece has already is context there, never masked. To learn from, with a `seed`: pieces come in another
    order in every epoch, and in each about `share` of the tokens are drawn anew to be masked, one at least; both follow
    from the seed and the epoch's number alone. To be scored, without one: each piece is read round(1 / share) times,
    and in reading j every token i = j (mod that) is masked, so that each is a target once. Raises ConfigError, naming
    the keys under `where`.
    """

    def __init__(
        self,
        tokens: Tokens,
        batch_size: int,
        bptt: int,
        *,
        mask: int,
        share: float,
        seed: int | None = None,
        where: str = "",
    ) -> None:
        require_positive(where, batch_size=batch_size, bptt=bptt)
        if bptt > len(tokens) and seed is not None:
            raise ConfigError(
                f"{where}bptt={bptt} is longer than the text of {len(tokens):,} tokens; "
                f"use {where}bptt={len(tokens)} at most, or more text"
            )
        self.tokens, self.batch_size, self.bptt = tokens, batch_size, min(bptt, len(tokens))
        self.mask, self.share, self.seed = mask, share, seed
        self.pieces = -(-len(tokens) // self.bptt)
        self.readings = 1 if seed is not None else min(round(1 / share), self.bptt)
        self.start_epoch(0)

    def _own(self, piece: int) -> int:
        """How many tokens of a piece are in no other one: the last of it."""
        return len(self.tokens) - piece * self.bptt if piece == self.pieces - 1 else self.bptt

    def _drawn(self, piece: int) -> int:
        """How many tokens of a piece are masked in an epoch of training."""
        return max(1, round(self.share * self._own(piece)))

    @property
    def targets(self) -> int:
        """Targets of an epoch."""
        return len(self.tokens) if self.seed is None else sum(self._drawn(piece) for piece in range(self.pieces))

    def start_epoch(self, epoch: int) -> None:
        """Arrange the pieces of this epoch."""
        self.epoch, self.order = epoch, np.arange(self.pieces * self.readings)
        if self.seed is not None:
            self.order = np.random.default_rng([self.seed, epoch]).permutation(self.pieces)

    def __len__(self) -> int:
        return -(-self.pieces * self.readings // self.batch_size)

    def __getitem__(self, index: int) -> Chunk:
        if not 0 <= index < len(self):
            raise IndexError(index)
        places = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        inputs = np.empty((self.bptt, len(places)), dtype=np.int64)
        targets = np.full_like(inputs, IGNORE_INDEX)
        for row, place in enumerate(places.tolist()):
            piece, reading = divmod(place, self.readings)
            own = self._own(piece)
            end = piece * self.bptt + own
            inputs[:, row] = self.tokens[end - self.bptt : end]
            masked = self.bptt - own + self._masked(piece, own, reading)
            targets[masked, row], inputs[masked, row] = inputs[masked, row], self.mask
        return Chunk(torch.from_numpy(inputs), torch.from_numpy(targets), int((targets != IGNORE_INDEX).sum()))

    def _masked(self, piece: int, own: int, reading: int) -> NDArray[np.int64]:
        """Which of a piece's own tokens are masked."""
        if self.seed is None:
            return np.arange(reading, own, self.readings)
        generator = np.random.default_rng([self.seed, self.epoch, piece + 1])  # 0: the order of the pieces
        return generator.choice(own, self._drawn(piece), replace=False)
