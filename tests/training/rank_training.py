"""A training as one of several ranks sees it, without the command around it."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from seqlm.cells import carry_tensors
from seqlm.device import random_state
from seqlm.errors import SeqlmError
from seqlm.runs import checkpoint
from seqlm.runs.folder import RunFolder
from seqlm.training.assemble import assemble_session
from seqlm.training.callbacks import TrainingState
from seqlm.training.loop import Loop
from seqlm.training.plan import planned
from seqlm.training.session import Progress

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
        progress, carry = session.restore(checkpoint.find(run.checkpoints, start, print))
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
        "steps": checkpoint.steps(run.checkpoints),
    }


def train_each(ranks, configs, precision: str = ""):
    """What comes of each config."""
    return [train(ranks, config, precision=precision) for config in configs]


def stop_rank_1(loop, ranks, step: int = 13) -> None:
    """Send rank 1 alone a signal after some step."""
    original = loop.console.step

    def count():
        original()
        if ranks.rank == 1 and loop.progress.step == step:
            loop.stop.number = signal.SIGTERM

    loop.console.step = count
