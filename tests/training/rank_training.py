"""A training as one of several ranks sees it, without the command around it."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from seqlm.cells import carry_tensors
from seqlm.device import random_state
from seqlm.errors import NonFiniteError, SeqlmError
from seqlm.runs import checkpoint, finding
from seqlm.runs.folder import RunFolder
from seqlm.training.assemble import assemble_session
from seqlm.training.callbacks import Callback, StopTraining, TrainingState
from seqlm.training.gradient import GraphedGradient
from seqlm.training.loop import Loop
from seqlm.training.plan import planned
from seqlm.training.session import Progress

from .test_graph import recorder

DOUBLE = "double"


class Quiet:
    """Takes every call that a console or a logger gets, and keeps the numbers."""

    def __init__(self) -> None:
        self.records: list[tuple[int, dict[str, float]]] = []

    def scalars(self, step: int, tokens: int, seconds: float, values: dict[str, float]) -> None:
        self.records.append((step, {"tokens": tokens, **values}))

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **options: None


def train(ranks, config, start: str | None = None, hooks: Any = None, callbacks=(), precision: str = ""):
    """Train to the end, from a checkpoint of the run if `start` names it; what came of it, as this rank has it.

    `hooks(loop, ranks)` may change the loop before it begins.
    """
    if precision == DOUBLE:
        torch.set_default_dtype(torch.float64)
    session = assemble_session(config, callbacks=callbacks, ranks=ranks)
    run = RunFolder(Path(config.run.root) / config.run.name)
    ranks.lead(lambda: run.path.mkdir(parents=True, exist_ok=True))
    ranks.lead(lambda: run.update(status="running"))
    progress, carry = Progress(plan=planned(session, config)), session.init_carry()
    if start is not None:
        progress, carry = session.restore(finding.find(run.checkpoints, start, print))
    logger, stop = Quiet(), SimpleNamespace(number=0)
    session.callbacks.begin(TrainingState(run, session, progress, logger), lambda text: None)
    loop = Loop(run, session, progress, logger, Quiet(), stop)
    seen: dict[str, Any] = {}
    original = loop._step

    def step(carry):
        taken = original(carry)
        if taken is not None:
            seen["carry"] = [tensor.clone() for tensor in carry_tensors(taken[0])]
        return taken

    loop._step = step
    if hooks is not None:
        hooks(loop, ranks)
    ended = ""
    try:
        loop.fit(carry, None if start is None else progress.step)
    except SeqlmError as error:
        ended = f"{type(error).__name__}: {error}"
    return {
        "records": logger.records,
        "weights": {name: one.detach().clone() for name, one in session.model.state_dict().items()},
        "average": session.averaging.average,
        "carry": seen.get("carry", []),
        "random": random_state(session.device)["cpu"],
        "progress": progress,
        "ended": ended,
        "seen": [getattr(session.model, name, 0) for name in ("seen", "changed")],
        "steps": checkpoint.steps(run.checkpoints),
    }


def train_each(ranks, configs, precision: str = ""):
    """What comes of each config."""
    return [train(ranks, config, precision=precision) for config in configs]


def play(ranks, plays):
    """What comes of several trainings one after the other, each as arguments of `train` by name."""
    return [train(ranks, **one) for one in plays]


def after_step(loop, step: int, do) -> None:
    """Call a function once, after this step."""
    original = loop.console.step

    def count():
        original()
        if loop.progress.step == step and not loop.progress.skipped:
            do()

    loop.console.step = count


def stop_rank_1(loop, ranks) -> None:
    """Send rank 1 alone a signal after step 3."""
    if ranks.rank == 1:
        after_step(loop, 3, lambda: setattr(loop.stop, "number", signal.SIGTERM))


def clocks_apart(loop, ranks) -> None:
    """The clock of rank 1 is an hour ahead, and that of rank 0 jumps by an hour after step 3."""
    if ranks.rank == 1:
        elapsed = loop.agreed.elapsed
        loop.agreed.elapsed = lambda: elapsed() + 3600
        loop.agreed._saved -= 3600
    else:
        after_step(loop, 3, lambda: setattr(loop.agreed, "_started", loop.agreed._started - 3600))


def other_weights(loop, ranks) -> None:
    """One weight of rank 1 changes a little after step 3."""
    if ranks.rank == 1:
        after_step(loop, 3, lambda: loop.session.parameters[1].data.view(-1)[2].mul_(1.001))


def nan_on_rank_1(loop, ranks) -> None:
    """The model of rank 1 cannot draw in its fifth batch."""
    task, calls = loop.session.task, itertools.count(1)
    objective = task.objective

    def failing(*arguments):
        if ranks.rank == 1 and next(calls) == 5:
            raise NonFiniteError("no word can be drawn")
        return objective(*arguments)

    task.objective = failing


class Counting(Callback):
    """Counts the steps that it sees, and ends the run after four."""

    def __init__(self) -> None:
        self.seen = 0

    def on_step(self, state) -> None:
        self.seen += 1
        state.model.seen = self.seen
        if state.step == 4:
            raise StopTraining


class Everywhere(Callback):
    """Changes what is trained, on every rank."""

    everywhere = True

    def on_step(self, state) -> None:
        state.model.changed = state.step
        next(state.model.parameters()).mul_(0.99)


def count_sent(loop, ranks) -> None:
    """Note in `model.seen` how many gradients were on their way when backward was done."""
    shared = loop.gradient
    original = shared._add_up

    def add_up(loss):
        loop.session.model.seen = len(shared._sent)
        return original(loss)

    shared._add_up = add_up


def graphed(loop, ranks) -> None:
    """Replay what a stand-in for a CUDA graph has recorded."""
    count_sent(loop, ranks)
    objective, parameters = loop.gradient.own.args
    loop.gradient.own = GraphedGradient(objective, parameters, recorder(parameters), print)


def forget_generators(loop, ranks) -> None:
    """The mutant of a resume that has lost the generators of rank 1."""
    if ranks.rank == 1:
        torch.manual_seed(7)
