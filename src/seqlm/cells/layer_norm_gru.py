"""GRU with normalised pre-activations."""

from __future__ import annotations

from torch import Tensor, nn

from .base import GatedCell, Hidden


class LayerNormGRUCell(GatedCell):
    """GRU cell, reset after the matmul, with layer normalisation of both projections.

    r, z = sigmoid(split(LN(W_i x_t + b_i) + LN(W_h h_{t-1} + b_h)))  over the rows of r and z together
    n = tanh(LN(W_in x_t + b_in) + r * LN(W_hn h_{t-1} + b_hn))
    h_t = (1 - z) * n + z * h_{t-1},  y_t = h_t
    LN(a) = gain * (a - mean(a)) / sqrt(var(a) + 1e-5) + shift, over the 2H or H numbers of a row

    Parameters are those of GRUCell and norm_ih, norm_hh (2H), norm_in, norm_hn (H) with gain `weight` and shift `bias`,
    1 and 0 at the start. J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer Normalization", arXiv 1607.06450 (2016),
    appendix; z and 1 - z change places, as in torch.
    """

    num_gates = 3
    block_names = ("reset", "update", "candidate")
    gate_names, kept_by = ("reset", "update"), "update"

    def __init__(self, input_size: int, hidden_size: int, *, bias: bool = True) -> None:
        super().__init__(input_size, hidden_size, bias=bias)
        self.norm_ih, self.norm_hh = nn.LayerNorm(2 * hidden_size), nn.LayerNorm(2 * hidden_size)
        self.norm_in, self.norm_hn = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)

    def reset_parameters(self, scale: float | None = None) -> None:
        super().reset_parameters(scale)
        for norm in self.children():
            norm.reset_parameters()  # type: ignore[operator]

    def gates(self, z: Tensor, r: Tensor, carry: Hidden) -> Hidden:
        rows = [2 * self.hidden_size, self.hidden_size]
        (z_gates, zn), (r_gates, rn) = z.split(rows, -1), r.split(rows, -1)
        reset, update = (self.norm_ih(z_gates) + self.norm_hh(r_gates)).sigmoid().chunk(2, -1)  # each (B, H)
        candidate = (self.norm_in(zn) + reset * self.norm_hn(rn)).tanh()
        return Hidden((1 - update) * candidate + update * carry.h)
