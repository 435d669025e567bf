"""Header and closing table of a run, the facts in its run.json, its hyper-parameters."""

from __future__ import annotations

import os
import platform
import shlex
import socket
import subprocess
import sys
from dataclasses import asdict
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import __version__
from ..config.keys import dotted
from ..config.schema import Config
from ..device import describe, hardware
from ..engines.product import bf16_speed
from ..layers import Recurrent
from ..models.stack import count_parameters, parameters_in_words
from ..runs.folder import RunFolder
from ..runs.pointers import steps
from ..terminal import labelled
from .console import clock

if TYPE_CHECKING:
    from .session import Progress, Session


def now() -> str:
    """The time, with its zone, to the second."""
    return datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds")


def describe_run(session: Session) -> dict[str, Any]:
    """Facts that run.json holds from the start."""
    return {
        "seqlm": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "git": _git_commit(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "device": describe(session.device, session.config.precision),
        **({"ranks": session.ranks.count} if session.ranks.count > 1 else {}),
        "hardware": hardware(session.device),
        "seed": session.config.seed,
        "tags": session.config.tags,
        "note": session.config.note,
        "parameters": count_parameters(session.model),
        "data_fingerprint": session.data.fingerprint,
        "data_note": session.data.corpus.note() or None,
        **declarations(session),
    }


def declarations(session: Session) -> dict[str, Any]:
    """Facts of a task that run.json keeps for readers that build neither task nor data: `seqlm runs`, `seqlm tail`."""
    results = session.task.results(session.data)
    declared = [metric._asdict() for metric in results.metrics]
    return {"monitor": results.monitor, "declared_metrics": declared, "unit": results.unit,
            "epoch_tokens": session.train.targets}  # fmt: skip


def header(run: RunFolder, session: Session, progress: Progress) -> str:
    """The lines above the progress bar."""
    config, data = session.config, session.data
    rows = [
        ("run", str(run.path) + (f", resumed at step {progress.step:,}" if progress.step else "")),
        ("device", describe(session.device, config.precision) + _speed_of_products(session)),
        ("", _shared_out(session)),
        ("data", data.describe()),
        ("", data.corpus.note()),
        *session.task.decisions(),
        ("parameters", parameters_in_words(session.model)),
    ]
    layers = [module for module in session.model.modules() if isinstance(module, Recurrent)]
    for index, layer in enumerate(layers):
        what = f"{type(layer.cell).__name__} {layer.cell.input_size} -> {layer.cell.output_size}"
        rows.append((f"layer {index}", f"{what}, engine {layer.plan.engine}: {layer.plan.reason}"))
    ends = [f"{limit:,} {unit}" for unit, limit in config.train.limits.items()]
    rows += [
        ("training", f"{len(session.train):,} steps an epoch, until {' or '.join(ends)}"),
        *(("watch" * (number == 0), command) for number, command in enumerate(_watch(run, session))),
    ]
    return labelled(rows, sys.stdout)


def _shared_out(session: Session) -> str:
    """How many processes train together, if they are several."""
    count = session.ranks.count
    backend = "nccl" if session.device.type == "cuda" else "gloo"
    return f"{count} processes ({backend}), {session.train.batch_size // count} rows each" if count > 1 else ""


def _speed_of_products(session: Session) -> str:
    """How fast bfloat16 is on this CPU, which may have no units for it."""
    if session.config.precision != "bf16" or session.device.type != "cpu" or (ratio := bf16_speed()) is None:
        return ""
    advice = "" if ratio > 1 else "; precision=float32 is better"
    return f": products are {ratio:.1f} times as fast as in float32 here{advice}"


def _best(session: Session, progress: Progress, diverged: bool) -> tuple[str, str]:
    """The row of the evaluation that the run keeps as its best."""
    if not progress.valid:
        return "valid", "never evaluated"
    shown = "  ".join(session.task.results(session.data).summary(progress.valid))
    if diverged:
        return "valid", f"{shown} at step {progress.best_step:,}, when the run diverged already"
    return "best valid", f"{shown} at step {progress.best_step:,}"


def closing(run: RunFolder, session: Session, progress: Progress, diverged: bool) -> str:
    """The table below the progress bar, with the next commands; `diverged`: before the best evaluation."""
    folder, trust = shlex.quote(str(run.path)), trust_word(session.config)
    test = " split=test" * ("test" in session.data.corpus.splits())
    which = "" if progress.valid else " checkpoint=last"
    return labelled(
        [
            _best(session, progress, diverged),
            ("trained", f"{progress.step:,} steps, {progress.epoch} whole epochs, {progress.tokens:,} tokens"),
            (
                "time",
                f"{clock(progress.seconds)}, {progress.tokens / max(progress.seconds, 1e-9):,.0f} tokens/s overall, "
                f"{progress.saving_seconds:.1f} s of it saving",
            ),
            ("next", f"seqlm eval {folder}{test}{which}{trust}"),
            (
                "",
                f"seqlm sample {folder} tokens=400{which}{trust}"
                if session.task.writes
                else f"seqlm predict {folder} FILE{which}{trust}",
            ),
            *(("", command) for command in _watch(run, session)),
        ],
        sys.stdout,
    )


def _watch(run: RunFolder, session: Session) -> list[str]:
    """The commands that show the run, as its loggers know them."""
    return [command for logger in session.loggers.values() if (command := logger.watch(run.path))]


def less_memory(config: Config, run: RunFolder | None = None) -> str:
    """Keys that need less memory in training, and what is saved of a run that has run out of it."""
    train = config.train
    less = [
        f"train.accumulate={2 * train.accumulate} (the same gradient)",
        f"train.batch_size={max(1, train.batch_size // 2)}",
        f"train.bptt={max(1, train.bptt // 2)}",
        f"train.eval_batch_size={max(1, train.eval_batch_size // 2)}",
        *(["precision=bf16"] if config.precision != "bf16" else []),
    ]
    lines = [f"A new run needs less with {', '.join(less)}, or a smaller model"]
    if run is not None:
        saved = steps(run.checkpoints)
        newest = (
            f"The newest checkpoint is of step {saved[-1]:,} in {run.checkpoints}" if saved else "Nothing is saved yet"
        )
        lines.append(f"{newest}; with more memory: seqlm resume {shlex.quote(str(run.path))}{trust_word(config)}")
    return "\n".join(lines)


def trust_word(config: Config) -> str:
    """The word that trusts the same packages in the next command: a run itself grants no trust."""
    return " " + shlex.quote(f"trust=[{','.join(config.trust)}]") if config.trust else ""


# Keys that change no result, only its speed, or how often something is shown and kept.
NO_HPARAMS = (
    "train.log_every", "train.log_parameters", "diagnose.every",
    "train.eval_batch_size", "train.accumulate", "train.default_steps",
    "optim.fused", "optim.foreach", "optim.capturable", "optim.differentiable",
)  # fmt: skip


def hparams(run: RunFolder, config: Config) -> dict[str, Any]:
    """Hyper-parameters for TensorBoard's table: choices first, then parts, then the trunk.

    What is 0 is left out: most of the many options are. So is what changes no result.
    """
    chosen = {
        group: choice
        for group, choice in run.info().get("choices", {}).items()
        if group in ("data", "model", "optim", "schedule", "averaging", "experiment")
    }
    values = {
        key: config_part
        for key, config_part in asdict(config).items()
        if key in ("model", "task", "optim", "schedule", "averaging", "train")
    }
    flat = {
        key: value
        for key, value in dotted(values).items()
        if isinstance(value, (bool, int, float)) and (value or value is False)
        if key not in NO_HPARAMS
    }
    if "steps" in config.train.limits:
        flat["train.steps"] = config.train.limits["steps"]  # the default, if no limit was given
    return {**chosen, "seed": config.seed, **flat}


@cache
def _git_commit() -> str | None:
    """Commit of the code that runs, `+` if it was changed since; None outside a checkout."""
    where = Path(__file__).resolve().parents[3]
    if not (where / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=where, capture_output=True, text=True, check=True, timeout=10
        )
        dirty = subprocess.run(
            ["git", "--no-optional-locks", "status", "--porcelain", "-uno"],
            cwd=where,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+" if dirty.stdout.strip() else "")
