"""LSTM whose input and hidden state gate each other first."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from .base import Step, require_positive
from .lstm import LSTMCarry, LSTMCell


class MogrifierLSTMCell(LSTMCell):
    """Mogrifier LSTM cell: `rounds` of mutual gating of x and h, then the step of LSTMCell.

    x^{-1} = x_t,  h^0 = h_{t-1}
    x^i = 2 sigmoid(Q^i h^{i-1}) * x^{i-2}  for odd i <= rounds,  h^i = 2 sigmoid(R^i x^{i-1}) * h^{i-2}  for even ones
    h_t, c_t = LSTM(x, h, c_{t-1}) with the last x and the last h,  y_t = h_t

    Q^i (I, H) and R^i (H, I) have no bias, as in the paper, or with `round_bias` one that starts at 0, as in the
    authors' code. With `rank` k each is a product of two factors, (I, k) (k, H) and (H, k) (k, I). They are
    `modulators`, in the order of the rounds; other parameters and arguments are those of LSTMCell. A mask on the state
    is one on h^0; weight-drop is of weight_hh. G. Melis, T. Kocisky and P. Blunsom, "Mogrifier LSTM", arXiv
    1909.01792 (2019).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        rounds: int = 5,
        rank: int | None = None,
        round_bias: bool = False,
        bias: bool = True,
        forget_bias: float = 0.0,
        input_gate: Literal["free", "capped", "coupled"] = "free",
    ) -> None:
        if rounds < 0:
            raise ValueError(f"rounds={rounds} must be at least 0")
        if rank is not None:
            require_positive(rank=rank)
        if not rounds and (rank is not None or round_bias):
            raise ValueError("rank and round_bias do nothing with rounds=0; leave them out")
        super().__init__(input_size, hidden_size, bias=bias, forget_bias=forget_bias, input_gate=input_gate)
        odd, even = (hidden_size, input_size), (input_size, hidden_size)
        self.modulators = nn.ModuleList(_linear(*(even if i % 2 else odd), rank, round_bias) for i in range(rounds))
        self.reset_parameters()

    def reset_parameters(self, scale: float | None = None) -> None:
        super().reset_parameters(scale)
        for name, parameter in self.named_parameters():
            if name.startswith("modulators.") and name.endswith(".bias"):
                nn.init.zeros_(parameter)

    @property
    def supports(self) -> Collection[str]:  # type: ignore[override]
        return frozenset(super().supports) - {"per_gate", "input"}  # the state is masked once, before the rounds

    def project(self, xs: Tensor) -> Tensor:
        return xs  # its product waits for the state

    def modulate(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, I) and h (B, H) after all rounds."""
        for i, modulator in enumerate(self.modulators):  # i counts from 0, rounds from 1
            if i % 2:
                h = 2 * modulator(x).sigmoid() * h
            else:
                x = 2 * modulator(h).sigmoid() * x
        return x, h

    def bind(self, carry: LSTMCarry) -> Step:
        weight, bias, mask, _ = self.recurrence(carry.h.shape[0])

        def step(carry: LSTMCarry, z: Any) -> tuple[LSTMCarry, Tensor]:
            def update(x: Tensor) -> LSTMCarry:
                x, h = self.modulate(x, carry.h if mask is None else carry.h * mask)
                return self.gates(F.linear(x, self.weight_ih, self.bias_ih), F.linear(h, weight, bias), carry)

            new: LSTMCarry = self._zoned(update, z, carry)
            return new, new.h

        return step


def _linear(inputs: int, outputs: int, rank: int | None, bias: bool) -> nn.Module:
    """A linear map, or the product of two of them."""
    if rank is None:
        return nn.Linear(inputs, outputs, bias=bias)
    return nn.Sequential(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=bias))
