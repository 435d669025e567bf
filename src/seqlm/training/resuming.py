"""Before a run is resumed: from which checkpoint, is there anything left to do, and the record of it in run.json."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Mapping
from typing import Any

from ..config.schema import LIMITS, Config
from ..device import describe
from ..errors import ConfigError
from ..files import free_path
from ..runs import checkpoint, finding
from ..runs.folder import RunFolder
from .distributed import ALONE, Ranks
from .report import declarations
from .session import Progress, Session


def newest_checkpoint(run: RunFolder, ranks: Ranks = ALONE) -> checkpoint.Checkpoint | None:
    """The newest checkpoint that is whole; None, with a word about it, if the run must start from step 0.

    Damaged checkpoints are put aside, never deleted. Of several ranks rank 0 decides.
    """
    found = _newest(run) if ranks.leads else None
    step = ranks.first(None if found is None else found.step)
    return found if ranks.leads or step is None else finding.find(run.checkpoints, str(step), print)


def _newest(run: RunFolder) -> checkpoint.Checkpoint | None:
    if not checkpoint.steps(run.checkpoints):
        print(f"{run.path} has no checkpoint yet: it starts from step 0", flush=True)
        return None
    try:
        return finding.find(run.checkpoints, "last", print)
    except finding.NoneWhole:
        aside = free_path(run.path / "checkpoints.damaged")
        run.checkpoints.rename(aside)
        print(
            f"{run.path} has no checkpoint that is whole: it starts from step 0; the damaged ones are in {aside}",
            flush=True,
        )
        return None


def _reached(progress: Progress) -> dict[str, float]:
    """How far a run has come, in the units of its limits; an epoch counts from its first step on."""
    epochs = progress.epoch + (progress.batch > 0)
    return {
        "steps": progress.step,
        "epochs": epochs,
        "tokens": progress.tokens,
        "minutes": progress.seconds / 60,
    }


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def check_limits(run: RunFolder, saved: Config, config: Config, progress: Progress) -> None:
    """Raise ConfigError for a new limit that the run has passed already."""
    reached = _reached(progress)
    passed = [
        f"train.{unit}={_shown(limit)} is too small: {run.path} has come to {_shown(reached[unit])} {unit}; "
        "give more, or leave it out"
        for unit, limit in config.train.limits.items()
        if limit != saved.train.limits.get(unit) and limit < reached[unit]
    ]
    if passed:
        raise ConfigError("\n".join(passed))


def is_finished(run: RunFolder, saved: Config, config: Config, progress: Progress) -> bool:
    """Whether the run came to its end, and `config` gives it no other; a callback may decide otherwise this time."""
    info, keys = run.info(), (*LIMITS, "patience", "nonmonotone")
    same = all(getattr(saved.train, key) == getattr(config.train, key) for key in keys)
    ended = info.get("status") == "finished" and not info.get("stopped_by")
    return same and ended and info.get("steps") == progress.step


def finished(run: RunFolder, config: Config, progress: Progress) -> str:
    """The lines that a finished run is answered with."""
    limits, reached = config.train.limits, _reached(progress)
    longer = {
        unit: f"train.{unit}={2 * limit:g}" if unit == "minutes" else f"train.{unit}={2 * int(limit)}"
        for unit, limit in limits.items()
    }
    ended_by = [word for unit, word in longer.items() if unit == "minutes" or reached[unit] >= limits[unit]]
    patience = config.train.patience
    if patience is not None and progress.bad_evaluations >= patience:
        ended_by = [f"train.patience={2 * patience}"]
    elif not ended_by and config.train.nonmonotone is not None:
        ended_by = ["train.nonmonotone=null"]
    word = [*ended_by, *longer.values()][0]  # a callback may have ended it before any limit
    best = f"best at step {progress.best_step:,}" if progress.valid else "never evaluated"
    return (
        f"{run.path} is finished: {progress.step:,} steps, {best}; nothing is changed.\n"
        f"To train it on: seqlm resume {shlex.quote(str(run.path))} {word}"
    )


def record_resumption(
    run: RunFolder, session: Session, progress: Progress, changed: dict[str, list[Any]], origins: Mapping[str, Any]
) -> None:
    """Bring run.json up to date with the process that trains on; says so if it computes on another device."""
    info, device = run.info(), describe(session.device, session.config.precision)
    devices = info.get("device", device).split("; then ")
    if device != devices[-1]:
        print(f"trained on {devices[-1]} so far, now on {device}: from here on its bits will differ", flush=True)
    run.update(
        status="running",
        resumed=int(info.get("resumed", 0)) + 1,
        history=[*info.get("history", []), *([{"step": progress.step, "changed": changed}] if changed else [])],
        pid=os.getpid(),
        host=socket.gethostname(),
        device="; then ".join(devices if device == devices[-1] else [*devices, device]),
        **({"ranks": session.ranks.count} if session.ranks.count > 1 or "ranks" in info else {}),
        **declarations(session),
        **origins,
    )
