"""Minimal long short-term memory, linear in its state."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Cell, Hidden, require_positive
from .min_gru import Candidate, candidate_named


class MinLSTMCell(Cell):
    """minLSTM cell: gates that depend on the input alone and add up to 1; no memory besides the hidden state.

    i, f, n = split(W_ih x_t + b_ih)
    f' = sigmoid(f) / (sigmoid(f) + sigmoid(i)),  i' = sigmoid(i) / (sigmoid(f) + sigmoid(i))
    h_t = f' * h_{t-1} + i' * g(n),  y_t = h_t

    `candidate`: g as in MinGRUCell. Parameters: weight_ih (3H, I), bias_ih (3H). L. Feng et al., "Were RNNs All We
    Needed?", arXiv 2410.01201 (2024).
    """

    def __init__(
        self, input_size: int, hidden_size: int, *, candidate: Candidate = "identity", bias: bool = True
    ) -> None:
        super().__init__()
        require_positive(input_size=input_size, hidden_size=hidden_size)
        self.input_size, self.hidden_size, self.output_size = input_size, hidden_size, hidden_size
        self.candidate, self._g = candidate, candidate_named(candidate)
        self.weight_ih = nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.bias_ih = nn.Parameter(torch.empty(3 * hidden_size)) if bias else None
        self.reset_parameters()

    def init_carry(self, batch_size: int) -> Hidden:
        return Hidden(self.weight_ih.new_zeros(batch_size, self.hidden_size))

    def project(self, xs: Tensor) -> Tensor:
        return F.linear(xs, self.weight_ih, self.bias_ih)

    def step(self, carry: Hidden, z: Tensor) -> tuple[Hidden, Tensor]:
        i, f, candidate = z.chunk(3, -1)  # each (B, H)
        # f' from the quotient of the gates: where both are too small for their sum, 0 / 0 would not be a number.
        forget = (F.logsigmoid(f) - F.logsigmoid(i)).sigmoid()
        h = forget * carry.h + (1 - forget) * self._g(candidate)
        return Hidden(h), h
