"""A run while it trains: the loop between its header and its last words, with logs, signals and its status."""

from __future__ import annotations

import secrets
import shlex
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from ..cells import Carry
from ..config.metrics import by_name
from ..config.schema import Config
from ..config.values import with_absolute_paths
from ..engines.choice import measured
from ..errors import NonFiniteError, RankFailed, Stopped, describe_failure, memory_advice
from ..runs import checkpoint
from ..runs.folder import RunFolder
from ..runs.lock import LeaseLost
from ..runs.sealed import meta
from .callbacks import TrainingState
from .console import Console
from .joining import resume_command
from .loggers.base import Opening
from .loggers.run_logger import NoLogger, RunLogger
from .loop import Loop
from .report import closing, header, hparams, less_memory, now, trust_word
from .session import Progress, Session
from .signals import StopSignal


class Trained(NamedTuple):
    """A finished run, its best value of the monitored metric, negated if higher is better, and its config."""

    run: RunFolder
    best: float
    config: Config


def run_to_its_end(
    run: RunFolder, session: Session, progress: Progress, carry: Carry, start: checkpoint.Checkpoint | None
) -> Trained:
    """Train on from `progress`, with logs and signals, and set the run's status at the end.

    `start` is the checkpoint that it was restored from, if any. A signal that comes before the first step or after the
    last is answered there, too: the run is saved, or as good as finished.
    """
    ranks = session.ranks
    with StopSignal() as stop, memory_advice(partial(less_memory, session.config, run)):
        saved_at = None if start is None else start.step
        if ranks.watch is not None:
            command = resume_command(ranks, shlex.quote(str(run.path)) + trust_word(session.config))
            ranks.watch.way_on = f"Resume it with: {command}"
        if ranks.leads:
            run.forget_after(progress.step, progress.evaluated_at, None if start is None else start.meta.get("metrics"))
            session.sealed = meta(run, with_absolute_paths(session.config))
            measured.keep(lambda made: run.update(measured=made))
        console = Console(session.task.results(session.data).headline, partial(session.share, progress))
        status, logger, problem = "failed", None, None
        try:
            logger = _logger(run, session, console, None if saved_at is None else progress)
            print(header(run, session, progress), flush=True)
            if saved_at is None and ranks.leads:
                logger.text("config", run.config.read_text(encoding="utf-8"), 0, 0)
            if ranks.leads:
                logger.metrics(by_name(session.task.metrics))
                logger.hparams(hparams(run, session.config))
            session.callbacks.begin(TrainingState(run, session, progress, logger), console.write)
            loop = Loop(run, session, progress, logger, console, stop)
            loop.fit(carry, saved_at)
            status = session.callbacks.status
        except (Stopped, KeyboardInterrupt, RankFailed):
            status = "interrupted"
            raise
        except LeaseLost:
            status = "lost"
            raise
        except Exception as error:
            status, problem = "diverged" if isinstance(error, NonFiniteError) else status, describe_failure(error)
            raise
        finally:
            console.close()
            _close(run, session, progress, logger, status, problem)
        if ranks.leads:
            print(closing(run, session, progress, loop.best_diverged), flush=True)
        return Trained(run, progress.best_loss, session.config)


def _logger(run: RunFolder, session: Session, console: Console, at: Progress | None) -> RunLogger:
    """The logger of a run that stands here, if it was begun before; of ranks but the first one that is silent."""
    if not session.ranks.leads:
        return NoLogger(run.path)
    return RunLogger(_opening(run, session, at), session.loggers, console.write, console.warn)


def _opening(run: RunFolder, session: Session, at: Progress | None) -> Opening:
    """The run as its loggers are shown it, where the checkpoint stands that it goes on from, if there is one.

    The id that a server finds it by is drawn once, and only if there is a server.
    """
    known = run.info().get("log_id", "")
    if not known and not all(logger.local for logger in session.loggers.values()):
        known = secrets.token_hex(4)
        run.update(log_id=known)
    config = session.config
    step, tokens = (0, 0) if at is None else (at.step, at.tokens)
    return Opening(run.path, step, at is None, known, config.tags, config.note, tokens)


def _close(
    run: RunFolder, session: Session, progress: Progress, logger: RunLogger | None, status: str, problem: str | None
) -> None:
    """Write how the run has ended, with the error if there was one, and close its logs."""
    if not session.ranks.leads:
        session.callbacks.end(status)
        return
    valid = {f"valid/{name}": value for name, value in progress.valid.items()}
    counted: dict[str, Any] = {"steps": progress.step, "tokens": progress.tokens, "seconds": round(progress.seconds, 3)}
    counted |= session.callbacks.facts(run.info())
    counted["saving_seconds"] = round(progress.saving_seconds, 3)
    counted |= {"error": problem} if problem or "error" in run.info() else {}
    with suppress(OSError, LeaseLost):  # on a full disk the error that led here is the one to print
        run.update(status=status, ended=now(), best_step=progress.best_step, metrics=valid, **counted)
    try:
        session.callbacks.end(status)
    finally:
        if logger is not None:
            with suppress(OSError):
                logger.close(status)
