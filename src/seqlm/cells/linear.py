"""Cells whose state enters linearly, unit by unit: a step in time is one product and one sum."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Carry, Cell, Hidden, map_carry, require_positive, state_after
from .dropout import keep_mask


class LinearCell(Cell):
    """A cell with a linear recurrence; authors write `coefficients`, and `read` where the output is not the state.

    z_t = W_ih x_t + b_ih,  a_t, b_t, ... = coefficients(z_t),  h_t = a_t * h_{t-1} + b_t,  y_t = read(h_t, ...)

    Both functions get any number of steps at once, z (T, B, G*H): they compute on the last dimension, and no step and
    no row sees another. The carry is a NamedTuple whose first field is the state (B, H); the values of its other fields
    after each step are returned by `inputs` besides z, as tensors (T, B, ...). Parameters bear torch's names, with
    `num_gates` blocks stacked: weight_ih (G*H, I), bias_ih (G*H) or None. They are drawn as torch.nn.Linear draws them.

    Regularisers are `weight`, here of the input weights, as there are no others (AWD-QRNN; S. Merity et al., arXiv
    1803.08240), and `zoneout` of the state.
    """

    supports = frozenset({"weight", "zoneout"})  # the state is the only memory, and meets no weight

    num_gates: int

    bias_ih: nn.Parameter | None

    def __init__(self, input_size: int, hidden_size: int, *, bias: bool = True) -> None:
        super().__init__()
        require_positive(input_size=input_size, hidden_size=hidden_size)
        self.input_size, self.hidden_size, self.output_size = input_size, hidden_size, hidden_size
        rows = self.num_gates * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.bias_ih = nn.Parameter(torch.empty(rows)) if bias else None
        self.reset_parameters()

    def reset_parameters(self, scale: float | None = None) -> None:
        super().reset_parameters(1 / math.sqrt(self.input_size) if scale is None else scale)

    def init_carry(self, batch_size: int) -> Carry:
        return Hidden(self.weight_ih.new_zeros(batch_size, self.hidden_size))

    def dropped(self, weight: Tensor) -> Tensor:
        """A weight of the input under the mask of a chunk, which is drawn here; in eval mode the weight itself."""
        return self.dropout.drop_weight(weight) if self.training else weight

    def inputs(self, xs: Tensor, carry: Carry) -> tuple[Tensor, ...]:
        return self.bind_inputs()(xs, carry)

    def bind_inputs(self) -> Callable[[Tensor, Carry], tuple[Tensor, ...]]:
        weight, p = self.dropped(self.weight_ih), self.dropout.zoneout

        def inputs(xs: Tensor, carry: Carry) -> tuple[Tensor, ...]:
            z = F.linear(xs, weight, self.bias_ih)
            return (z, keep_mask((*z.shape[:-1], self.hidden_size), 1 - p, z)) if self.training and p else (z,)

        return inputs

    @abstractmethod
    def coefficients(self, z: Tensor) -> tuple[Tensor, ...]:
        """z (T, B, G*H) -> a, b (T, B, H), or broadcast to that, and further arguments of `read`."""

    def read(self, h: Tensor, *gates: Tensor) -> Tensor:
        """States (T, B, H) and the rest of `coefficients` -> outputs (T, B, H)."""
        return h

    @property
    def linear(self) -> bool:
        """Whether `step`, `bind` and `unroll` are those derived from `coefficients`: False in a cell with its own."""
        return all(getattr(type(self), name) is getattr(LinearCell, name) for name in ("step", "bind", "unroll"))

    def unroll(
        self,
        inputs: Any,
        carry: Carry,
        recurrence: Callable[[Tensor, Tensor, Tensor], Tensor],
        lengths: Tensor | None = None,
    ) -> tuple[Carry, Tensor]:
        """Any number of steps by `recurrence`, (a, b, h_0) -> h (T, B, H): result of `inputs`, carry -> (carry, ys).

        With `lengths` (B,) the carry of each row is that after so many steps.
        """
        (a, b, *gates), left = self._terms(inputs)
        hs = recurrence(a, b, carry[0])
        states = zip((hs, *left), carry, strict=True)
        last = (part[-1] if lengths is None else state_after(lengths, part, start) for part, start in states)
        return type(carry)(*last), self.read(hs, *gates)

    def _terms(self, inputs: Any) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Result of `inputs` -> that of `coefficients` with zoneout, and the carry's other fields after each step."""
        z, *left = inputs if isinstance(inputs, tuple) else (inputs,)
        a, b, *gates = self.coefficients(z)
        if p := self.dropout.zoneout:
            if self.training:
                *left, kept = left
                a, b = torch.where(kept, 1.0, a), torch.where(kept, 0.0, b)
            else:
                a, b = p + (1 - p) * a, (1 - p) * b
        return (a, b, *gates), left

    def step(self, carry: Carry, z: Any) -> tuple[Carry, Tensor]:
        (a, b, *gates), left = self._terms(map_carry(lambda part: part.unsqueeze(0), z))
        h = (a * carry[0] + b)[0]  # of which the output is made: its gradient is that of the whole loss
        return type(carry)(h, *(part[0] for part in left)), self.read(h.unsqueeze(0), *gates)[0]
