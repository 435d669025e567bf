"""Jordan network: its output, not its hidden layer, returns."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .activations import Activation, activation_named
from .base import Cell, Step, masked_affine, require_positive


class JordanCarry(NamedTuple):
    y: Tensor  # (B, O)


class JordanCell(Cell):
    """Jordan cell: the *output* returns as context.

    h_t = f(W_ih x_t + W_yh y_{t-1} + b_ih),  y_t = g(W_hy h_t + b_hy)

    f is `activation`, g is `output_activation`: tanh, relu, sigmoid or identity. `output_size` is
    `hidden_size` unless given. Parameters: weight_ih (H, I), weight_yh (H, O), weight_hy (O, H),
    bias_ih (H), bias_hy (O). M. I. Jordan, "Serial Order: A Parallel Distributed Processing
    Approach", ICS Report 8604, UCSD (1986).
    """

    supports = frozenset({"weight", "state"})  # neither gates nor a hidden state that returns

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        output_size: int | None = None,
        activation: Activation = "tanh",
        output_activation: Activation = "tanh",
        bias: bool = True,
    ) -> None:
        super().__init__()
        output_size = hidden_size if output_size is None else output_size
        require_positive(input_size=input_size, hidden_size=hidden_size, output_size=output_size)
        self.input_size, self.hidden_size, self.output_size = input_size, hidden_size, output_size
        self._f = activation_named("activation", activation)
        self._g = activation_named("output_activation", output_activation)
        self.weight_ih = nn.Parameter(torch.empty(hidden_size, input_size))
        self.weight_yh = nn.Parameter(torch.empty(hidden_size, output_size))
        self.weight_hy = nn.Parameter(torch.empty(output_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(hidden_size)) if bias else None
        self.bias_hy = nn.Parameter(torch.empty(output_size)) if bias else None
        self.reset_parameters()

    def init_carry(self, batch_size: int) -> JordanCarry:
        return JordanCarry(self.weight_hy.new_zeros(batch_size, self.output_size))

    def project(self, xs: Tensor) -> Tensor:
        return F.linear(xs, self.weight_ih, self.bias_ih)

    def bind(self, carry: JordanCarry) -> Step:
        weight, mask = self.drops.draw(self.weight_yh, carry.y.shape[0])
        context = masked_affine(weight, None, mask)

        def step(carry: JordanCarry, z: Tensor) -> tuple[JordanCarry, Tensor]:
            h = self._f(z + context(carry.y))
            y = self._g(F.linear(h, self.weight_hy, self.bias_hy))
            return JordanCarry(y), y

        return step

    def step(self, carry: JordanCarry, z: Tensor) -> tuple[JordanCarry, Tensor]:
        return self.bind(carry)(carry, z)
