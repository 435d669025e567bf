"""Heads that predict numbers: for a whole sequence, or for each of its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..data.batching.bucketed import ExampleBatch
from ..layers import exact
from .label_head import PooledHead, Pooling
from .sequence_model import size_of


class ValueHead(PooledHead):
    """K numbers for every sequence, W p + b with p as PooledHead pools it, or for every step, W y_t + b.

    Which of the two follows from the data. loss = sum (prediction - target)^2 over the targets that are not NaN.
    """

    numbers = 1  # outputs for each target: the parameters of its distribution

    def __init__(self, input_size: int, sizes: Mapping[str, int], pooling: Pooling | None = None) -> None:
        super().__init__(input_size, sizes, pooling or "last")
        self.steps = bool(sizes.get("value_steps"))
        if self.steps and pooling is not None:
            raise ValueError(f"pooling={pooling} does nothing: this data has a value for each step; use null")
        self.linear = torch.nn.Linear(input_size, self.numbers * size_of(sizes, "num_values", "values"))

    def outputs(self, ys: Tensor, lengths: Tensor) -> Tensor:
        """The outputs of the last layer, (T, B, numbers * K) or (1, B, numbers * K), not in bfloat16."""
        return exact(self.linear(ys if self.steps else self.pool(ys, lengths).unsqueeze(0)))

    def values(self, ys: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """Predictions (T or 1, B, K), and their standard deviations where the head knows them."""
        return self.outputs(ys, lengths), None

    def loss_sum(self, ys: Tensor, lengths: Tensor, batch: ExampleBatch) -> Tensor:
        """Summed loss of the targets of a batch that are not missing."""
        outputs, target = self.outputs(ys, lengths), batch["value"]
        known = ~target.isnan()
        parts = [part[known] for part in outputs.chunk(self.numbers, -1)]
        return self.losses(target[known].to(outputs.dtype), *parts).sum()

    def losses(self, target: Tensor, mean: Tensor, *others: Tensor) -> Tensor:
        """The loss of each target (N,), given the numbers of its distribution."""
        return (mean - target).square()


class GaussianHead(ValueHead):
    """A normal distribution for every number: mean m and log-variance s are linear in the output.

    loss = (ln(2 pi) + s + (target - m)^2 exp(-s)) / 2 in nats. D. A. Nix and A. S. Weigend, "Estimating the mean and
    variance of the target probability distribution" (1994).
    """

    numbers = 2

    def values(self, ys: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        mean, log_variance = self.outputs(ys, lengths).chunk(2, -1)
        return mean, (log_variance / 2).exp()

    def losses(self, target: Tensor, mean: Tensor, *others: Tensor) -> Tensor:
        (log_variance,) = others
        return (math.log(2 * math.pi) + log_variance + (target - mean).square() * (-log_variance).exp()) / 2
