"""seqlm train and seqlm resume: the training loop, for every task, top to bottom."""

from __future__ import annotations

import math
import os
import shlex
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..cells import Carry
from ..config.schema import Config
from ..config.values import load_config, plain_dict, resumed, save_config, with_absolute_paths, with_words
from ..device import describe
from ..errors import ConfigError, NonFiniteError, RunExists, Stopped
from ..evaluation.evaluate import evaluate
from ..files import file_stem
from ..runs import checkpoint
from ..runs.folder import RunFolder
from ..runs.load import load_weights_from, origin
from ..tasks.text import perplexity
from .console import Console
from .loggers import RunLogger
from .report import closing, describe_run, header, hparams, now
from .session import Progress, Session, assemble_session
from .signals import StopSignal


def train(config: Config, choices: Mapping[str, str]) -> float:
    """Start a run from `config` and train it to its end; returns the best of what the task judges by, lower is better.

    `choices` are the options taken of each config group (`{"model": "lstm"}`): they name the run.
    Raises ConfigError before anything is written, Stopped after a signal, NonFiniteError.
    """
    name = config.run.name
    if config.resume == "auto":
        if name is None:
            raise ConfigError("resume=auto needs run.name=...: the run to go on with")
        if (Path(config.run.root) / name / "run.json").is_file():
            return _resume(RunFolder.open(Path(config.run.root) / name), lambda _: config)
    session = assemble_session(config)
    facts = {"choices": dict(choices), **describe_run(session), **_origins(session)}

    def fill(run: RunFolder) -> None:
        save_config(with_absolute_paths(config), run.config)
        session.data.tokenizer.save(run.tokenizer)
        run.update(status="running", started=now(), **facts)

    stem = "-".join(file_stem(choices.get(group, group)) for group in ("data", "model"))
    try:
        with RunFolder.create(Path(config.run.root), name, stem, fill) as run:
            return _run(run, session, None)
    except RunExists:
        if config.resume == "auto":  # somebody was faster
            return train(config, choices)
        raise


def resume(folder: str | Path, words: Sequence[str]) -> float:
    """Go on with the run in `folder` from its newest whole checkpoint; `words` may change resumable keys.

    A run that was killed before its first checkpoint starts anew, which gives the same numbers.
    """
    return _resume(RunFolder.open(folder), lambda saved: with_words(Config, plain_dict(saved), words))


def _resume(run: RunFolder, change: Callable[[Config], Config]) -> float:
    """Go on with `run` under the config that `change` makes of its own, if that is still the same run."""
    with run.locked():
        checkpoint.tidy(run.checkpoints)
        saved = load_config(run.config)
        config = resumed(saved, change(saved))
        start = checkpoint.find(run.checkpoints, "last", print) if checkpoint.steps(run.checkpoints) else None
        session = assemble_session(config, run)
        known = run.info().get("data_fingerprint")
        if known != (found := session.data.fingerprint):
            raise ConfigError(
                f"the data of {run.path} has changed since it was started (fingerprint {known}, now {found}); "
                "put the old text back, or start a new run"
            )
        origins = _origins(session) if start is None else {}
        save_config(config, run.config)
        info, device = run.info(), describe(session.device, config.precision)
        devices = info.get("device", device).split("; then ")
        run.update(
            status="running",
            resumed=int(info.get("resumed", 0)) + 1,
            pid=os.getpid(),
            host=socket.gethostname(),
            device="; then ".join(devices if device == devices[-1] else [*devices, device]),
            **origins,
        )
        return _run(run, session, start)


def _origins(session: Session) -> dict[str, Any]:
    """Give the model the weights of the run that this one begins with, if there is one.

    Returns what is kept of it, and of the language models whose states are read.
    """
    config = session.config
    kept: dict[str, Any] = {}
    if config.init_from is not None:
        kept["began_with"] = load_weights_from(config.init_from, session.model, session.data.tokenizer)
    for spec in config.model.get("language_models") or []:
        read = RunFolder.open(spec["run"])
        kept.setdefault("language_models", []).append(origin(read, spec.get("checkpoint", read.best)))
    return kept


def _run(run: RunFolder, session: Session, start: checkpoint.Checkpoint | None) -> float:
    """Train with everything around it: restored state, logs, signals, and an honest status at the end."""
    # A run that begins with another is evaluated before its first step: what it began with may stay the best.
    progress = Progress(evaluated_at=-1 if session.config.init_from else 0)
    carry = session.init_carry()
    console, status, logger = Console(partial(session.task.headline, data=session.data)), "failed", None
    try:
        if start is not None:
            progress, carry = session.restore(start, run)
        run.forget_after(progress.step, progress.evaluated_at)
        logger = RunLogger(run.path, start_step=progress.step if start else 0)
        print(header(run, session, progress), flush=True)
        if start is None:
            logger.text("config", run.config.read_text(encoding="utf-8"), 0)
        logger.hparams(hparams(run, session.config), session.config.run.name or run.name)
        with StopSignal() as stop:
            console.start(progress.step, session.steps_planned)
            _fit(run, session, progress, carry, logger, console, stop, fresh=start is None)
        status = "finished"
    except Stopped:
        status = "interrupted"
        raise
    finally:
        console.close()
        valid = {f"valid/{name}": value for name, value in progress.valid.items()}
        counted = {"steps": progress.step, "tokens": progress.tokens, "seconds": round(progress.seconds, 3)}
        with suppress(OSError):  # on a full disk the error that brought us here is the one to tell
            run.update(status=status, ended=now(), best_step=progress.best_step, metrics=valid, **counted)
        if logger is not None:
            with suppress(OSError):
                logger.close(status)
    print(closing(run, session, progress), flush=True)
    return progress.best_loss


def _fit(
    run: RunFolder,
    session: Session,
    progress: Progress,
    carry: Carry,
    logger: RunLogger,
    console: Console,
    stop: StopSignal,
    *,
    fresh: bool,
) -> None:
    """The loop: evaluate if due, save if due, one step, log if due."""
    config, model, optimizer = session.config, session.model, session.optimizer
    limits, parameters = config.train, session.parameters
    began, before, busy, saved_at = time.perf_counter(), progress.seconds, 0.0, None if fresh else progress.step
    logged_tokens = progress.tokens
    gradient = session.gradient(console.say)
    model.train()
    while True:
        progress.seconds = before + time.perf_counter() - began
        ended, rank = session.ended(progress), None
        if progress.step > progress.evaluated_at and not stop.number and (ended or _due(limits.eval_every, progress)):
            rank = _evaluate(run, session, progress, logger, console, stop)
            ended = ended or session.ended(progress)
        regular = config.checkpoint.every and progress.step % config.checkpoint.every == 0
        # Again at a step that is saved already if it has been evaluated since: the evaluation belongs to it.
        if rank is not None or ((ended or stop.number or regular) and saved_at != progress.step):
            session.save(run, progress, carry, rank)
            logger.flush()
            saved_at = progress.step
        if stop.number:
            raise Stopped(
                f"stopped at step {progress.step:,}, everything is saved; "
                f"go on with: seqlm resume {shlex.quote(str(run.path))}",
                stop.number,
            )
        if ended:
            return

        started = time.perf_counter()
        at = session.moment(progress)
        session.task.begin_step(at)
        factor = session.schedule.factor(at) * session.train.scale(progress.window)
        for group, lr in zip(optimizer.param_groups, session.learning_rates, strict=True):
            group["lr"] = lr * factor
        if progress.window == 0:
            carry = session.init_carry()
        batch = session.train[progress.window].to(session.device)
        # sum: over time, mean over the batch, as Zaremba and lamb; mean: nats per token, as everybody else.
        units = max(1, batch.tokens) if limits.loss_unit == "mean" else batch.batch_size
        carry, nats = gradient(batch, carry, units)
        summed = nats.item()
        # An infinite loss can have a finite gradient: it is not followed either.
        norm = descend(optimizer, parameters, limits.clip_norm, limits.l2) if math.isfinite(summed) else math.nan
        if not math.isfinite(norm):
            raise NonFiniteError(_non_finite(run, model, progress.step, summed, optimizer.param_groups[0]["lr"]))

        session.averaging.update(parameters, at)
        progress.step += 1
        progress.window += 1
        if progress.window == len(session.train):
            progress.window, progress.epoch = 0, progress.epoch + 1
            session.train.start_epoch(progress.epoch)
        progress.tokens += batch.tokens
        progress.nats += summed
        progress.nats_tokens += max(1, batch.tokens)
        busy += time.perf_counter() - started
        console.step()
        if progress.step % limits.log_every == 0:
            values = {
                "train/loss": progress.nats / progress.nats_tokens,
                "train/ppl": perplexity(progress.nats, progress.nats_tokens),
                "train/grad_norm": norm,
                "train/lr": optimizer.param_groups[0]["lr"],
                "train/tokens_per_s": (progress.tokens - logged_tokens) / busy,
            }
            logger.scalars(progress.step, progress.tokens, before + time.perf_counter() - began, values)
            epoch = progress.epoch + progress.window / len(session.train)
            best = session.task.best(progress.valid, session.data) if progress.valid else ""
            console.training(progress.step, epoch, values, best, progress.best_step)
            progress.nats, progress.nats_tokens, logged_tokens, busy = 0.0, 0, progress.tokens, 0.0


def descend(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], clip_norm: float | None, l2: float = 0.0
) -> float:
    """One step down the gradient of loss + l2 / 2 ||w||^2, scaled to a norm of `clip_norm` at most; returns the norm.

    g <- g + l2 w,  g <- g * min(1, clip_norm / ||g||), ||g|| over all parameters (R. Pascanu et al., arXiv 1211.5063).
    Takes no step if the norm is not finite: one NaN would spread to every parameter for good.
    """
    gradients = {parameter: parameter.grad for parameter in parameters if parameter.grad is not None}
    if l2:
        for parameter, gradient in gradients.items():
            gradient.add_(parameter.detach(), alpha=l2)
    norm = nn.utils.get_total_norm(gradients.values())
    size = norm.item()
    if math.isfinite(size):
        if clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
        optimizer.step()
    return size


def _due(every: int | None, progress: Progress) -> bool:
    """Every so many steps, or at the end of each epoch."""
    return progress.window == 0 if every is None else progress.step % every == 0


def _evaluate(
    run: RunFolder, session: Session, progress: Progress, logger: RunLogger, console: Console, stop: StopSignal
) -> tuple[float, float] | None:
    """Score valid, tell everybody, and return how good it is, lower is better: what the task judges by, then the loss.

    None if a signal cut it short: then it never was.
    """
    started = time.perf_counter()
    stopped = lambda: bool(stop.number)  # noqa: E731
    with session.evaluated_weights():
        score = evaluate(session.model, session.task, session.valid, session.device, session.config.precision, stopped)
        if stop.number:
            return None
        text = session.task.show(session.model, session.data, session.config.sample)
        figures = session.task.figures(session.model, session.data)
    metrics = session.task.metrics(score, session.data, "valid")
    judged = session.task.judged(metrics)
    # Of equal accuracies the lower loss is better: on a small split many are equal.
    rank = (judged, metrics["loss"])
    improved = rank < (progress.best_loss, progress.valid.get("loss", math.inf))
    progress.evaluated_at = progress.step
    progress.bad_evaluations = 0 if improved else progress.bad_evaluations + 1
    if improved:
        progress.best_loss, progress.best_step, progress.valid = judged, progress.step, metrics
    if progress.step:  # what another run has come to (init_from) is to be beaten, not a step of this one
        progress.losses.append(judged)
        session.schedule.observe(judged)
        session.averaging.observe(progress.losses)
    progress.seconds += time.perf_counter() - started
    logger.scalars(
        progress.step, progress.tokens, progress.seconds, {f"valid/{name}": value for name, value in metrics.items()}
    )
    for name, figure in figures.items():
        logger.picture(name, figure, progress.step)
    if text:
        logger.text("sample", text, progress.step)
        run.samples.mkdir(exist_ok=True)
        (run.samples / f"step-{progress.step:09d}.txt").write_text(text + "\n", encoding="utf-8")
    console.evaluation(progress.step, metrics, improved, progress.seconds, text)
    return rank


def _non_finite(run: RunFolder, model: nn.Module, step: int, nats: float, lr: float) -> str:
    """Where NaN or infinity came from, and what to do."""
    bad = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    what = f"the gradient of {bad[0]}" if math.isfinite(nats) and bad else "the loss"
    kept = checkpoint.steps(run.checkpoints)
    return (
        f"{what} is not finite at step {step:,} (lr {lr:g}, loss sum {nats:g}); no step was taken with it.\n"
        + (
            f"The last checkpoint is of step {kept[-1]:,} in {run.checkpoints}. "
            if kept
            else "There is no checkpoint yet. "
        )
        + "Try a lower optim.lr or train.clip_norm in a new run."
    )
