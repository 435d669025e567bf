"""Gated recurrent unit, in its three forms."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from .base import GatedCell, Hidden, Step, masked_affine


class GRUCell(GatedCell):
    """GRU cell; with `reset="after"` the equations, names and weights of torch.nn.GRUCell.

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr),  z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    reset="after":   n = tanh(W_in x + b_in + r * (W_hn h + b_hn))      (arXiv 1406.1078v1; torch, cuDNN)
    reset="before":  n = tanh(W_in x + b_in + W_hn (r * h) + b_hn)      (arXiv 1406.1078v3)
    h_t = (1 - z) * n + z * h_{t-1},  y_t = h_t

    reset="none" is the form with one gate that textbooks begin with (A. Ng, "Sequence Models", DeepLearning.AI), where
    the gate says how much is new; its blocks are u and n, so that weight_ih is (2H, I):
    u = sigmoid(W_iu x + b_iu + W_hu h + b_hu),  n = tanh(W_in x + b_in + W_hn h + b_hn)
    h_t = u * n + (1 - u) * h_{t-1}

    K. Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", arXiv 1406.1078 (2014).
    """

    num_gates = 3  # 2 with reset="none"
    block_names: tuple[str, ...] = ("reset", "update", "candidate")
    kept_by = "update"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        reset: Literal["after", "before", "none"] = "after",
    ) -> None:
        if reset not in ("after", "before", "none"):
            raise ValueError(f"reset={reset!r} is unknown; allowed: after, before, none")
        self.reset, self.num_gates = reset, 2 if reset == "none" else 3
        self.gate_names = {"after": ("update", "reset"), "before": ("reset", "update"), "none": ("update",)}[reset]
        if reset == "none":
            self.block_names, self.kept_by = self.block_names[1:], "1-update"
        super().__init__(input_size, hidden_size, bias=bias)

    @property
    def gated(self) -> bool:
        own = type(self).step is GRUCell.step and type(self).bind is GRUCell.bind
        return own and self.reset != "before"

    def gates(self, z: Tensor, r: Tensor, carry: Hidden) -> Hidden:
        if self.reset == "none":
            update, candidate = (z + r).chunk(2, -1)
            update, candidate = update.sigmoid(), candidate.tanh()
            return Hidden(update * candidate + (1 - update) * carry.h)
        zr, zz, zn = z.chunk(3, -1)
        rr, rz, rn = r.chunk(3, -1)
        update = (zz + rz).sigmoid()
        candidate = (zn + (zr + rr).sigmoid() * rn).tanh()
        return Hidden((1 - update) * candidate + update * carry.h)

    def bind(self, carry: Hidden) -> Step:
        if self.reset != "before":
            return self._bind_gates(carry)
        # Two matmuls in a row: the reset state must be known before the candidate's one can start.
        rows = [2 * self.hidden_size, self.hidden_size]
        weight, bias, mask, _ = self.recurrence(carry.h.shape[0])
        weight_gates, weight_n = weight.split(rows)
        bias_gates, bias_n = (None, None) if bias is None else bias.split(rows)
        mask_gates, mask_n = (mask[:2], mask[2]) if mask is not None and mask.dim() == 3 else (mask, mask)
        gates = masked_affine(weight_gates, bias_gates, mask_gates)
        candidate_of = masked_affine(weight_n, bias_n, mask_n)

        def step(carry: Hidden, z: Any) -> tuple[Hidden, Tensor]:
            def update(z: Tensor) -> Hidden:
                z_gates, zn = z.split(rows, -1)
                reset, update = (z_gates + gates(carry.h)).sigmoid().chunk(2, -1)
                candidate = (zn + candidate_of(reset * carry.h)).tanh()
                return Hidden((1 - update) * candidate + update * carry.h)

            new: Hidden = self._zoned(update, z, carry)
            return new, new.h

        return step
