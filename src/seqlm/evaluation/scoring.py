"""One score of a run, or of several together, as `seqlm eval` is told."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..config.values import verb_config
from ..config.verb_schema import EvalConfig, ScoreConfig
from ..errors import ConfigError, NonFiniteError
from ..layers import scale_dropout
from ..runs.load import LoadedRun, load_run, same_vocabulary
from ..tasks.base import Task
from ..tasks.text import perplexity
from .adaptation import evaluate_adapted
from .evaluate import evaluate
from .protocols import PROTOCOLS, score_as
from .scorer import Scorer

# Keys that not every task has a use for; a task names its own in `eval_options`.
OPTIONS = ("bptt", "protocol", "temperature", "dynamic", "cache", "ensemble", "monte_carlo", "mean")


def load_runs(folder: str, options: EvalConfig) -> list[LoadedRun]:
    """The run in `folder` and those of its ensemble; `checkpoint`, `weights` and `average_last` hold for each.

    Raises ConfigError if one is there twice, or has another vocabulary, or an option or the split is not for this run.
    """

    def check(run: LoadedRun) -> None:
        check_task(run.task, options)
        if options.file is not None:
            run.data = run.data_of_file(options.file)
        elif options.split not in (splits := run.data.corpus.splits()):
            raise ConfigError(f"split={options.split} does not exist in this data; it has: {', '.join(splits)}")

    shared: dict[str, Any] = {
        key: getattr(options, key) for key in ("checkpoint", "weights", "average_last", "engine", "trust")
    }
    runs = [load_run(folder, data=options.data, task=options.task, check=check, **shared)]
    return [*runs, *load_ensemble(runs[0], options.ensemble, **shared)]


def load_ensemble(run: LoadedRun, others: Sequence[str], **shared: Any) -> list[LoadedRun]:
    """The runs whose probabilities are averaged with those of `run`; `shared` are options of `load_run`.

    Raises ConfigError if one is there twice, or has another vocabulary.
    """
    found = [run]
    for other in others:
        if Path(other).resolve() in [one.folder.path.resolve() for one in found]:
            raise ConfigError(f"ensemble: {other} is in it twice; every run counts once")
        found.append(load_run(other, **shared))
        if not same_vocabulary(run.tokenizer, found[-1].tokenizer):
            raise ConfigError(
                f"ensemble: {other} has another vocabulary ({len(found[-1].tokenizer):,} tokens) than "
                f"{run.folder.path} ({len(run.tokenizer):,}); only probabilities of the same words can be averaged"
            )
    return found[1:]


def check_task(task: Task, options: EvalConfig | ScoreConfig, verb: str = "eval") -> None:
    """Raise ConfigError for an option that the task has no use for."""
    plain = verb_config(verb, type(options), [])
    for key in [one for one in OPTIONS if hasattr(plain, one)]:
        if key not in task.eval_options and getattr(options, key) != getattr(plain, key):
            raise ConfigError(f"{key} does nothing for {type(task).__name__}, the task of this run; leave it out")


def score_runs(
    runs: Sequence[LoadedRun], options: EvalConfig, device: torch.device, log: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Score a split; returns the result as JSON, and the numbers in it that were measured.

    `log` is called with a line for every trial of a search.
    """
    run, task, split = runs[0], runs[0].task, options.split
    is_text = "bptt" in task.eval_options
    bptt = run.config.train.bptt if options.bptt is None else options.bptt
    read, batch_size = bptt, options.batch_size or task.eval_batch_size(run.config)
    settings = _averaged(runs, options)
    started = time.perf_counter()
    if options.adapting or options.averaging or options.temperature != 1.0:
        score, scorer, adapted = evaluate_adapted(_scorer(runs, options), run, options, bptt, log)
        settings |= adapted
    else:
        read = options.bptt or task.eval_bptt(run.config, batch_size)
        score = evaluate(run.model, task, task.batches(run.data, split, batch_size, read), device, options.precision)
        scorer = None
    seconds = time.perf_counter() - started
    if not math.isfinite(score.loss_sum):
        advice = f"; {' and '.join(options.adapting)} may be too much" if options.adapting else ""
        raise NonFiniteError(f"the loss of {run.checkpoint.path} on {split} is not finite{advice}")
    measured = {
        "tokens": score.tokens,
        "loss_sum": score.loss_sum,
        **task.compute_metrics(score, run.data, split),
        **task.facts(score, run.data, split),
        "seconds": round(seconds, 3),
        "tokens_per_s": round(score.tokens / seconds, 1),
    }
    if options.protocol != "seqlm":
        scorer = scorer or _scorer(runs, options)
        tokens, eos_id = run.data[split].tokens, run.tokenizer.eos_id
        counted = score_as(options.protocol, scorer, tokens, split, bptt, eos_id, options.precision)
        ppl = perplexity(counted["loss"], 1)
        difference, source = ppl - perplexity(score.loss_sum, score.tokens), PROTOCOLS[options.protocol].source
        settings["protocol"] = {**counted, "ppl": ppl, "difference": difference, "source": source}
    report = task.report(score)
    result = {
        "run": run.folder.name,
        "split": split,
        **({} if options.file is None else {"file": options.file}),
        "checkpoint": run.checkpoint.step,
        "weights": run.weights,
        **({"batch_size": batch_size, "bptt": read} if is_text else {"examples": len(run.data[split])}),
        **measured,
        **settings,
        **({"task": options.task} if options.task else {}),
        **({"report": report} if report else {}),
    }
    return result, measured


def _scorer(runs: Sequence[LoadedRun], options: EvalConfig) -> Scorer:
    """Probabilities of the words of a text, by all runs together, at temperature 1."""
    drawn, models = options.monte_carlo, [run.model for run in runs]
    for model in models:
        scale_dropout(model, drawn.multiplier)
    return Scorer(models, samples=drawn.samples, seed=drawn.seed, mean=options.mean)  # type: ignore[arg-type]


def _averaged(runs: Sequence[LoadedRun], options: EvalConfig) -> dict[str, Any]:
    """Averages that were taken, as JSON: of weights, of probabilities by several runs, or by readings with dropout."""
    settings: dict[str, Any] = {}
    if options.average_last is not None:
        settings["average_last"] = runs[0].steps
    if options.ensemble:
        settings["ensemble"] = [
            {"run": run.folder.name, "checkpoint": run.checkpoint.step, "weights": run.weights} for run in runs[1:]
        ]
    if options.monte_carlo.samples is not None:
        settings["monte_carlo"] = asdict(options.monte_carlo)
    return {**settings, "mean": options.mean} if options.averaging else settings
