"""How much a loss depends on states long before it: vanishing and exploding gradients, measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cells import Cell, ElmanCell, carry_tensors
from ..models.language_model import LanguageModel
from .unrolled import named_states, nll_of_each, unroll

QUANTILES = (0.1, 0.5, 0.9)
SMALL = 0.01  # of the norm at the start
SLOPE = {"tanh": 1.0, "relu": 1.0, "identity": 1.0, "sigmoid": 0.25}  # the steepest of an activation


@dataclass
class LagCurve:
    """The norm of d loss_t / d state_{t-k} of one tensor of a carry, for lags k = 0 .. K.

    Args:
        layer: number of the layer, from 0
        state: name of the tensor in the carry: h, or c
        median: over texts and times t
        low: the quantile of 0.1
        high: that of 0.9
        bound: the largest norm that the weights allow, from that at lag 0; None where they say nothing
    """

    layer: int
    state: str
    median: list[float]
    low: list[float]
    high: list[float]
    bound: list[float] | None = None

    @property
    def start(self) -> float:
        """The first median that is not 0: at lag 0, or 1 of a part of the carry that is read only a step later."""
        return next((value for value in self.median if value), 0.0)

    @property
    def gone_at(self) -> int | None:
        """The first lag from which on the median stays under 1 % of its start; None if it does not."""
        small = [value < SMALL * self.start for value in self.median]
        if not small[-1]:
            return None
        return len(small) - next((k for k, one in enumerate(reversed(small)) if not one), len(small))

    def record(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {**vars(self), "start": self.start, "gone_at": self.gone_at}


def gradient_by_lag(model: LanguageModel, tokens: Tensor, *, lags: int, times: int) -> list[LagCurve]:
    """The norm of d loss_t / d state_{t-k} for k = 0 .. lags, of every layer and tensor of its carry.

    || d loss_t / d h_{t-k} ||,  loss_t = -ln p(w_{t+1} | w_1 .. w_t)

    Exact vector-Jacobian products, by autograd through the own steps of cells, along all paths, those through layers
    above included; for each text of `tokens` and each of its last `times` times t. Y. Bengio et al., IEEE
    Transactions on Neural Networks 5 (1994); R. Pascanu et al., arXiv 1211.5063, equation 5.

    Args:
        model: in eval mode
        tokens: (T + 1, B), with T >= lags + times
        lags: the longest lag, in steps
        times: losses that are looked at, in each text
    """
    named = named_states(model)
    if not named:
        return []  # a model without a memory
    steps = len(tokens) - 1
    if steps < lags + times:
        raise ValueError(f"{steps} steps are too few for {lags} lags and {times} times")
    with torch.enable_grad():
        unrolled = unroll(model, tokens[:-1])
        states = [carry_tensors(carry) for carry in unrolled.carries]
        norms = []  # of each time: (tensors, lags + 1, B)
        for t in range(steps - times, steps):
            loss = nll_of_each(model, unrolled.tops[t], tokens[t + 1]).sum()
            wanted = [tensor for k in range(lags + 1) for tensor in states[t - k]]
            found = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
            sizes = [
                torch.zeros(tokens.shape[1]) if one is None else one.flatten(1).double().norm(dim=1).cpu()
                for one in found
            ]
            norms.append(torch.stack(sizes).view(lags + 1, -1, tokens.shape[1]))
    every = torch.stack(norms).permute(2, 1, 0, 3).flatten(2)  # (tensors, lags + 1, times * B)
    low, median, high = torch.from_numpy(np.quantile(every.numpy(), QUANTILES, axis=2))  # torch's has a largest size
    return [
        LagCurve(
            layer, state, median[place].tolist(), low[place].tolist(), high[place].tolist(),
            _bound(cell, median[place]) if layer == named[-1][0] else None,
        )
        for place, (layer, state, cell) in enumerate(named)
    ]  # fmt: skip


def _bound(cell: Cell, median: Tensor) -> list[float] | None:
    """The bound of the highest layer, whose states matter to itself alone, if it is an Elman cell.

    || d loss_t / d h_{t-k} || <= (max |f'| sigma)^k || d loss_t / d h_t ||, with sigma the largest singular value of
    W_hh. Under 1 it is enough for gradients to vanish; above 1 it is needed for them to explode, and not enough.
    """
    if not isinstance(cell, ElmanCell):
        return None
    sigma = SLOPE[cell.activation] * float(torch.linalg.matrix_norm(cell.weight_hh.detach().double(), 2))
    return [float(median[0]) * sigma**k for k in range(len(median))]
