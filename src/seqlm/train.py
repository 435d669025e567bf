"""seqlm train and seqlm resume: the training loop, for every task, top to bottom."""

from __future__ import annotations

import math
import os
import shlex
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import __version__
from .assemble import Data, build_data, build_model, check_parts
from .build import build
from .cells import Carry, carry_tensors, detach, map_carry
from .config import Config, load_config, resumed, save_config
from .data import Streams, load_tokenizer
from .errors import ConfigError, NonFiniteError, Stopped
from .evaluate import evaluate, to_device
from .models import LanguageModel
from .report import closing, describe_run, fingerprint, header, hparams, now
from .run import RunFolder, file_stem
from .sample import check_prompt, generate
from .training import Moment, Schedule, checkpoint
from .training.console import Console
from .training.device import autocast, prepare, random_state, set_random_state
from .training.loggers import RunLogger
from .training.signals import StopSignal


@dataclass
class Progress:
    """How far a run has come. All of it is in the checkpoint."""

    step: int = 0
    epoch: int = 0  # completed
    window: int = 0  # next one in this epoch
    tokens: int = 0
    seconds: float = 0.0
    nats: float = 0.0  # sum over the targets since the last log record
    nats_tokens: int = 0
    evaluated_at: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    bad_evaluations: int = 0  # in a row
    valid: dict[str, float] = field(default_factory=dict)  # of the best evaluation


@dataclass
class Session:
    """The objects that train together."""

    config: Config
    device: torch.device
    data: Data
    model: Any
    task: Any
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    train: Streams
    valid: Streams
    learning_rates: list[float]

    @property
    def steps_planned(self) -> int | None:
        """Optimizer steps until the first limit that is not wall-clock time."""
        limits, windows = self.config.train, len(self.train)
        steps = [limits.steps] if limits.steps else []
        steps += [limits.epochs * windows] if limits.epochs else []
        steps += [math.ceil(limits.tokens / len(self.train.tokens) * windows)] if limits.tokens else []
        if not steps and limits.minutes is None:
            return limits.default_steps
        return min(steps, default=None)


def train(config: Config, choices: Mapping[str, str]) -> float:
    """Start a run from `config` and train it to its end; returns the best validation loss.

    `choices` are the options taken of each config group (`{"model": "lstm"}`): they name the run.
    Raises ConfigError before anything is written, Stopped after a signal, NonFiniteError.
    """
    if config.resume == "auto":
        if config.run.name is None:
            raise ConfigError("resume=auto needs run.name=...: the run to go on with")
        if (Path(config.run.root) / config.run.name / "run.json").is_file():
            return resume(Path(config.run.root) / config.run.name, [f"trust={config.trust}"])
    session = _assemble(config)
    stem = "-".join(file_stem(choices.get(group, group)) for group in ("data", "model"))
    run = RunFolder.create(Path(config.run.root), config.run.name, stem)
    config.run.name = run.name
    save_config(config, run.config)
    session.data.tokenizer.save(run.tokenizer)
    run.update(status="running", started=now(), choices=dict(choices), **describe_run(session))
    with run.locked():
        return _run(run, session, None)


def resume(folder: str | Path, words: Sequence[str]) -> float:
    """Go on with the run in `folder` from its newest whole checkpoint; `words` may change resumable keys.

    A run that was killed before its first checkpoint starts anew, which gives the same numbers.
    """
    run = RunFolder.open(folder)
    with run.locked():
        config = resumed(load_config(run.config), words)
        start = checkpoint.find(run.checkpoints, "last", print) if checkpoint.steps(run.checkpoints) else None
        session = _assemble(config, run)
        known = run.info().get("data_fingerprint")
        if known != (found := fingerprint(session.data)):
            raise ConfigError(
                f"the data of {run.path} has changed since it was started (fingerprint {known}, now {found}); "
                "put the old text back, or start a new run"
            )
        save_config(config, run.config)
        run.update(
            status="running", resumed=int(run.info().get("resumed", 0)) + 1, pid=os.getpid(), host=socket.gethostname()
        )
        return _run(run, session, start)


def _assemble(config: Config, run: RunFolder | None = None) -> Session:
    """Build everything a run needs; the tokenizer of an existing run is its own."""
    check_parts(config)
    limits = config.train
    device = prepare(config.device, config.precision, config.threads, config.deterministic)
    torch.manual_seed(config.seed)
    data = build_data(config, load_tokenizer(run.tokenizer) if run else None)
    check_prompt(data.tokenizer, config.sample.prompt, "sample.prompt")
    model = build_model(config, data.tokenizer).to(device)
    optimizer = build(config.optim, "optim", trust=config.trust, params=model.parameters())
    first = data.tokenizer.eos_id
    return Session(
        config=config,
        device=device,
        data=data,
        model=model,
        task=build(config.task, "task", trust=config.trust),
        optimizer=optimizer,
        schedule=build(config.schedule, "schedule", trust=config.trust),
        train=Streams(data["train"].tokens, limits.batch_size, limits.window, first=first, where="train."),
        valid=Streams(
            data["valid"].tokens,
            min(limits.eval_batch_size, len(data["valid"].tokens)),
            limits.window,
            first=first,
            where="train.eval_",
            clip=True,
        ),
        learning_rates=[group["lr"] for group in optimizer.param_groups],
    )


def _run(run: RunFolder, session: Session, start: checkpoint.Checkpoint | None) -> float:
    """Train with everything around it: restored state, logs, signals, and an honest status at the end."""
    progress, carry = Progress(), session.model.init_carry(session.train.batch_size)
    if start is not None:
        progress, carry = _restore(start, session, carry)
    run.forget_after(progress.step)
    config, console = session.config, Console(session.data.tokenizer.kind)
    logger = RunLogger(run.path, start_step=progress.step if start else 0)
    status = "failed"
    print(header(run, session, progress), flush=True)
    try:
        if start is None:
            logger.text("config", run.config.read_text(encoding="utf-8"), 0)
        logger.hparams(hparams(run, config), run.name)
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
        counted = {"steps": progress.step, "tokens": progress.tokens, "seconds": round(progress.seconds, 1)}
        with suppress(OSError):  # on a full disk the error that brought us here is the one to tell
            logger.close(status)
            run.update(status=status, ended=now(), best_step=progress.best_step, metrics=valid, **counted)
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
    config, model, task, optimizer = session.config, session.model, session.task, session.optimizer
    limits, parameters = config.train, [p for p in session.model.parameters() if p.requires_grad]
    began, before, busy, saved_at = time.perf_counter(), progress.seconds, 0.0, None if fresh else progress.step
    logged_tokens = progress.tokens
    model.train()
    while True:
        progress.seconds = before + time.perf_counter() - began
        ended, valid_loss = _ended(session, progress), None
        if progress.step > progress.evaluated_at and not stop.number and (ended or _due(limits.eval_every, progress)):
            valid_loss = _evaluate(run, session, progress, logger, console, stop)
            ended = ended or _ended(session, progress)
        regular = config.checkpoint.every and progress.step % config.checkpoint.every == 0
        if (ended or stop.number or valid_loss is not None or regular) and saved_at != progress.step:
            _save(run, session, progress, carry, valid_loss)
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
        factor = session.schedule.factor(_moment(session, progress))
        for group, lr in zip(optimizer.param_groups, session.learning_rates, strict=True):
            group["lr"] = lr * factor
        if progress.window == 0:
            carry = model.init_carry(session.train.batch_size)
        window = to_device(session.train[progress.window], session.device)
        with autocast(session.device, config.precision):
            carry, nats = task.nats(model, window, carry)
        # sum: over time, mean over the batch, as Zaremba and lamb; mean: nats per token, as everybody else.
        loss = nats / (window.tokens if limits.loss_unit == "mean" else session.train.batch_size)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        carry = detach(carry)
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm, window_nats = nn.utils.get_total_norm(gradients), nats.item()
        if not math.isfinite(window_nats) or not math.isfinite(norm):
            raise NonFiniteError(_non_finite(run, model, progress.step, window_nats, optimizer.param_groups[0]["lr"]))
        if limits.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, limits.clip_norm, norm)
        optimizer.step()

        progress.step += 1
        progress.window += 1
        if progress.window == len(session.train):
            progress.window, progress.epoch = 0, progress.epoch + 1
        progress.tokens += window.tokens
        progress.nats += window_nats
        progress.nats_tokens += window.tokens
        busy += time.perf_counter() - started
        console.step()
        if progress.step % limits.log_every == 0:
            loss_per_token = progress.nats / progress.nats_tokens
            values = {
                "train/loss": loss_per_token,
                "train/ppl": math.exp(min(loss_per_token, 700.0)),
                "train/grad_norm": float(norm),
                "train/lr": optimizer.param_groups[0]["lr"],
                "train/tokens_per_s": (progress.tokens - logged_tokens) / busy,
            }
            logger.scalars(progress.step, progress.tokens, before + time.perf_counter() - began, values)
            epoch = progress.epoch + progress.window / len(session.train)
            console.training(progress.step, epoch, values, progress.best_loss, progress.best_step)
            progress.nats, progress.nats_tokens, logged_tokens, busy = 0.0, 0, progress.tokens, 0.0


def _ended(session: Session, progress: Progress) -> bool:
    limits = session.config.train
    return (
        (session.steps_planned is not None and progress.step >= session.steps_planned)
        or (limits.tokens is not None and progress.tokens >= limits.tokens)
        or (limits.minutes is not None and progress.seconds >= 60 * limits.minutes)
        or (limits.patience is not None and progress.bad_evaluations >= limits.patience)
    )


def _due(every: int | None, progress: Progress) -> bool:
    """Every so many steps, or at the end of each epoch."""
    return progress.window == 0 if every is None else progress.step % every == 0


def _moment(session: Session, progress: Progress) -> Moment:
    """Where the schedule stands; by the clock only if no other limit was given, so that runs repeat exactly."""
    planned, minutes = session.steps_planned, session.config.train.minutes
    fraction = progress.step / planned if planned is not None else progress.seconds / (60 * minutes) if minutes else 0.0
    return Moment(progress.step, progress.epoch, fraction)


def _evaluate(
    run: RunFolder, session: Session, progress: Progress, logger: RunLogger, console: Console, stop: StopSignal
) -> float | None:
    """Score valid, tell everybody, and return the loss; None if a signal cut it short: then it never was."""
    started = time.perf_counter()
    score = evaluate(
        session.model, session.task, session.valid, session.device, session.config.precision, lambda: bool(stop.number)
    )
    if stop.number:
        return None
    metrics = session.task.metrics(score, session.data["valid"].counts)
    improved = score.loss < progress.best_loss
    progress.evaluated_at = progress.step
    progress.bad_evaluations = 0 if improved else progress.bad_evaluations + 1
    if improved:
        progress.best_loss, progress.best_step, progress.valid = score.loss, progress.step, metrics
    session.schedule.observe(score.loss)
    progress.seconds += time.perf_counter() - started
    logger.scalars(
        progress.step, progress.tokens, progress.seconds, {f"valid/{name}": value for name, value in metrics.items()}
    )
    text = _sample(session)
    if text:
        logger.text("sample", text, progress.step)
        run.samples.mkdir(exist_ok=True)
        (run.samples / f"step-{progress.step:09d}.txt").write_text(text + "\n", encoding="utf-8")
    console.evaluation(progress.step, metrics, improved, progress.seconds, text)
    return score.loss


def _sample(session: Session) -> str:
    if not isinstance(session.model, LanguageModel) or session.config.sample.tokens == 0:
        return ""
    how = session.config.sample
    return how.prompt + "".join(generate(session.model, session.data.tokenizer, how))


def _save(run: RunFolder, session: Session, progress: Progress, carry: Carry, valid_loss: float | None) -> None:
    """Everything that can change the next step, then what the retention rules no longer want goes."""
    state = {
        "progress": asdict(progress),
        "optimizer": session.optimizer.state_dict(),
        "schedule": session.schedule.state_dict(),
        "carry": [tensor.cpu() for tensor in carry_tensors(carry)],
        "random": random_state(session.device),
    }
    meta = {"step": progress.step, "valid_loss": valid_loss, "seqlm": __version__}
    saved = checkpoint.save(run.checkpoints, session.model, state, meta)
    if valid_loss is not None and progress.best_step == progress.step:
        checkpoint.point_best(run.checkpoints, saved)
    keep = session.config.checkpoint
    checkpoint.prune(run.checkpoints, keep_last=keep.keep_last, keep_best=keep.keep_best, keep_every=keep.keep_every)


def _restore(start: checkpoint.Checkpoint, session: Session, carry: Carry) -> tuple[Progress, Carry]:
    """Put everything back that `_save` stored."""
    state = start.load_state()
    start.load_weights(session.model)
    session.optimizer.load_state_dict(state["optimizer"])
    session.schedule.load_state_dict(state["schedule"])
    tensors = iter(state["carry"])
    carry = map_carry(lambda _: next(tensors).to(session.device), carry)
    set_random_state(state["random"], session.device)
    return Progress(**state["progress"]), carry


def _non_finite(run: RunFolder, model: nn.Module, step: int, nats: float, lr: float) -> str:
    """Where NaN or infinity came from, and what to do."""
    bad = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    what = f"the gradient of {bad[0]}" if math.isfinite(nats) and bad else "the loss"
    return (
        f"{what} is not finite at step {step:,} (lr {lr:g}, loss sum {nats:g}); no step was taken with it.\n"
        f"The last checkpoint is {checkpoint.find(run.checkpoints, 'last', print).path}. "
        "Try a lower optim.lr or train.clip_norm in a new run."
    )
