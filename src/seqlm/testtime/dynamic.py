"""Dynamic evaluation: weights that go on learning while they are tested, and are drawn back to where they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Rule = Literal["rms", "sgd"]
Norm = Literal["tensors", "elements"]


class DynamicWeights:
    """Weights w that follow the gradient g of what has just been scored, and decay towards the trained ones w_0.

    rms:  w <- w - lr g / (RMS + epsilon) + decay * min(RMS / mean RMS, 1 / decay) (w_0 - w)
    sgd:  w <- w - lr g + decay (w_0 - w)

    RMS is the root of the mean square of the gradient of each weight over training windows. Its mean: `norm` "tensors"
    is the mean over tensors of their means (the authors' code), "elements" that over all weights. B. Krause,
    E. Kahembwe, I. Murray and S. Renals, arXiv 1709.07432 (2017).
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
    ) -> None:
        self.parameters, self.lr, self.decay, self.epsilon, self.rule, self.norm = (
            list(parameters), lr, decay, epsilon, rule, norm,
        )  # fmt: skip
        self.trained = [parameter.detach().clone() for parameter in self.parameters]
        self.rms: list[Tensor] = []
        self.pull: list[Tensor] = []

    def measure(self, gradients: Callable[[], int]) -> None:
        """Take statistics: `gradients` leaves the gradient of a training window, and returns how many are left."""
        squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        count, left = 0, 1
        while left:
            left = gradients()
            count += 1
            for square, parameter in zip(squares, self.parameters, strict=True):
                assert parameter.grad is not None
                square.addcmul_(parameter.grad, parameter.grad)
        self.use([square.div_(count).sqrt_() for square in squares])

    def use(self, rms: Sequence[Tensor]) -> None:
        """Take statistics that were measured before."""
        if self.norm == "tensors":
            mean = torch.stack([one.mean() for one in rms]).mean()
        else:
            mean = torch.stack([one.sum() for one in rms]).sum() / sum(one.numel() for one in rms)
        most = 1 / self.decay if self.decay else torch.inf
        self.rms, self.pull = list(rms), [(one / mean).clamp_(max=most) for one in rms]

    @torch.no_grad()
    def step(self) -> None:
        """Follow the gradient in the parameters."""
        for index, (parameter, trained) in enumerate(zip(self.parameters, self.trained, strict=True)):
            assert parameter.grad is not None
            drawn = (trained - parameter).mul_(self.decay)
            if self.rule == "rms":
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
