"""The gradient of a batch whose rows are shared out over ranks: summed while backward still runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..cells import Carry
from ..errors import NonFiniteError
from .distributed import Ranks
from .gradient import Nothing, nothing

SMALL = 1 << 14  # numbers: so few take as long to send as one


class Gradient(Protocol):
    """A function that leaves the gradient of some rows in the parameters, such as `gradient`."""

    def __call__(
        self, batch: Any, carry: Carry, normalizer: float, *, before_last: Nothing = nothing
    ) -> tuple[Carry, Tensor]: ...


class SharedGradient:
    """The gradient of all rows on every rank, each of which has read its own: (sum of losses + penalties) / normalizer.

    `normalizer` is that of the whole batch, so gradients add up. A large one is sent as soon as backward is done with
    it, in one order on all ranks, from the last parameter to the first, which is about the order of backward; in the
    last of several parts only. Small ones are sent at the end, in one vector with the loss and with a mark for each
    parameter that has a gradient: one that has none on a rank counts as 0 there, and one that has none on any rank
    stays without, as in one process. A rank for which a short batch has no row takes part with zeros, and one whose
    model cannot draw (NonFiniteError) with a loss of NaN, so that all ranks skip that batch.

    Args:
        own: leaves the gradient of this rank's rows in `parameters`.
        ranks: those that the batch is shared out over, more than one.
    """

    def __init__(self, own: Gradient, parameters: Sequence[nn.Parameter], ranks: Ranks) -> None:
        self.own, self.parameters, self.ranks = own, parameters, ranks
        self.small = [one for one in parameters if one.numel() <= SMALL]
        self.large = [one for one in reversed(parameters) if one.numel() > SMALL]
        self._ready: set[nn.Parameter] = set()
        self._sent: list[Any] = []  # of `large`, in its order: what is waited for
        self._open = False  # whether gradients are whole when backward leaves them
        for parameter in self.large:
            parameter.register_post_accumulate_grad_hook(self._is_ready)

    def __call__(self, rows: Any | None, carry: Carry, normalizer: float) -> tuple[Carry, Tensor]:
        """Like `own`, with the loss and the gradient of all rows; `rows` is None on a rank that has none."""
        self._ready.clear()
        self._sent.clear()
        loss = torch.zeros((), device=self.parameters[0].device)
        try:
            if rows is None:
                for parameter in self.parameters:
                    parameter.grad = None
            else:
                carry, loss = self.own(rows, carry, normalizer, before_last=self._begin)
        except NonFiniteError:
            loss = loss.new_tensor(math.nan)
        self._open = False
        return carry, self._add_up(loss)

    def _begin(self) -> None:
        self._open = True

    def _is_ready(self, parameter: Tensor) -> None:
        """Send what can be sent, now that backward is done with a parameter."""
        if self._open:
            self._ready.add(parameter)  # type: ignore[arg-type]
            while len(self._sent) < len(self.large) and self.large[len(self._sent)] in self._ready:
                self._send_next()

    def _send_next(self) -> None:
        parameter = self.large[len(self._sent)]
        found = parameter.grad
        parameter.grad = torch.zeros_like(parameter) if found is None else found.contiguous()
        self._sent.append(self.ranks.begin_adding(parameter.grad))

    def _add_up(self, loss: Tensor) -> Tensor:
        """Send the rest, wait for all of it; returns the loss of all rows."""
        has = [parameter.grad is not None for parameter in self.parameters]
        while len(self._sent) < len(self.large):
            self._send_next()
        rest = [torch.zeros_like(one) if one.grad is None else one.grad for one in self.small]
        marks = torch.tensor(has, dtype=torch.float64, device=loss.device)
        # In float64 no sum of float32 is rounded before all of it is there.
        vector = torch.cat([loss.double().view(1), marks, *(one.double().flatten() for one in rest)])
        self.ranks.add(vector)
        total, marks, *sums = vector.split([1, len(has), *(one.numel() for one in rest)])
        for parameter, held, found in zip(self.small, rest, sums, strict=True):
            parameter.grad = held.copy_(found.view_as(held))
        for sent in self._sent:
            sent.wait()
        for parameter, mark in zip(self.parameters, marks.tolist(), strict=True):
            if not mark:
                parameter.grad = None
        whole: Tensor = total[0]
        return whole
