"""Dynamic evaluation: weights that go on learning while they are tested, and are drawn back to where they were."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Rule = Literal["rms", "sgd"]
Norm = Literal["tensors", "elements", "sums"]


class Statistics(NamedTuple):
    """The root of the mean square of the gradient of each weight over so many training chunks."""

    rms: list[Tensor]
    chunks: int


def gradient_statistics(parameters: Sequence[nn.Parameter], chunks: Iterable[object]) -> Statistics:
    """Measure them; every step of `chunks` leaves the gradient of a training chunk in the parameters."""
    squares, count = [torch.zeros_like(parameter) for parameter in parameters], 0
    for _ in chunks:
        count += 1
        for square, parameter in zip(squares, parameters, strict=True):
            assert parameter.grad is not None
            square.addcmul_(parameter.grad, parameter.grad)
    return Statistics([square.div_(count).sqrt_() for square in squares], count)


class DynamicWeights:
    """Weights w that follow the gradient g of what has just been scored, and decay towards the trained ones w_0.

    rms:  w <- w - lr g / (RMS + epsilon) + decay * min(RMS / mean RMS, 1 / decay) (w_0 - w)
    sgd:  w <- w - lr g + decay (w_0 - w)

    RMS is the root of the mean square of the gradient of each weight over training chunks: the `statistics` that rms
    needs. Its mean: `norm` "tensors" is the mean over tensors of their means (the authors' code), "elements" that over
    all weights; "sums" is the authors' first code, which others took over: it has sums for both means, so that other
    numbers for lr, decay and epsilon make the same steps. B. Krause, E. Kahembwe, I. Murray and S. Renals, arXiv
    1709.07432 (2017).
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        lr: float,
        decay: float,
        epsilon: float = 2e-5,
        rule: Rule = "rms",
        norm: Norm = "tensors",
        statistics: Statistics | None = None,
    ) -> None:
        self.parameters = list(parameters)
        self.trained = [parameter.detach().clone() for parameter in self.parameters]
        self.rms: list[Tensor] = []
        self.pull: list[Tensor] = []
        if rule == "rms":
            if statistics is None:
                raise ValueError("rule='rms' needs statistics")
            self.rms = statistics.rms
            if norm == "sums":
                scale = statistics.chunks**0.5
                lr, epsilon, decay = lr / scale, epsilon / scale, decay / len(self.rms)
            if norm == "elements":
                mean = torch.stack([one.sum() for one in self.rms]).sum() / sum(one.numel() for one in self.rms)
            else:
                mean = torch.stack([one.mean() for one in self.rms]).mean()
            most = 1 / decay if decay else torch.inf
            self.pull = [(one / mean).clamp_(max=most) for one in self.rms]
        self.lr, self.decay, self.epsilon = lr, decay, epsilon

    def follow(self, loss: Tensor) -> None:
        """Take a step down the gradient of `loss`."""
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        self.step()

    @torch.no_grad()
    def step(self) -> None:
        """Follow the gradient in the parameters."""
        for index, (parameter, trained) in enumerate(zip(self.parameters, self.trained, strict=True)):
            assert parameter.grad is not None
            drawn = (trained - parameter).mul_(self.decay)
            if self.rms:
                parameter.addcdiv_(parameter.grad, self.rms[index] + self.epsilon, value=-self.lr)
                drawn *= self.pull[index]
            else:
                parameter.add_(parameter.grad, alpha=-self.lr)
            parameter.add_(drawn)

    @torch.no_grad()
    def restore(self) -> None:
        """The trained weights again."""
        for parameter, trained in zip(self.parameters, self.trained, strict=True):
            parameter.copy_(trained)
            parameter.grad = None
