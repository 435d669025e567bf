"""Starting a run and resuming one: its folder, its status, and all that surrounds the loop."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..cells import Carry
from ..config.comparison import changes, with_younger_options
from ..config.metrics import by_name
from ..config.schema import RANDOM_SEED, Config
from ..config.values import save_config, with_absolute_paths, with_words
from ..engines.choice import measured
from ..errors import (
    ConfigError,
    NonFiniteError,
    RankFailed,
    RunExists,
    Stopped,
    describe_failure,
    memory_advice,
)
from ..runs import checkpoint, upkeep
from ..runs.assemble import check_parts
from ..runs.changes import check_changes
from ..runs.folder import RunFolder
from ..runs.load import origin, warn, with_pinned_models
from ..runs.lock import LeaseLost
from ..runs.naming import describe_model, run_name
from ..runs.sealed import check_tokenizer, meta, saved_config, seal, write_config
from ..runs.transfer import begin_with_another, describe_beginning
from ..terminal import status as shown_status
from .assemble import assemble_session
from .callbacks import Callback, TrainingState
from .console import Console
from .distributed import ALONE, Ranks
from .joining import agreed, check_same_data, resume_command
from .loggers.base import Opening
from .loggers.run_logger import NoLogger, RunLogger
from .loop import Loop
from .plan import extend, planned
from .report import closing, describe_run, header, hparams, less_memory, now, trust_word
from .resuming import check_limits, finished, is_finished, newest_checkpoint, record_resumption
from .session import Progress, Session
from .signals import StopSignal

DRAWN = f"seed={RANDOM_SEED}"


class Trained(NamedTuple):
    """A finished run, its best value of the monitored metric, negated if higher is better, and its config."""

    run: RunFolder
    best: float
    config: Config


def train(
    config: Config,
    choices: Mapping[str, str],
    words: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    ranks: Ranks = ALONE,
) -> Trained:
    """Start a run from `config` and train it to its end, by all of `ranks` together.

    `choices` are the options taken of each config group (`{"model": "lstm"}`), `words` those that were typed: they
    name the run.
    Raises ConfigError before anything is written, Stopped after a signal, NonFiniteError, CallbackError.
    """
    if ranks.count > 1:
        config = agreed(ranks, config, words)
    name, root = config.run.name, Path(config.run.root)
    if config.resume == "auto":
        if name is None:
            raise ConfigError("resume=auto needs run.name=...: the run to resume")
        if ranks.first((root / name / "run.json").is_file()):
            drawn = DRAWN in words  # once and for all
            change = lambda saved: replace(config, seed=saved.seed) if drawn else config  # noqa: E731
            return _resume(RunFolder.open(root / name), change, callbacks, ranks)
    with shown_status("preparing the run"):
        check_parts(config)  # a wrong key is named before a run that it mentions is looked for
    with measured.of_run({}, ranks.settle):
        return _train(with_pinned_models(config), choices, words, callbacks, ranks)


def _train(
    config: Config, choices: Mapping[str, str], words: Sequence[str], callbacks: Sequence[Callback], ranks: Ranks
) -> Trained:
    with shown_status("preparing the run"), memory_advice(partial(less_memory, config)):
        session = assemble_session(config, callbacks=callbacks, ranks=ranks)
        check_same_data(session)
        given = [f"seed={config.seed}" if word == DRAWN else word for word in words]
        typed = {"choices": dict(choices), "overrides": given, "model": describe_model(config, choices)}
        origins = _origins(session)
        facts = {**typed, **describe_run(session), **origins}
    _say_beginning(config, origins)
    if DRAWN in words:
        print(f"seed {config.seed} was drawn; seed={config.seed} repeats this run", flush=True)

    def fill(run: RunFolder) -> None:
        save_config(with_absolute_paths(config), run.config)
        session.data.tokenizer.save(run.tokenizer)
        run.update(status="running", started=now(), **facts)
        seal(run)

    with _new_folder(config, run_name(config, choices, given), fill, ranks) as run:
        if run is not None:
            return _run(run, session, *_beginning(session), None)
    return train(config, choices, words, callbacks, ranks)


@contextmanager
def _new_folder(
    config: Config, stem: str, fill: Callable[[RunFolder], None], ranks: Ranks
) -> Iterator[RunFolder | None]:
    """The folder of a new run, which rank 0 makes and holds; None if resume=auto finds that another was faster."""
    name, root = config.run.name, Path(config.run.root)
    if not ranks.leads:
        path = ranks.first(None)
        yield RunFolder(Path(path)) if path else None
        return
    with ExitStack() as held:
        run = None
        try:
            run = held.enter_context(RunFolder.create(root, name, stem, fill))
        except RunExists:
            if not (config.resume == "auto" and name and (root / name / "run.json").is_file()):
                raise
        ranks.first(str(run.path) if run else None)
        yield run


def resume(
    folder: str | Path, words: Sequence[str], callbacks: Sequence[Callback] = (), ranks: Ranks = ALONE
) -> Trained:
    """Resume the run in `folder` from its newest whole checkpoint; `words` may change resumable keys.

    A run that was killed before its first checkpoint starts from step 0, which gives the same numbers.
    """
    return _resume(RunFolder.open(folder), lambda saved: with_words(Config, asdict(saved), words), callbacks, ranks)


def _resume(run: RunFolder, change: Callable[[Config], Config], callbacks: Sequence[Callback], ranks: Ranks) -> Trained:
    """Resume `run` under the config that `change` makes of its own, if that is still the same run."""
    held = run.locked() if ranks.leads else nullcontext()
    with held, measured.of_run(run.info().get("measured", {}), ranks.settle):
        if ranks.leads:
            run.tidy()
            upkeep.tidy(run.checkpoints)
        saved = saved_config(run)
        check_tokenizer(run)
        config = with_absolute_paths(with_pinned_models(change(saved), saved))
        config = replace(config, run=saved.run, resume=saved.resume)
        check_changes(run, with_younger_options(saved, config), config)
        if ranks.count > 1:
            config = agreed(ranks, config, ())
        start = newest_checkpoint(run, ranks)
        if start is not None:
            past = Progress.of(start)
            if ranks.leads:
                best = past.best_step if past.valid else None
                upkeep.correct_pointers(run.checkpoints, start.step, best, checkpoint.verify, warn)
            check_limits(run, saved, config, past)
            if is_finished(run, saved, config, past):
                print(finished(run, config, past), flush=True)
                return Trained(run, past.best_loss, config)
            if run.info().get("status") == "pruned":
                print(f"{run.path} was pruned at step {past.step:,}; its training is resumed all the same", flush=True)
        with shown_status("preparing the run"), memory_advice(partial(less_memory, config, run)):
            session = assemble_session(config, run, callbacks, ranks)
            check_same_data(session)
        known = run.info().get("data_fingerprint")
        if known != (found := session.data.fingerprint):
            raise ConfigError(
                f"the data of {run.path} has changed since it was started (fingerprint {known}, now {found}); "
                "put the old text back, or start a new run"
            )
        origins = _origins(session) if start is None else {}
        _say_beginning(config, origins)
        progress, carry = _beginning(session) if start is None else session.restore(start)
        changed = changes(saved, config)
        if told := extend(session, progress, saved, str(run.path)):
            print(f"learning rate {told}", flush=True)
        if ranks.leads:
            write_config(run, config)
            record_resumption(run, session, progress, changed, origins)
        return _run(run, session, progress, carry, start)


def _origins(session: Session) -> dict[str, Any]:
    """Give the model the weights of the run that this one begins with, if there is one.

    Returns what is kept of it, and of the language models whose states are read.
    """
    config = session.config
    kept: dict[str, Any] = {}
    if config.begins_with is not None:
        kept["began_with"] = begin_with_another(config, session.model, session.data.tokenizer, session.optimizer)
    for spec in config.model.get("language_models") or []:
        kept.setdefault("language_models", []).append(origin(RunFolder.open(spec["run"]), spec["checkpoint"]))
    return kept


def _say_beginning(config: Config, origins: Mapping[str, Any]) -> None:
    """Say what a run begins with, if that is another run."""
    if config.begins_with and "began_with" in origins:
        print(describe_beginning(config.begins_with["run"], origins["began_with"]), flush=True)


def _beginning(session: Session) -> tuple[Progress, Carry]:
    """Where a run begins. One that begins with another is evaluated before its first step: that may stay the best."""
    evaluated_at = -1 if session.config.init_from else 0
    return Progress(evaluated_at=evaluated_at, plan=planned(session, session.config)), session.init_carry()


def _run(
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
