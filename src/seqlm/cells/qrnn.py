"""Quasi-recurrent network: a convolution in time, then a gated average."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Carry, Cell, require_positive


class QRNNMemory(NamedTuple):
    """Carry of a QRNN with a window of 1."""

    c: Tensor  # (B, H)


class QRNNCarry(NamedTuple):
    """Carry of a QRNN with a window of 2."""

    c: Tensor  # (B, H)
    v: Tensor  # (B, 3H): V x_{t-1}, so that the convolution sees across the borders of windows of time


class QRNNCell(Cell):
    """Quasi-recurrent cell with fo-pooling: gates are a convolution of the inputs, nothing returns but the memory.

    z, f, o = split(W_ih x_t + b_ih + V x_{t-1})
    c_t = sigmoid(f) * c_{t-1} + (1 - sigmoid(f)) * tanh(z),  y_t = sigmoid(o) * c_t

    `window` is the width of the convolution: 2, or 1, which has no V. Before the first step V x_{t-1} is 0. Parameters:
    weight_ih (3H, I), weight_previous (3H, I), which is V, and bias_ih (3H). J. Bradbury et al., "Quasi-Recurrent
    Neural Networks", arXiv 1611.01576 (2016).
    """

    def __init__(self, input_size: int, hidden_size: int, *, window: int = 2, bias: bool = True) -> None:
        super().__init__()
        require_positive(input_size=input_size, hidden_size=hidden_size)
        if window not in (1, 2):
            raise ValueError(f"window={window} must be 1 or 2")
        self.input_size, self.hidden_size, self.output_size = input_size, hidden_size, hidden_size
        self.window = window
        self.weight_ih = nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.weight_previous = nn.Parameter(torch.empty(3 * hidden_size, input_size)) if window == 2 else None
        self.bias_ih = nn.Parameter(torch.empty(3 * hidden_size)) if bias else None
        self.reset_parameters()

    def init_carry(self, batch_size: int) -> Carry:
        c = self.weight_ih.new_zeros(batch_size, self.hidden_size)
        return QRNNMemory(c) if self.window == 1 else QRNNCarry(c, c.new_zeros(batch_size, 3 * self.hidden_size))

    def project(self, xs: Tensor) -> Any:
        z = F.linear(xs, self.weight_ih, self.bias_ih)
        return z if self.weight_previous is None else (z, F.linear(xs, self.weight_previous))

    def step(self, carry: Carry, z: Any) -> tuple[Carry, Tensor]:
        a, *v = (z,) if self.window == 1 else (z[0] + carry.v, z[1])
        candidate, forget, output = a.chunk(3, -1)  # each (B, H)
        forget = forget.sigmoid()
        c = forget * carry.c + (1 - forget) * candidate.tanh()
        return type(carry)(c, *v), output.sigmoid() * c
