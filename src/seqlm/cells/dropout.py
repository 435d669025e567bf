"""Regularisers inside a recurrence: weight-drop, dropout of the state and of the input of gates, zoneout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor


def require_probability(name: str, p: float) -> None:
    """Raise ValueError, naming the argument, unless 0 <= p < 1."""
    if not 0 <= p < 1:
        raise ValueError(f"{name}={p} must be at least 0 and less than 1")


def keep_mask(shape: Sequence[int], p: float, like: Tensor) -> Tensor:
    """True with probability 1 - p, on the device of `like`.

    On the CPU every decision takes 16 bits of a 64-bit draw: bernoulli_ takes a draw each, and was a
    twentieth of a training step. p is rounded to a multiple of 2^-16.
    """
    if like.device.type != "cpu":
        return torch.empty(shape, device=like.device, dtype=like.dtype).bernoulli_(1 - p).bool()
    count = math.prod(shape)
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
    return draws.view(torch.int16)[:count].view(*shape) >= _dropped(p) - 32768


def dropout_mask(shape: Sequence[int], p: float, like: Tensor) -> Tensor:
    """A mask of zeros and 1 / (1 - p), zero with probability p, of the dtype and on the device of `like`.

    The scale is that of the rounded p of `keep_mask`.
    """
    if like.device.type != "cpu":
        return torch.empty(shape, device=like.device, dtype=like.dtype).bernoulli_(1 - p).div_(1 - p)
    return keep_mask(shape, p, like).to(like.dtype).mul_(65536 / (65536 - _dropped(p)))


def _dropped(p: float) -> int:
    """How many of 65,536 equal draws are dropped."""
    return min(round(p * 65536), 65535)


class RecurrentOptions(TypedDict, total=False):
    """Keys `model.dropout.*` that act inside the recurrence: see RecurrentDropout."""

    weight: float
    state: float
    per_gate: bool
    zoneout: float
    zoneout_memory: float


class RecurrentDropout(NamedTuple):
    """Dropout inside a recurrence in training; masks are drawn once for a chunk, zoneout's at every step.

    weight   of the recurrent weights, in a LinearCell of the input weights: W <- W * m / (1 - p), the raw W gets the
             gradient (weight-drop, DropConnect; S. Merity et al., arXiv 1708.02182; L. Wan et al., ICML 2013)
    state    of the state as it enters the recurrent product: h <- h * m / (1 - p) (Y. Gal and Z. Ghahramani, arXiv
             1512.05287); with `per_gate` each gate has a mask of its own, as in their paper, else all share one
    input    of the input as it enters the product of each gate, x <- x * m / (1 - p), with `per_gate` only: a mask that
             gates share needs no cell, see LockedDropout
    zoneout, zoneout_memory
             units of h, and of the rest of the carry, that keep their value: h_t = m * h_{t-1} + (1 - m) * h'_t with
             m ~ Bernoulli(p); in eval mode m is its mean p (D. Krueger et al., arXiv 1606.01305)
    """

    weight: float = 0.0
    state: float = 0.0
    per_gate: bool = False
    input: float = 0.0
    zoneout: float = 0.0
    zoneout_memory: float = 0.0

    def draw(self, weight: Tensor, rows: int, gates: int = 1) -> tuple[Tensor, Tensor | None]:
        """The recurrent weight (G*H, R) of a chunk, masked, and the mask of the state (B, R) or (G, B, R)."""
        mask = None
        weight = self.drop_weight(weight)
        if self.state:
            mask = dropout_mask(((gates,) if self.per_gate else ()) + (rows, weight.shape[1]), self.state, weight)
        return weight, mask

    def draw_input(self, xs: Tensor, gates: int) -> Tensor | None:
        """The masks (G, B, I) of the inputs (..., B, I) of a chunk, one for each gate; None if nothing is dropped."""
        return dropout_mask((gates, *xs.shape[-2:]), self.input, xs) if self.input else None

    def drop_weight(self, weight: Tensor) -> Tensor:
        """A weight of a chunk, masked."""
        return weight * dropout_mask(weight.shape, self.weight, weight) if self.weight else weight

    @property
    def zones(self) -> bool:
        """Whether units may keep their value."""
        return self.zoneout > 0 or self.zoneout_memory > 0

    def scaled(self, factor: float) -> RecurrentDropout:
        """The same with every probability times `factor`."""
        return RecurrentDropout(**{key: p if key == "per_gate" else p * factor for key, p in self._asdict().items()})

    def check(self) -> RecurrentDropout:
        """Itself; raises ValueError, naming the field, if a probability is none, or a field has nothing to do."""
        for name, value in self._asdict().items():
            if name != "per_gate":
                require_probability(name, value)
        if self.per_gate and not (self.state or self.input):
            raise ValueError("per_gate=true does nothing without state or input, the probability of dropping")
        if self.input and not self.per_gate:
            raise ValueError(f"input={self.input} needs per_gate=true; a mask that gates share is LockedDropout's")
        return self
