"""Feed-forward layer: a network without memory, for comparison."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .activations import Activation, activation_named
from .base import Cell, require_positive


class Nothing(NamedTuple):
    """The carry of a cell that remembers nothing."""


class FeedForwardCell(Cell):
    """Feed-forward layer at every step, a baseline without memory.

    y_t = f(W_ih x_t + b_ih)

    f is `activation`: tanh, relu, sigmoid or identity. Parameters: weight_ih (H, I), bias_ih (H). J. L. Elman,
    "Finding Structure in Time", Cognitive Science 14 (1990), without the context units.
    """

    def __init__(
        self, input_size: int, hidden_size: int, *, activation: Activation = "tanh", bias: bool = True
    ) -> None:
        super().__init__()
        require_positive(input_size=input_size, hidden_size=hidden_size)
        self.input_size, self.hidden_size, self.output_size = input_size, hidden_size, hidden_size
        self._f = activation_named("activation", activation)
        self.weight_ih = nn.Parameter(torch.empty(hidden_size, input_size))
        self.bias_ih = nn.Parameter(torch.empty(hidden_size)) if bias else None
        self.reset_parameters()

    def init_carry(self, batch_size: int) -> Nothing:
        return Nothing()

    def project(self, xs: Tensor) -> Tensor:
        return self._f(F.linear(xs, self.weight_ih, self.bias_ih))

    def step(self, carry: Nothing, z: Tensor) -> tuple[Nothing, Tensor]:
        return carry, z
