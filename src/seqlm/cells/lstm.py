"""Long short-term memory."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .base import GatedCell


class LSTMCarry(NamedTuple):
    h: Tensor  # (B, H) hidden state, which is also the output
    c: Tensor  # (B, H) memory cell


class LSTMCell(GatedCell):
    """LSTM cell with forget gate, no peepholes; conventions, names and equations of torch.nn.LSTMCell.

    i, f, g, o = split(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)
    c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g),  h_t = sigmoid(o) * tanh(c_t),  y_t = h_t

    `input_gate`: "free" as above; "capped": min(sigmoid(i), 1 - sigmoid(f)) in place of sigmoid(i), so that memory
    cannot grow without bound; "coupled": 1 - sigmoid(f), and then weights have three blocks: f, g, o.
    `forget_bias` is added to the forget gate's bias at initialisation only: 1 keeps memory open at the
    start of training. S. Hochreiter and J. Schmidhuber, Neural Computation 9 (1997); forget gate:
    F. A. Gers et al., Neural Computation 12 (2000); bias of 1: R. Jozefowicz et al., ICML (2015); capped: G. Melis
    et al., arXiv 1707.05589; coupled: K. Greff et al., arXiv 1503.04069.
    """

    num_gates, carry_type = 4, LSTMCarry
    block_names: tuple[str, ...] = ("input", "forget", "candidate", "output")
    gate_names: tuple[str, ...] = ("forget", "input", "output")
    kept_by = "forget"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        forget_bias: float = 0.0,
        input_gate: Literal["free", "capped", "coupled"] = "free",
    ) -> None:
        if forget_bias and not bias:
            raise ValueError(f"forget_bias={forget_bias} needs bias=true")
        if input_gate not in ("free", "capped", "coupled"):
            raise ValueError(f"input_gate={input_gate!r} is unknown; allowed: free, capped, coupled")
        self.forget_bias, self.input_gate = forget_bias, input_gate
        self.num_gates = 3 if input_gate == "coupled" else 4
        if input_gate == "coupled":
            self.block_names, self.gate_names = self.block_names[1:], ("forget", "output")
        super().__init__(input_size, hidden_size, bias=bias)

    def reset_parameters(self, scale: float | None = None) -> None:
        super().reset_parameters(scale)
        if self.bias_ih is not None:
            with torch.no_grad():
                self.bias_ih.view(self.num_gates, -1)[self.num_gates - 3] += self.forget_bias

    def gates(self, z: Tensor, r: Tensor, carry: LSTMCarry) -> LSTMCarry:
        *i, f, g, o = (z + r).chunk(self.num_gates, -1)  # each (B, H)
        forget = f.sigmoid()
        if self.input_gate == "free":
            gate = i[0].sigmoid()
        elif self.input_gate == "capped":
            gate = torch.minimum(i[0].sigmoid(), 1 - forget)
        else:
            gate = 1 - forget
        c = forget * carry.c + gate * g.tanh()
        return LSTMCarry(o.sigmoid() * c.tanh(), c)
