"""Minimal long short-term memory, linear in its state."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .min_gru import MinGRUCell


class MinLSTMCell(MinGRUCell):
    """minLSTM cell: gates that depend on the input alone and add up to 1; no memory besides the hidden state.

    i, f, n = split(W_ih x_t + b_ih)
    f' = sigmoid(f) / (sigmoid(f) + sigmoid(i)),  i' = sigmoid(i) / (sigmoid(f) + sigmoid(i))
    h_t = f' * h_{t-1} + i' * g(n),  y_t = h_t

    `candidate`: g as in MinGRUCell. Parameters: weight_ih (3H, I), bias_ih (3H). L. Feng et al., "Were RNNs All We
    Needed?", arXiv 2410.01201 (2024).
    """

    num_gates = 3  # two gates, the candidate
    gate_names, kept_by = ("forget",), "forget"

    def coefficients(self, z: Tensor) -> tuple[Tensor, ...]:
        i, f, candidate = z.chunk(3, -1)
        # f' from the quotient of the gates: where both are too small for their sum, 0 / 0 would not be a number.
        forget = (F.logsigmoid(f) - F.logsigmoid(i)).sigmoid()
        return forget, (1 - forget) * self._g(candidate)
