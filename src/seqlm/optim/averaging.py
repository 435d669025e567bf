"""Averages of the weights, kept beside them: the optimizer goes on from the weights, evaluations use the average."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .schedules import Moment, Rank


class Averaging:
    """No average. A subclass decides when it `begins`, and the `share` of the newest weights.

    After every step average <- average + share * (weights - average), beginning with the weights themselves.
    """

    def __init__(self) -> None:
        self.steps = 0  # steps averaged; 0: not begun
        self.average: list[Tensor] = []
        self.begun = False

    def begins(self, at: Moment) -> bool:
        """Whether to average from this step on."""
        return False

    def share(self) -> float:
        """Weight of the newest parameters in the average."""
        raise NotImplementedError

    def observe(self, ranks: Sequence[Rank]) -> None:
        """Called after each evaluation with the ranks of all so far, the newest last."""

    def restart(self, at: Moment) -> bool:
        """Called when the rest of a run is planned anew; returns whether the average was dropped, to begin later."""
        return False

    @torch.no_grad()
    def update(self, parameters: Sequence[nn.Parameter], at: Moment) -> None:
        """Take in the weights after a step."""
        self.begun = self.begun or self.begins(at)
        if not self.begun:
            return
        self.steps += 1
        if not self.average:
            self.average = [parameter.detach().clone() for parameter in parameters]
        else:
            torch._foreach_lerp_(self.average, list(parameters), self.share())

    @contextmanager
    def applied(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        """The average in place of the weights, if there is one."""
        if not self.average:
            yield
            return
        weights = [parameter.data for parameter in parameters]
        for parameter, mean in zip(parameters, self.average, strict=True):
            parameter.data = mean
        try:
            yield
        finally:
            for parameter, weight in zip(parameters, weights, strict=True):
                parameter.data = weight

    def state_dict(self) -> dict[str, Any]:
        """Everything the next average depends on: goes into the checkpoint."""
        return {"steps": self.steps, "begun": self.begun, "average": self.average}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        vars(self).update(state)
        self.average = [mean.to(device) for mean in self.average]


class Mean(Averaging):
    """The mean of the weights after each step from a point of the run on: average_k = (w_1 + ... + w_k) / k.

    `start` is the part of the run done when it begins, 0 to 1: 0 averages all, 0.75 the last quarter.
    B. T. Polyak and A. B. Juditsky, SIAM Journal on Control and Optimization 30 (1992).
    """

    def __init__(self, *, start: float = 0.75) -> None:
        super().__init__()
        if not 0 <= start < 1:
            raise ValueError(f"start={start} must be at least 0 and less than 1")
        self.start = start

    def begins(self, at: Moment) -> bool:
        return at.fraction >= self.start

    def restart(self, at: Moment) -> bool:
        if not self.begun or self.begins(at):
            return False
        self.steps, self.average, self.begun = 0, [], False
        return True

    def share(self) -> float:
        return 1 / self.steps


class Exponential(Averaging):
    """Exponential moving average: average <- decay * average + (1 - decay) * w, with less memory at the start.

    The decay of step k is min(decay, (1 + k) / (10 + k)), so that the first weights are soon forgotten.
    """

    def __init__(self, *, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 < decay < 1:
            raise ValueError(f"decay={decay} must be between 0 and 1")
        self.decay = decay

    def begins(self, at: Moment) -> bool:
        return True

    def share(self) -> float:
        return 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))


class NonMonotone(Averaging):
    """NT-ASGD: the mean of the weights from the first evaluation on that is worse than one of long ago.

    Begins when an evaluation `is_nonmonotone` with n = `patience`; worse is by the monitored metric, then the loss. As
    in torch.optim.ASGD(t0=0, lambd=0), which the authors' code uses, the first two averages are the weights themselves:
    average_k = (w_2 + ... + w_k) / (k - 1). The learning rate stays what the schedule says. S. Merity, N. S. Keskar and
    R. Socher, arXiv 1708.02182, algorithm 1.
    """

    def __init__(self, *, patience: int = 5) -> None:
        super().__init__()
        if patience < 0:
            raise ValueError(f"patience={patience} must be at least 0")
        self.patience = patience

    def observe(self, ranks: Sequence[Rank]) -> None:
        self.begun = self.begun or is_nonmonotone(ranks, self.patience)

    def share(self) -> float:
        return 1 / max(1, self.steps - 1)


class Triggered(Mean):
    """The mean of the weights from `patience` evaluations without a better one on, or from the part `start` of the run.

    Better is what chooses the best checkpoint: a better monitored metric, or an equal one with a lower loss.
    G. Melis, C. Dyer and P. Blunsom, arXiv 1707.05589 (2017), and the code of arXiv 1909.01792.
    """

    def __init__(self, *, patience: int = 50, start: float = 0.8) -> None:
        super().__init__(start=start)
        if patience < 1:
            raise ValueError(f"patience={patience} must be at least 1")
        self.patience = patience

    def observe(self, ranks: Sequence[Rank]) -> None:
        since = len(ranks) - 1 - ranks.index(min(ranks))  # the first of the best
        self.begun = self.begun or since >= self.patience


def is_nonmonotone(ranks: Sequence[Rank], n: int) -> bool:
    """Whether rank_k > min(rank_1 .. rank_{k-1-n}) for the last evaluation k: n before it do not count."""
    if not ranks:
        return False
    *before, last = ranks
    return len(before) > n and last > min(before[: len(before) - n])
