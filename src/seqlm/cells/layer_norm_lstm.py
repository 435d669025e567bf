"""LSTM with normalised pre-activations and memory."""

from __future__ import annotations

from torch import Tensor, nn

from .base import GatedCell
from .lstm import LSTMCarry


class LayerNormLSTMCell(GatedCell):
    """LSTM cell with layer normalisation of both projections and of the memory cell.

    i, f, g, o = split(LN(W_ih x_t + b_ih) + LN(W_hh h_{t-1} + b_hh))
    c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g),  h_t = sigmoid(o) * tanh(LN(c_t)),  y_t = h_t
    LN(a) = gain * (a - mean(a)) / sqrt(var(a) + 1e-5) + shift, over all 4H or H numbers of a row

    Parameters are those of LSTMCell and norm_ih, norm_hh (4H), norm_c (H) with gain `weight` and shift `bias`, 1 and 0
    at the start. J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer Normalization", arXiv 1607.06450 (2016), eq. 20-22.
    """

    num_gates, carry_type = 4, LSTMCarry
    block_names = ("input", "forget", "candidate", "output")
    gate_names, kept_by = ("forget", "input", "output"), "forget"

    def __init__(self, input_size: int, hidden_size: int, *, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size, bias=bias)
        self.norm_ih, self.norm_hh = nn.LayerNorm(4 * hidden_size), nn.LayerNorm(4 * hidden_size)
        self.norm_c = nn.LayerNorm(hidden_size)

    def reset_parameters(self, scale: float | None = None) -> None:
        super().reset_parameters(scale)
        for norm in self.children():
            norm.reset_parameters()  # type: ignore[operator]

    def gates(self, z: Tensor, r: Tensor, carry: LSTMCarry) -> LSTMCarry:
        i, f, g, o = (self.norm_ih(z) + self.norm_hh(r)).chunk(4, -1)  # each (B, H)
        c = f.sigmoid() * carry.c + i.sigmoid() * g.tanh()
        return LSTMCarry(o.sigmoid() * self.norm_c(c).tanh(), c)
