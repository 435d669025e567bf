"""seqlm eval: score a split of a run's data, every target token exactly once."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..config.schema import EvalConfig
from ..config.values import verb_config
from ..device import prepare
from ..errors import ConfigError
from ..evaluation.evaluate import evaluate
from ..evaluation.options import averaged, check, evaluate_with, load_runs, make_scorer, with_beginnings
from ..evaluation.protocols import LENSES, look_through
from ..files import to_json, write_atomically
from ..runs.load import LoadedRun
from ..runs.table import table
from ..tasks.base import Task
from ..tasks.lm import LanguageModeling
from ..tasks.text import TextTask, perplexity
from .words import run_and_words


def main(words: Sequence[str]) -> None:
    """`seqlm eval RUN [key=value ...] [--json]`."""
    folder, changes = run_and_words("eval", [word for word in words if word != "--json"])
    evaluate_run(folder, changes, "--json" in words)


def evaluate_run(folder: str, words: Sequence[str], as_json: bool) -> None:
    """Print and keep the scores of a split."""
    how = with_beginnings(verb_config("eval", EvalConfig, words))
    check(how)
    device = prepare(how.device, how.precision, how.threads)
    runs = load_runs(folder, how)
    for one in runs:
        one.model.to(device)
    run = runs[0]
    if not isinstance(run.task, LanguageModeling):
        _evaluate_task(run, run.task, how, device, as_json)
        return
    scorer, done = make_scorer(runs, how), dict[str, Any]()
    encoded, tokenizer = run.data[how.split], run.tokenizer
    window = run.config.train.window if how.window is None else how.window
    started = time.perf_counter()
    if how.adapting or how.averaging or how.temperature != 1.0:
        score, scorer, done = evaluate_with(scorer, runs, how, window)
    else:
        batches = run.task.batches(run.data, how.split, how.columns, window)
        score = evaluate(run.model, run.task, batches, device, how.precision)
    seconds = time.perf_counter() - started
    assert score.tokens == len(encoded.tokens), "every target once"

    done = {**averaged(runs, how), **done}
    if how.lens != "seqlm":
        seen = look_through(how.lens, scorer, encoded.tokens, how.split, window, tokenizer.eos_id)
        ppl = perplexity(seen["loss"], 1)
        difference = ppl - perplexity(score.nats, score.tokens)
        done["lens"] = {**seen, "ppl": ppl, "difference": difference, "source": LENSES[how.lens].source}
    counts = encoded.counts
    unknown = 0 if tokenizer.unk_id is None else int((encoded.tokens == tokenizer.unk_id).sum())
    result = {
        "run": run.folder.name,
        "split": how.split,
        "checkpoint": run.checkpoint.step,
        "weights": run.weights,
        "batch_size": how.columns,
        "tokens": score.tokens,
        "nats": score.nats,
        **run.task.metrics(score, run.data, how.split),
        "characters": counts.characters,
        "ppl_word": perplexity(score.nats, counts.words),
        "words": counts.words,
        "oov_rate": unknown / score.tokens,
        **done,
        "seconds": round(seconds, 3),
        "tokens_per_s": round(score.tokens / seconds, 1),
    }
    _keep(run, f"eval-{how.split}{_kind(result)}.json", result)  # first: who reads may be gone
    print(to_json(result) if as_json else _table(result), flush=True)


def _evaluate_task(run: LoadedRun, task: Task, how: EvalConfig, device: torch.device, as_json: bool) -> None:
    """Score a split for a task other than language modelling, by the metrics that it has."""
    plain = verb_config("eval", EvalConfig, [])
    windows = isinstance(task, TextTask)
    for key in (
        *(() if windows else ("window",)),
        "lens",
        "temperature",
        "dynamic",
        "cache",
        "ensemble",
        "monte_carlo",
        "mean",
    ):
        if getattr(how, key) != getattr(plain, key):
            raise ConfigError(f"{key} is for language models; this run is of {type(task).__name__}")
    # Where nothing goes on from batch to batch, their size changes nothing but the speed.
    columns = how.columns if task.carries else how.batch_size or run.config.train.eval_batch_size
    window = run.config.train.window if how.window is None else how.window
    started = time.perf_counter()
    score = evaluate(run.model, task, task.batches(run.data, how.split, columns, window), device, how.precision)
    result = {
        "run": run.folder.name,
        "split": how.split,
        "checkpoint": run.checkpoint.step,
        "weights": run.weights,
        **({"batch_size": columns, "window": window} if windows else {"examples": len(run.data[how.split])}),
        "tokens": score.tokens,
        "nats": score.nats,
        **task.metrics(score, run.data, how.split),
        **averaged([run], how),
        **({"task": how.task} if how.task else {}),
        "report": task.report(score),
        "seconds": round(time.perf_counter() - started, 3),
    }
    _keep(run, f"eval-{how.split}{_kind(result)}.json", result)  # first: who reads may be gone
    print(to_json(result) if as_json else _example_table(result), flush=True)


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
    """What is added to the name of a result that is not of one model as it was trained."""
    names = {
        "average_last": "averaged", "ensemble": "ensemble", "monte_carlo": "monte_carlo", "adaptation": "adapted",
        "task": "task",
    }  # fmt: skip
    return "".join(f"-{name}" for key, name in names.items() if key in result)


def _example_table(result: dict[str, Any]) -> str:
    hidden = ("run", "checkpoint", "weights", "report", "times_scored")
    told = {key: value for key, value in result.items() if key not in hidden}
    told["split"] += _times(result)
    rows = [("run", f"{result['run']}, step {result['checkpoint']}, {result['weights']} weights")]
    rows += [(key, f"{value:,.4f}" if isinstance(value, float) else f"{value}") for key, value in told.items()]
    lines = [f"{name:<20} {value}" for name, value in rows]
    for title, found in result["report"].items():
        rows_of = [{title: name, **row} for name, row in found.items()] if isinstance(found, dict) else found
        lines += ["", title, _report(rows_of)]
    return "\n".join(lines)


def _report(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of a table, texts first, then numbers."""
    if not rows:
        return "(nothing)"
    texts = [[f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    return table([list(rows[0]), *texts], sum(isinstance(value, str) for value in rows[0].values()))


def _times(result: Mapping[str, Any]) -> str:
    """How often the run has been scored on test by now, where that is more than the once it should be."""
    times = result.get("times_scored", 1)
    return f"; scored {times} times by now" if result["split"] == "test" and times > 1 else ""


def _table(result: dict[str, Any]) -> str:
    rows = [
        ("run", f"{result['run']}, step {result['checkpoint']}, {result['weights']} weights"),
        ("split", f"{result['split']}, batch_size {result['batch_size']}{_times(result)}"),
        ("tokens", f"{result['tokens']:,}"),
        ("nats/token", f"{result['loss']:.4f}"),
        ("perplexity", f"{result['ppl']:,.2f}"),
        ("bits per character", f"{result['bpc']:.4f}   ({result['characters']:,} characters)"),
        ("perplexity per word", f"{result['ppl_word']:,.2f}   ({result['words']:,} words, line ends included)"),
        ("out of vocabulary", f"{100 * result['oov_rate']:.2f}%"),
        ("tokens/s", f"{result['tokens_per_s']:,.0f}"),
    ]
    if "lens" in result:
        lens = result["lens"]
        how = f"{lens['columns']} columns, {lens['tokens']:,} tokens scored; {lens['source']}"
        rows.append((f"as {lens['lens']} counts", f"{lens['ppl']:,.2f} ({lens['difference']:+.2f})   ({how})"))
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
            rows += [
                ("", f"{key} {searched['chosen'][key]:g} is the last tried, and others may be better: begin there")
            ]
    return "\n".join(f"{name:<20} {value}" for name, value in rows)
