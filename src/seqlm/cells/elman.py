"""The simple recurrent network."""

from __future__ import annotations

from torch import Tensor

from .activations import Activation, activation_named
from .base import GatedCell, Hidden


class ElmanCell(GatedCell):
    """Elman cell: the hidden layer returns as context.

    h_t = f(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh),  y_t = h_t

    f is `activation`: tanh, relu, sigmoid or identity. Equals torch.nn.RNNCell for tanh and relu.
    J. L. Elman, "Finding Structure in Time", Cognitive Science 14 (1990).
    """

    num_gates = 1

    def __init__(
        self, input_size: int, hidden_size: int, *, activation: Activation = "tanh", bias: bool = True
    ) -> None:
        super().__init__(input_size, hidden_size, bias=bias)
        self.activation = activation
        self._f = activation_named("activation", activation)

    def gates(self, z: Tensor, r: Tensor, carry: Hidden) -> Hidden:
        return Hidden(self._f(z + r))
