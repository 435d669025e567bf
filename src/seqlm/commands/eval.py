"""seqlm eval: score a split of a run's data, every target token exactly once."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ..config.schema import EvalConfig
from ..config.values import as_typed, verb_config
from ..device import prepare
from ..errors import ConfigError
from ..evaluation.adaptation import evaluate_adapted
from ..evaluation.evaluate import evaluate
from ..evaluation.protocols import PROTOCOLS, score_as
from ..evaluation.scorer import Scorer
from ..files import to_json, write_atomically
from ..layers import scale_dropout
from ..runs.load import LoadedRun, load_run, same_vocabulary
from ..runs.table import table
from ..tasks.base import Task
from ..tasks.text import perplexity
from .words import run_and_words

# Keys that not every task has a use for; a task names its own in `eval_options`.
OPTIONS = ("bptt", "protocol", "temperature", "dynamic", "cache", "ensemble", "monte_carlo", "mean")


def main(words: Sequence[str]) -> None:
    """`seqlm eval RUN [key=value ...] [--json]`."""
    folder, changes = run_and_words("eval", [word for word in words if word != "--json"])
    evaluate_run(folder, changes, "--json" in words)


def evaluate_run(folder: str, words: Sequence[str], as_json: bool) -> None:
    """Print and keep the scores of a split."""
    options = with_starts(verb_config("eval", EvalConfig, words))
    check(options)
    device = prepare(options.device, options.precision, options.threads)
    runs = _load_runs(folder, options)
    _check_task(runs[0].task, options)
    for one in runs:
        one.model.to(device)
    result, measured = _scored(runs, options, device)
    _keep(runs[0], f"eval-{options.split}{_kind(result)}.json", result)  # first: who reads may be gone
    print(to_json(result) if as_json else _shown(result, runs[0].task.rows(measured)), flush=True)


def with_starts(options: EvalConfig) -> EvalConfig:
    """The options with numbers that a search starts from where none were given: dynamic.lr, and cache.size."""
    dynamic, memory = options.dynamic, options.cache
    if dynamic.search and dynamic.lr is None and (dynamic.rule, dynamic.norm) == ("rms", "tensors"):
        dynamic = replace(dynamic, lr=5e-5)
    if memory.search and memory.size is None:
        memory = replace(memory, size=2000)
    return replace(options, dynamic=dynamic, cache=memory)


def check(options: EvalConfig) -> None:
    """Raise ConfigError for options that do not go together, or would do nothing."""
    adapting, averaging, dynamic, problems = options.adapting, options.averaging, options.dynamic, []
    if dynamic.search and dynamic.lr is None:
        problems.append(
            f"dynamic.search=true needs dynamic.lr=...: where to begin with dynamic.rule={dynamic.rule} "
            f"dynamic.norm={dynamic.norm}"
        )
    if dynamic.search and dynamic.decay == 0:
        problems.append("dynamic.decay=0 cannot be searched from: every trial is a multiple of it; use 0.002, say")
    if adapting and options.batch_size not in (None, 1):
        problems.append(f"batch_size={options.batch_size}: a model adapts to one stream at a time; use batch_size=1")
    if adapting and options.precision != "float32":
        problems.append(f"precision={options.precision}: adapting is done in float32")
    if adapting and options.protocol != "seqlm":
        problems.append(f"protocol={options.protocol} reads batches, {adapting[0]} one stream; leave one of them out")
    if dynamic.lr is not None and averaging:
        problems.append(f"{adapting[0]} adapts one model that is read once; leave it out, or {' and '.join(averaging)}")
    if options.mean != "arithmetic" and not averaging:
        problems.append(f"mean={options.mean} does nothing without ensemble=[RUN, ...] or monte_carlo.samples=...")
    plain = verb_config("eval", EvalConfig, [])
    for section, switch in (("dynamic", "lr"), ("cache", "size"), ("monte_carlo", "samples")):
        given, defaults = asdict(getattr(options, section)), asdict(getattr(plain, section))
        idle = [f"{section}.{key}={as_typed(value)}" for key, value in given.items() if value != defaults[key]]
        if given[switch] is None and idle and not given.get("search"):
            problems.append(f"{' '.join(idle)} does nothing without {section}.{switch}=...")
    for key in ("norm", "epsilon", "train_batch_size"):
        if dynamic.rule == "sgd" and (value := getattr(dynamic, key)) != getattr(plain.dynamic, key):
            problems.append(f"dynamic.{key}={as_typed(value)} does nothing with dynamic.rule=sgd")
    searched = dynamic.search or options.cache.search or options.temperature is None
    if options.search_tokens != plain.search_tokens and not searched:
        problems.append(
            f"search_tokens={options.search_tokens} does nothing without dynamic.search=true, cache.search=true or "
            "temperature=null"
        )
    if problems:
        raise ConfigError("\n".join(problems))


def _load_runs(folder: str, options: EvalConfig) -> list[LoadedRun]:
    """The run in `folder` and those of its ensemble; `checkpoint`, `weights` and `average_last` hold for each.

    Raises ConfigError if one is there twice, or has another vocabulary.
    """
    shared: dict[str, Any] = {
        key: getattr(options, key) for key in ("checkpoint", "weights", "average_last", "engine", "trust")
    }
    runs = [load_run(folder, data=options.data, task=options.task, **shared)]
    for other in options.ensemble:
        if Path(other).resolve() in [run.folder.path.resolve() for run in runs]:
            raise ConfigError(f"ensemble: {other} is in it twice; every run counts once")
        runs.append(load_run(other, **shared))
        if not same_vocabulary(runs[0].tokenizer, runs[-1].tokenizer):
            raise ConfigError(
                f"ensemble: {other} has another vocabulary ({len(runs[-1].tokenizer):,} tokens) than {folder} "
                f"({len(runs[0].tokenizer):,}); only probabilities of the same words can be averaged"
            )
    return runs


def _check_task(task: Task, options: EvalConfig) -> None:
    """Raise ConfigError for an option that the task has no use for."""
    plain = verb_config("eval", EvalConfig, [])
    for key in OPTIONS:
        if key not in task.eval_options and getattr(options, key) != getattr(plain, key):
            raise ConfigError(f"{key} does nothing for {type(task).__name__}, the task of this run; leave it out")


def _scored(
    runs: Sequence[LoadedRun], options: EvalConfig, device: torch.device
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Score a split; returns the result as JSON, and the numbers in it that were measured."""
    run, task, split = runs[0], runs[0].task, options.split
    is_text = "bptt" in task.eval_options
    bptt = run.config.train.bptt if options.bptt is None else options.bptt
    read, batch_size = bptt, options.batch_size or task.eval_batch_size(run.config)
    settings = _averaged(runs, options)
    started = time.perf_counter()
    if options.adapting or options.averaging or options.temperature != 1.0:
        score, scorer, adapted = evaluate_adapted(_scorer(runs, options), run, options, bptt, _log)
        settings |= adapted
    else:
        read = options.bptt or task.eval_bptt(run.config, batch_size)
        score = evaluate(run.model, task, task.batches(run.data, split, batch_size, read), device, options.precision)
        scorer = None
    seconds = time.perf_counter() - started
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


def _log(text: str) -> None:
    print(f"valid: {text}", file=sys.stderr, flush=True)


def _keep(run: LoadedRun, name: str, result: dict[str, Any]) -> None:
    """Write a score into the run's folder, if it is of the run's own data, and count it: test is for one."""
    if run.data.fingerprint != run.folder.info().get("data_fingerprint"):
        print(
            f"note: this is not the data {run.folder.path} was trained on; the score is not kept in its folder",
            file=sys.stderr,
        )
        return
    result["times_scored"] = run.folder.times_scored(result["split"]) + 1
    try:
        write_atomically(run.folder.path / name, to_json(result, indent=2) + "\n")
    except OSError as error:
        print(f"note: the score could not be kept in the run's folder ({error})", file=sys.stderr)


def _kind(result: Mapping[str, Any]) -> str:
    """An ending for the name of a result that is not of one model as it was trained."""
    names = {
        "average_last": "averaged", "ensemble": "ensemble", "monte_carlo": "monte_carlo", "adaptation": "adapted",
        "task": "task",
    }  # fmt: skip
    return "".join(f"-{name}" for key, name in names.items() if key in result)


def _shown(result: Mapping[str, Any], measured: Sequence[tuple[str, str]]) -> str:
    """The result for people: the run, what was measured, the settings, and the task's tables."""
    size = f"batch_size {result['batch_size']}" if "batch_size" in result else f"{result['examples']:,} examples"
    times = result.get("times_scored", 1)
    again = result["split"] == "test" and times > 1  # once is as it should be
    often = f"; scored {times} times by now" * again
    rows = [
        ("run", f"{result['run']}, step {result['checkpoint']}, {result['weights']} weights"),
        ("split", f"{result['split']}, {size}{often}"),
        *([("bptt", str(result["bptt"]))] if "bptt" in result else []),
        *measured,
        *_settings(result),
    ]
    lines = [table(rows, 2)]
    for title, found in result.get("report", {}).items():
        named = [{title: name, **row} for name, row in found.items()] if isinstance(found, dict) else found
        lines += ["", title, _report(named)]
    return "\n".join(lines)


def _settings(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows for the ways in which a score is not that of one model as it was trained."""
    rows = []
    if "protocol" in result:
        counted = result["protocol"]
        division = f"batch_size {counted['batch_size']}, {counted['tokens']:,} tokens scored; {counted['source']}"
        rows.append(
            (f"as {counted['name']} counts", f"{counted['ppl']:,.2f} ({counted['difference']:+.2f})   ({division})")
        )
    if "average_last" in result:
        rows.append(("mean of weights", f"of steps {', '.join(f'{step:,}' for step in result['average_last'])}"))
    if "ensemble" in result:
        others = ", ".join(f"{other['run']} (step {other['checkpoint']})" for other in result["ensemble"])
        rows.append(("ensemble", f"with {others}; {result['mean']} mean"))
    if "monte_carlo" in result:
        drawn = result["monte_carlo"]
        rows.append(("Monte-Carlo dropout", f"{drawn['samples']} samples, seed {drawn['seed']}; {result['mean']} mean"))
    if "adaptation" in result:
        rows.append(("adaptation", "  ".join(f"{key} {value}" for key, value in result["adaptation"].items())))
    if "search" in result:
        searched = result["search"]
        once = " once" * (result.get("times_scored", 1) == 1)
        then = "" if result["split"] == "valid" else f"; {result['split']} was then scored{once}"
        rows += [("chosen on valid", f"from {len(searched['trials'])} trials on {searched['tokens']:,} tokens{then}")]
        for key in searched["open_ended"]:
            value = searched["chosen"][key]
            rows += [("", f"{key} {value:g} is the last tried, and others may be better: begin there")]
    rows += [(f"task.{key}", as_typed(value)) for key, value in result.get("task", {}).items()]
    return rows


def _report(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of a table, texts first, then numbers."""
    if not rows:
        return "(nothing)"
    texts = [[f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    return table([list(rows[0]), *texts], sum(isinstance(value, str) for value in rows[0].values()))
