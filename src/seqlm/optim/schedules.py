"""Learning-rate schedules: a factor on the optimizer's own rate."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

Extension = Literal["hold", "replan", "rewarm"]
EXTENSIONS: tuple[str, ...] = get_args(Extension)
# How good an evaluation is, better when lower, compared from left to right: the monitored metric (negated if higher is
# better), then the loss. Whatever asks whether an evaluation is better compares these and nothing else.
Rank: TypeAlias = tuple[float, float]
WORST: Rank = (math.inf, math.inf)


class Moment(NamedTuple):
    """Where a run stands: steps done, epochs completed, and the part of the whole run done (0 to 1)."""

    step: int
    epoch: int
    fraction: float


class Schedule:
    """factor(moment) multiplies the configured learning rate; observe(rank) is called after each evaluation.

    `extend` is for a factor that depends on the planned end of the run, and says what becomes of it when the run is
    given another end. "hold": it comes to the old end, and stays as it is there | "replan": it is spread over the whole
    run, as if that had been planned so | "rewarm": it starts again, for the rest of the run (K. Gupta et al., arXiv
    2308.04014).
    """

    extend: Extension | None = None

    def factor(self, at: Moment) -> float:
        raise NotImplementedError

    def observe(self, rank: Rank) -> None:
        pass

    def warming_up(self, at: Moment) -> bool:
        """Whether the learning rate is still on its way to its highest."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """State that the next factor depends on beyond the moment: goes into the checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


class Constant(Schedule):
    """lr_t = lr."""

    def factor(self, at: Moment) -> float:
        return 1.0


class HoldThenDecay(Schedule):
    """lr_e = lr / decay^max(0, e - hold_epochs + 1) in epoch e = 0, 1, ...

    Full for `hold_epochs` epochs, then divided at each.
    W. Zaremba et al., arXiv 1409.2329 (2014). Their Lua code tests `epoch > max_epoch` after an epoch has
    ended, so its max_epoch = 4 holds the rate for 5 epochs.
    """

    def __init__(self, *, hold_epochs: int, decay: float) -> None:
        if hold_epochs < 0:
            raise ValueError(f"hold_epochs={hold_epochs} must be at least 0")
        if decay < 1:
            raise ValueError(f"decay={decay} must be at least 1")
        self.hold_epochs, self.decay = hold_epochs, decay

    def factor(self, at: Moment) -> float:
        return float(self.decay) ** -max(0, at.epoch - self.hold_epochs + 1)


class DivideOnPlateau(Schedule):
    """lr / divisor^k, k the number of times that `patience` evaluations in a row were no better than the best before.

    Better is what chooses the best checkpoint: a better monitored metric, or an equal one with a lower loss.
    """

    def __init__(self, *, divisor: float, patience: int = 1) -> None:
        if divisor <= 1:
            raise ValueError(f"divisor={divisor} must be greater than 1")
        if patience < 1:
            raise ValueError(f"patience={patience} must be at least 1")
        self.divisor, self.patience = divisor, patience
        self.scale, self.best, self.bad = 1.0, WORST, 0

    def factor(self, at: Moment) -> float:
        return self.scale

    def observe(self, rank: Rank) -> None:
        if rank < self.best:
            self.best, self.bad = rank, 0
            return
        self.bad += 1
        if self.bad == self.patience:
            self.scale, self.bad = self.scale / self.divisor, 0

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale, "best": self.best, "bad": self.bad}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if isinstance(self.best, float):  # of an older checkpoint, which compared by the metric alone
            self.best = (self.best, self.best)


class WarmupCosine(Schedule):
    """Linear warm-up over `warmup_steps`, times a cosine from 1 to `final` over the run.

    factor = min(1, (step + 1) / warmup_steps) * (final + (1 - final) * (1 + cos(pi * fraction)) / 2).
    I. Loshchilov and F. Hutter, arXiv 1608.03983 (2016).
    """

    def __init__(self, *, warmup_steps: int = 0, final: float = 0.0, extend: Extension | None = None) -> None:
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps={warmup_steps} must be at least 0")
        if not 0 <= final <= 1:
            raise ValueError(f"final={final} must be from 0 to 1")
        self.warmup_steps, self.final, self.extend = warmup_steps, final, extend

    def warming_up(self, at: Moment) -> bool:
        return at.step < self.warmup_steps

    def factor(self, at: Moment) -> float:
        warmup = min(1.0, (at.step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return warmup * (self.final + (1 - self.final) * (1 + math.cos(math.pi * at.fraction)) / 2)


class Milestones(Schedule):
    """lr / divisor^k after k of the epochs `at` have been completed."""

    def __init__(self, *, at: list[int], divisor: float = 10.0) -> None:
        if sorted(set(at)) != list(at) or any(epoch < 1 for epoch in at):
            raise ValueError(f"at={list(at)} must be epochs of 1 and more, rising")
        if divisor <= 1:
            raise ValueError(f"divisor={divisor} must be greater than 1")
        self.at, self.divisor = list(at), divisor

    def factor(self, at: Moment) -> float:
        return float(self.divisor) ** -sum(at.epoch >= epoch for epoch in self.at)


class OneCycle(Schedule):
    """Up along a cosine from `start` to 1 over the first `rise` of the run, then down along another to `final`.

    L. N. Smith, arXiv 1803.09820 (2018), with cosines in place of lines.
    """

    def __init__(
        self, *, rise: float = 0.3, start: float = 0.04, final: float = 0.0, extend: Extension | None = None
    ) -> None:
        for name, value in {"rise": rise, "start": start, "final": final}.items():
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value} must be at least 0 and less than 1")
        self.rise, self.start, self.final, self.extend = rise, start, final, extend

    def warming_up(self, at: Moment) -> bool:
        return at.fraction < self.rise

    def factor(self, at: Moment) -> float:
        done = at.fraction
        if done < self.rise:
            return self.start + (1 - self.start) * (1 - math.cos(math.pi * done / self.rise)) / 2
        rest = (done - self.rise) / (1 - self.rise)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * rest)) / 2
