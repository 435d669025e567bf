"""Recurrent highway network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import Cell, Hidden, Step, masked_affine, require_positive


class RHNCell(Cell):
    """Recurrent highway cell: `depth` highway layers in one step of time, carry gate coupled to the transform gate.

    s_0 = h_{t-1};  for l = 1 .. depth:  a, b = split(W_hh^l s_{l-1} + b_hh^l + (W_ih x_t if l = 1 else 0))
    s_l = sigmoid(b) * tanh(a) + (1 - sigmoid(b)) * s_{l-1}
    h_t = s_depth,  y_t = h_t

    Parameters: weight_ih (2H, I), weight_hh (depth*2H, H), bias_hh (depth*2H), the layers stacked. `transform_bias` is
    what the bias of every transform gate b starts from: below 0, the state is carried. A mask on the state is one for
    all layers and steps. J. G. Zilly et al., "Recurrent Highway Networks", arXiv 1607.03474 (2016).
    """

    supports = frozenset({"weight", "state", "per_gate", "input"})  # its carry gate keeps units already

    def __init__(self, input_size: int, hidden_size: int, *, depth: int = 5, transform_bias: float = -2.0) -> None:
        super().__init__()
        require_positive(input_size=input_size, hidden_size=hidden_size, depth=depth)
        self.input_size, self.hidden_size, self.output_size = input_size, hidden_size, hidden_size
        self.depth, self.transform_bias = depth, transform_bias
        self.weight_ih = nn.Parameter(torch.empty(2 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(depth * 2 * hidden_size, hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(depth * 2 * hidden_size))
        self.reset_parameters()

    def init_carry(self, batch_size: int) -> Hidden:
        return Hidden(self.weight_hh.new_zeros(batch_size, self.hidden_size))

    def reset_parameters(self, scale: float | None = None) -> None:
        super().reset_parameters(scale)
        with torch.no_grad():
            self.bias_hh.view(self.depth, 2, -1)[:, 1] = self.transform_bias

    def project(self, xs: Tensor) -> Tensor:
        return masked_affine(self.weight_ih, None, self.drops.draw_input(xs, gates=2))(xs)

    def bind(self, carry: Hidden) -> Step:
        weight, mask = self.drops.draw(self.weight_hh, carry.h.shape[0], gates=2)
        blocks = zip(weight.chunk(self.depth), self.bias_hh.chunk(self.depth), strict=True)
        first, *deeper = [masked_affine(w, b, mask) for w, b in blocks]

        def step(carry: Hidden, z: Tensor) -> tuple[Hidden, Tensor]:
            s = _highway(z + first(carry.h), carry.h)
            for affine in deeper:
                s = _highway(affine(s), s)
            return Hidden(s), s

        return step

    def step(self, carry: Hidden, z: Tensor) -> tuple[Hidden, Tensor]:
        return self.bind(carry)(carry, z)


def _highway(a: Tensor, s: Tensor) -> Tensor:
    """One layer: pre-activations a (B, 2H), state s (B, H) -> state."""
    candidate, transform = a.chunk(2, -1)
    return s + transform.sigmoid() * (candidate.tanh() - s)
