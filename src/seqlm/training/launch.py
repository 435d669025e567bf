"""Starting a run and resuming one: all that is checked and put together before it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..cells import Carry
from ..config.comparison import changes, with_younger_options
from ..config.schema import RANDOM_SEED, Config
from ..config.values import save_config, with_absolute_paths, with_words
from ..engines.choice import measured
from ..errors import ConfigError, RunExists, memory_advice
from ..runs import checkpoint, upkeep
from ..runs.assemble import check_parts
from ..runs.changes import check_changes
from ..runs.folder import RunFolder
from ..runs.load import origin, warn, with_pinned_models
from ..runs.naming import describe_model, run_name
from ..runs.sealed import check_tokenizer, saved_config, seal, write_config
from ..runs.transfer import begin_with_another, describe_beginning
from ..terminal import status as shown_status
from .assemble import assemble_session
from .callbacks import Callback
from .distributed import ALONE, Ranks
from .joining import agreed, check_same_data
from .plan import extend, planned
from .report import describe_run, less_memory, now
from .resuming import check_limits, finished, is_finished, newest_checkpoint, record_resumption
from .running import Trained, run_to_its_end
from .session import Progress, Session

DRAWN = f"seed={RANDOM_SEED}"


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
            return run_to_its_end(run, session, *_beginning(session), None)
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
        return run_to_its_end(run, session, progress, carry, start)


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
