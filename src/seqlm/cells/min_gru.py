"""Minimal gated recurrent unit, linear in its state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from .activations import ACTIVATIONS
from .linear import LinearCell

Candidate = Literal["identity", "g"]


class MinGRUCell(LinearCell):
    """minGRU cell: a gate and a candidate that depend on the input alone, so the state is a running average.

    z, n = split(W_ih x_t + b_ih)
    h_t = (1 - sigmoid(z)) * h_{t-1} + sigmoid(z) * g(n),  y_t = h_t

    `candidate`: "identity", g(n) = n; "g", n + 1/2 where n >= 0 and sigmoid(n) elsewhere, which is positive, as the
    form of the paper in the logarithms of states wants it. Parameters: weight_ih (2H, I), bias_ih (2H). L. Feng et al.,
    "Were RNNs All We Needed?", arXiv 2410.01201 (2024).
    """

    num_gates = 2  # the gate, the candidate
    gate_names: tuple[str, ...] = ("update",)
    kept_by = "1-update"

    def __init__(
        self, input_size: int, hidden_size: int, *, candidate: Candidate = "identity", bias: bool = True
    ) -> None:
        super().__init__(input_size, hidden_size, bias=bias)
        self.candidate, self._g = candidate, candidate_named(candidate)
        if candidate == "g":
            self.gate_names = (*self.gate_names, "")  # the sigmoid in g

    def coefficients(self, z: Tensor) -> tuple[Tensor, ...]:
        update, candidate = z.chunk(2, -1)
        update = update.sigmoid()
        return 1 - update, update * self._g(candidate)


def candidate_named(name: str) -> Callable[[Tensor], Tensor]:
    """The function of the candidate by name; raises ValueError for a name that is unknown."""
    known: dict[str, Callable[[Tensor], Tensor]] = {"identity": ACTIVATIONS["identity"], "g": _positive}
    if name not in known:
        raise ValueError(f"candidate={name!r} is unknown; allowed: {', '.join(known)}")
    return known[name]


def _positive(n: Tensor) -> Tensor:
    return torch.where(n >= 0, n + 0.5, n.sigmoid())
