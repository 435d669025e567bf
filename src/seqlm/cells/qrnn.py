"""Quasi-recurrent network: a convolution in time, then a gated average."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Carry
from .linear import LinearCell


class QRNNMemory(NamedTuple):
    """Carry of a QRNN with a window of 1."""

    c: Tensor  # (B, H)


class QRNNCarry(NamedTuple):
    """Carry of a QRNN with a window of 2."""

    c: Tensor  # (B, H)
    x: Tensor  # (B, I): x_{t-1}, so that the convolution sees across the borders of chunks


class QRNNCell(LinearCell):
    """Quasi-recurrent cell with fo-pooling: gates are a convolution of the inputs, nothing returns but the memory.

    z, f, o = split(W_ih x_t + b_ih + V x_{t-1})
    c_t = sigmoid(f) * c_{t-1} + (1 - sigmoid(f)) * tanh(z),  y_t = sigmoid(o) * c_t

    `window` is the width of the convolution: 2, or 1, which has no V. Before the first step x_{t-1} is 0. Parameters:
    weight_ih (3H, I), weight_previous (3H, I), which is V, and bias_ih (3H). Zoneout sets forget gates to 1, as in the
    paper. J. Bradbury et al., "Quasi-Recurrent Neural Networks", arXiv 1611.01576 (2016).
    """

    num_gates = 3
    gate_names, kept_by = ("forget", "output"), "forget"

    def __init__(self, input_size: int, hidden_size: int, *, window: int = 2, bias: bool = True) -> None:
        if window not in (1, 2):
            raise ValueError(f"window={window} must be 1 or 2")
        self.window = window
        super().__init__(input_size, hidden_size, bias=bias)
        self.weight_previous = nn.Parameter(torch.empty_like(self.weight_ih)) if window == 2 else None
        self.reset_parameters()

    def reset_parameters(self, scale: float | None = None) -> None:
        super().reset_parameters(1 / math.sqrt(self.window * self.input_size) if scale is None else scale)

    def init_carry(self, batch_size: int) -> Carry:
        c = self.weight_ih.new_zeros(batch_size, self.hidden_size)
        return QRNNMemory(c) if self.window == 1 else QRNNCarry(c, c.new_zeros(batch_size, self.input_size))

    def bind_inputs(self) -> Callable[[Tensor, Carry], tuple[Tensor, ...]]:
        one = super().bind_inputs()
        if self.weight_previous is None:
            return one
        weight = self.dropped(self.weight_previous)

        def both(xs: Tensor, carry: Carry) -> tuple[Tensor, ...]:
            z, *drawn = one(xs, carry)
            previous = torch.cat([carry.x.unsqueeze(0), xs[:-1]])
            return z + F.linear(previous, weight), xs, *drawn

        return both

    def coefficients(self, z: Tensor) -> tuple[Tensor, ...]:
        candidate, forget, output = z.chunk(3, -1)
        forget = forget.sigmoid()
        return forget, (1 - forget) * candidate.tanh(), output

    def read(self, h: Tensor, *gates: Tensor) -> Tensor:
        (output,) = gates
        return output.sigmoid() * h
