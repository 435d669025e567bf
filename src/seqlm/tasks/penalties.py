"""Penalties on activations, added to the loss in training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..layers import exact
from ..models.text_model import Reading


class Penalty(Protocol):
    """Nats per token that a chunk adds to the loss; None if there is nothing in it to penalise."""

    def __call__(self, reading: Reading) -> Tensor | None:
        """`reading` holds outputs (T, B, H) of the last layer: `top` without dropout, `dropped` with it."""


@dataclass(frozen=True)
class ActivationPenalty:
    """Activation regularisation (AR): weight * mean (m * y)^2, over steps, batch and units.

    y are the outputs of the last layer and m their dropout mask. S. Merity, B. McCann and R. Socher, arXiv 1708.01009.
    """

    weight: float

    def __call__(self, reading: Reading) -> Tensor:
        return self.weight * exact(reading.dropped).pow(2).mean()


@dataclass(frozen=True)
class TemporalPenalty:
    """Temporal activation regularisation (TAR): weight * mean (y_t - y_{t-1})^2, over steps, batch and units.

    y are the outputs of the last layer, without dropout. S. Merity, B. McCann and R. Socher, arXiv 1708.01009.
    """

    weight: float

    def __call__(self, reading: Reading) -> Tensor | None:
        return self.weight * exact(reading.top).diff(dim=0).pow(2).mean() if len(reading.top) > 1 else None


PENALTIES: dict[str, Callable[[float], Penalty]] = {"activation": ActivationPenalty, "temporal": TemporalPenalty}


def make_penalties(given: Mapping[str, float | Callable[[], Penalty]] | None) -> list[Penalty]:
    """The penalties of `task.penalties`: weights by name, those of 0 left out, and factories of others.

    Raises ValueError for an unknown name, or a weight that is negative or not finite.
    """
    made: list[Penalty] = []
    for name, weight in (given or {}).items():
        if callable(weight):
            made.append(weight())
        elif name not in PENALTIES:
            raise ValueError(f"penalties.{name} is unknown; there are: {', '.join(PENALTIES)}")
        elif not 0 <= weight < math.inf:
            raise ValueError(f"penalties.{name}={weight} must be at least 0")
        elif weight:
            made.append(PENALTIES[name](weight))
    return made


def total(penalties: Iterable[Penalty], reading: Reading) -> Tensor | None:
    """The sum of those that apply, in nats per token; None if none does."""
    found = [one for penalty in penalties if (one := penalty(reading)) is not None]
    return sum(found[1:], found[0]) if found else None
