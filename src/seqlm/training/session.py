"""Training state: the objects that train together, how far they have come, how both are saved and restored."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from .. import __version__
from ..cells import Carry, drop_state, map_carry
from ..config.migrate import migrate_progress
from ..config.schema import Config
from ..data.batching.batches import Batch, Batches, share
from ..data.dataset import Data
from ..device import autocast
from ..errors import NonFiniteError
from ..evaluation.evaluate import evaluate
from ..optim.averaging import Averaging, is_nonmonotone
from ..optim.schedules import Moment, Rank, Schedule
from ..runs import checkpoint, upkeep
from ..runs.finite import non_finite, non_finite_in
from ..runs.folder import RunFolder
from ..tasks.base import Score, Task
from .callbacks import Callbacks
from .diagnosing import Diagnosing
from .distributed import ALONE, Ranks
from .gradient import GraphedGradient, cuda_capture, gradient
from .loggers.base import Logger
from .plan import End, Plan, planned
from .shared_gradient import Gradient, SharedGradient
from .shares import RandomState, add_scores, all_rows, check_same_weights, own_rows, random_states, restore_random


@dataclass
class Progress:
    """How far a run has come. All of it is in the checkpoint."""

    step: int = 0
    epoch: int = 0  # completed
    batch: int = 0  # next one in this epoch
    tokens: int = 0
    seconds: float = 0.0
    saving_seconds: float = 0.0  # of these: writing checkpoints
    evaluation_seconds: float = 0.0  # of the last evaluation
    loss_sum: float = 0.0  # sum over the targets since the last log record
    loss_tokens: int = 0
    evaluated_at: int = 0
    best_loss: float = math.inf  # the monitored metric, lower is better
    best_step: int = 0
    bad_evaluations: int = 0  # in a row
    skipped: int = 0  # batches whose loss or gradient was not finite
    skipped_in_a_row: int = 0
    rollbacks: int = 0  # to a checkpoint, each of which has halved the learning rate
    valid: dict[str, float] = field(default_factory=dict)  # of the best evaluation
    ranks: list[Rank] = field(default_factory=list)  # of all evaluations
    plan: Plan | None = None  # of the schedule; None: from the beginning to the end that the config says

    @classmethod
    def of(cls, start: checkpoint.Checkpoint) -> Progress:
        """The progress that `Session.save` stored in a checkpoint."""
        progress = cls(**migrate_progress(start.load_state()["progress"]))
        if isinstance(progress.plan, dict):
            progress.plan = Plan(**progress.plan)
        return progress

    def observe(self, monitored: float, metrics: dict[str, float]) -> tuple[Rank, bool]:
        """Keep an evaluation; returns its rank, lower is better, and whether it is the best so far.

        Of equal values of the monitored metric the lower loss is better: on a small split many are equal.
        """
        rank = (monitored, metrics["loss"])
        improved = rank < (self.best_loss, self.valid.get("loss", math.inf))
        self.evaluated_at = self.step
        self.bad_evaluations = 0 if improved else self.bad_evaluations + 1
        if improved:
            self.best_loss, self.best_step, self.valid = monitored, self.step, metrics
        return rank, improved


@dataclass
class Session:
    """The objects that train together."""

    config: Config
    device: torch.device
    data: Data
    model: Any
    task: Task
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    averaging: Averaging
    train: Batches
    valid: Batches
    learning_rates: list[float]  # of the optimizer's groups, before the schedule
    callbacks: Callbacks
    loggers: dict[str, Logger]
    diagnosing: Diagnosing
    ranks: Ranks = ALONE  # that train it together
    sealed: dict[str, Any] = field(default_factory=dict)  # what every checkpoint keeps of the run's files (runs/sealed)

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """Trainable parameters."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @cached_property
    def steps_planned(self) -> int | None:
        """Optimizer steps until the first limit that is not wall-clock time; of drawn chunks, about so many."""
        return self._steps(self.config)

    def _steps(self, config: Config) -> int | None:
        limits, train = config.train.limits, self.train
        steps = [math.ceil(limits["tokens"] * train.count(0) / train.targets)] if "tokens" in limits else []
        steps += [int(limits["steps"])] if "steps" in limits else []
        if "epochs" in limits:
            steps.append(sum(train.count(epoch) for epoch in range(int(limits["epochs"]))))
        return min(steps, default=None)

    def end_of(self, config: Config) -> End:
        """The end that `config` plans for a run of this data: by the clock only if no other limit is given."""
        steps = self._steps(config)
        return ("seconds", 60 * (config.train.minutes or 0.0)) if steps is None else ("step", steps)

    def init_carry(self) -> Carry:
        """The carry of this rank's rows at the start of an epoch."""
        carry: Carry = self.model.init_carry(self.train.batch_size // self.ranks.count)
        return carry

    def rows(self, batch: Batch) -> Batch | None:
        """This rank's rows of a batch, where they are computed with; None if there are too few for all ranks."""
        own = share(batch, self.ranks.rank, self.ranks.count)
        return None if own is None else own.to(self.device)

    def ended(self, progress: Progress) -> bool:
        """Whether a limit is reached, or a callback has ended the run."""
        limits = self.config.train
        reached = {
            "steps": progress.step,
            "epochs": progress.epoch,
            "tokens": progress.tokens,
            "minutes": (progress.seconds + self.reserved_seconds(progress)) / 60,
        }
        return (
            any(reached[unit] >= limit for unit, limit in limits.limits.items())
            or (limits.patience is not None and progress.bad_evaluations >= limits.patience)
            or (limits.nonmonotone is not None and is_nonmonotone(progress.ranks, limits.nonmonotone))
            or self.callbacks.stopped is not None
        )

    def reserved_seconds(self, progress: Progress) -> float:
        """Seconds of train.minutes that are kept for the last evaluation; half of all at most.

        A quarter more than the evaluation before has taken; before the first, an estimate from the speed of training,
        which takes three times as long for a token.
        """
        minutes = self.config.train.minutes
        if minutes is None:
            return 0.0
        estimate = progress.seconds / max(1, progress.tokens) * self.valid.targets / 2
        return min(1.25 * (progress.evaluation_seconds or estimate), 60 * minutes / 2)

    def moment(self, progress: Progress) -> Moment:
        """Where the schedule stands."""
        plan = progress.plan or planned(self, self.config)
        return plan.moment(progress.step, progress.epoch, progress.seconds)

    def lr_factor(self, at: Moment, progress: Progress) -> float:
        """The schedule's factor on the learning rates, halved at each rollback."""
        return self.schedule.factor(at) * 0.5**progress.rollbacks

    def update_average(self, at: Moment) -> None:
        """Take the weights after a step into the average, once there is one. Raises NonFiniteError, before it does."""
        averages = self.averaging.begun or self.averaging.begins(at)
        if averages and (name := non_finite(self.model.named_parameters())):
            raise NonFiniteError(f"{name} is not finite")
        self.averaging.update(self.parameters, at)

    def share(self, progress: Progress) -> float:
        """The share of the run that is done, by the limit that is nearest."""
        minutes = self.config.train.minutes
        by_clock = min(1.0, progress.seconds / (60 * minutes)) if minutes else 0.0
        return max(self.moment(progress).fraction, by_clock)

    def evaluated_weights(self) -> AbstractContextManager[None]:
        """The weights that are evaluated, in place: the average if there is one and the config says so."""
        averages = self.config.eval_weights == "average"
        return self.averaging.applied(self.parameters) if averages else nullcontext()

    def gradient(self, log: Callable[[str], None]) -> Callable[[Any, Carry, float], tuple[Carry, Tensor]]:
        """The function (rows, carry, normalizer) -> (carry, summed loss) that leaves a gradient in the parameters.

        Loss and gradient are those of the rows of all ranks.
        """

        def objective(batch: Batch, carry: Carry) -> tuple[Carry, Tensor, Tensor | None]:
            carry = drop_state(carry, self.config.train.drop_state)
            with autocast(self.device, self.config.precision):
                return self.task.objective(self.model, batch, carry)

        own: Gradient = partial(gradient, objective, self.parameters, parts=self.config.train.accumulate)
        if self.config.engine == "graph":
            own = GraphedGradient(objective, self.parameters, cuda_capture(self.device), log)
        return own if self.ranks.count == 1 else SharedGradient(own, self.parameters, self.ranks)

    def evaluate(self, stopped: Callable[[], bool]) -> Score:
        """Score valid, each rank its rows of every batch; partial if any of them was `stopped`."""
        shared = (self.ranks.rank, self.ranks.count)
        return add_scores(
            evaluate(self.model, self.task, self.valid, self.device, stopped=stopped, shared=shared), self.ranks
        )

    def save(self, run: RunFolder, progress: Progress, carry: Carry, rank: Rank | None) -> None:
        """Write everything that can change the next step; then delete checkpoints that the retention rules do not keep.

        `rank` is how good it is, as compared from left to right; None if it has not been evaluated. Raises
        NonFiniteError if anything in it is not finite, LeaseLost if another machine has taken the run over, and writes
        nothing then; SeqlmError if ranks have come apart.
        """
        check_same_weights(self.model, self.ranks)
        rows, random = all_rows(carry, self.ranks), random_states(self.device, self.ranks)
        self.ranks.lead(lambda: self._write(run, progress, rows, random, rank))
        self.callbacks.save(run.checkpoints / checkpoint.step_name(progress.step))

    def _write(
        self,
        run: RunFolder,
        progress: Progress,
        carry: list[Tensor],
        random: list[RandomState],
        rank: Rank | None,
    ) -> None:
        """The part of `save` that one process does, given the carry of all rows and the generators of all ranks."""
        run.check_held()
        state = {
            "progress": asdict(progress),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "averaging": self.averaging.state_dict(),
            "carry": carry,
            "random": random[0],
            "callbacks": self.callbacks.state_dict(),
        }
        if len(random) > 1:
            state["random_of_others"] = random[1:]  # ranks 1, 2, ...
        if name := non_finite_in(checkpoint.weights_of(self.model), state):
            raise NonFiniteError(f"{name} is not finite")
        averaged = bool(self.averaging.average)
        meta: dict[str, Any] = {"step": progress.step, "rank": rank, "averaged": averaged, "seqlm": __version__}
        meta |= {"metrics": run.metrics_so_far(), **self.sealed}
        saved = checkpoint.save(run.checkpoints, self.model, state, meta)
        if rank is not None and progress.best_step == progress.step:
            checkpoint.point_best(run.checkpoints, saved)
        keep = self.config.checkpoint
        upkeep.prune(run.checkpoints, keep_last=keep.keep_last, keep_best=keep.keep_best, keep_every=keep.keep_every)

    def check_evaluated(self) -> None:
        """Raise NonFiniteError if the weights, or the average that is evaluated in their place, are not finite."""
        named = list(self.model.named_parameters())
        trained = [name for name, parameter in named if parameter.requires_grad]
        averages = [(f"the average of {name}", one) for name, one in zip(trained, self.averaging.average, strict=False)]
        if name := non_finite([*named, *averages]):
            raise NonFiniteError(f"{name} is not finite")

    def restore(self, start: checkpoint.Checkpoint) -> tuple[Progress, Carry]:
        """Put everything back that `save` stored, on this rank; says so if there were more ranks, or fewer."""
        state = start.load_state()
        start.load_weights(self.model)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.averaging.load_state_dict(state["averaging"], self.device)
        self.callbacks.load_state_dict(state.get("callbacks", {}))
        tensors = own_rows(state["carry"], self.ranks)
        carry = map_carry(lambda _: next(tensors).to(self.device), self.init_carry())
        random = [state["random"], *state.get("random_of_others", [])]
        told = restore_random(random, self.device, self.ranks, self.config.seed, start.step)
        if told and self.ranks.leads:
            print(told, flush=True)
        progress = Progress.of(start)
        self.train.start_epoch(progress.epoch)
        return progress, carry
