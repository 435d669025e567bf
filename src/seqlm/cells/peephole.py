"""LSTM whose gates look at the memory cell."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import GatedCell
from .lstm import LSTMCarry


class PeepholeLSTMCell(GatedCell):
    """LSTM cell with peepholes: the gates see the memory cell through one weight for each unit.

    i, f, g, o = split(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)
    c_t = sigmoid(f + w_cf * c_{t-1}) * c_{t-1} + sigmoid(i + w_ci * c_{t-1}) * tanh(g)
    h_t = sigmoid(o + w_co * c_t) * tanh(c_t),  y_t = h_t

    Parameters are those of LSTMCell and weight_ci, weight_cf, weight_co (H). F. A. Gers, N. N. Schraudolph and
    J. Schmidhuber, "Learning Precise Timing with LSTM Recurrent Networks", JMLR 3 (2002).
    """

    num_gates, carry_type = 4, LSTMCarry
    block_names = ("input", "forget", "candidate", "output")
    gate_names, kept_by = ("forget", "input", "output"), "forget"

    def __init__(self, input_size: int, hidden_size: int, *, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size, bias=bias)
        self.weight_ci = nn.Parameter(torch.empty(hidden_size))
        self.weight_cf = nn.Parameter(torch.empty(hidden_size))
        self.weight_co = nn.Parameter(torch.empty(hidden_size))
        self.reset_parameters()

    def gates(self, z: Tensor, r: Tensor, carry: LSTMCarry) -> LSTMCarry:
        i, f, g, o = (z + r).chunk(4, -1)  # each (B, H)
        forget = (f + self.weight_cf * carry.c).sigmoid()
        c = forget * carry.c + (i + self.weight_ci * carry.c).sigmoid() * g.tanh()
        return LSTMCarry((o + self.weight_co * c).sigmoid() * c.tanh(), c)
