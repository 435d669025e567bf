"""seqlm eval: score a split, every target token exactly once."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from .config import verb_config
from .data import Streams
from .lens import LENSES, look_through
from .run import to_json, write_atomically
from .schema import EvalConfig
from .tasks import Score, perplexity
from .testtime.command import averaged, check, evaluate_with, load_runs, make_scorer
from .training.device import autocast, prepare


@torch.no_grad()
def evaluate(
    model: Any,
    task: Any,
    streams: Streams,
    device: torch.device,
    precision: str = "float32",
    stopped: Callable[[], bool] = lambda: False,
) -> Score:
    """Sum the nats of every target of `streams`, the carry running through; `stopped` may end it early."""
    was_training = model.training
    model.eval()
    score, carry = Score(), model.init_carry(streams.batch_size)
    try:
        for index in range(len(streams)):
            if stopped():
                break
            window = streams[index].to(device)
            with autocast(device, precision):
                carry, nats = task.nats(model, window, carry)
            score.nats += float(nats)
            score.tokens += window.tokens
    finally:
        model.train(was_training)
    return score


def main(folder: str, words: Sequence[str], as_json: bool) -> None:
    """`seqlm eval RUN [key=value ...] [--json]`: print and keep the scores of a split."""
    how = verb_config("eval", EvalConfig, words)
    check(how)
    device = prepare(how.device, how.precision, how.threads)
    runs = load_runs(folder, how)
    for one in runs:
        one.model.to(device)
    run, scorer, done = runs[0], make_scorer(runs, how), dict[str, Any]()
    encoded, tokenizer = run.data[how.split], run.tokenizer
    window = run.config.train.window if how.window is None else how.window
    started = time.perf_counter()
    if how.adapting or how.averaging or how.temperature != 1.0:
        score, scorer, done = evaluate_with(scorer, runs, how, window)
    else:
        streams = Streams(encoded.tokens, how.batch_size, window, first=tokenizer.eos_id, clip=True)
        score = evaluate(run.model, run.task, streams, device, how.precision)
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
        "batch_size": how.batch_size,
        "tokens": score.tokens,
        "nats": score.nats,
        "loss": score.loss,
        "ppl": perplexity(score.nats, score.tokens),
        "bpc": score.nats / math.log(2) / counts.characters,
        "characters": counts.characters,
        "ppl_word": perplexity(score.nats, counts.words),
        "words": counts.words,
        "oov_rate": unknown / score.tokens,
        **done,
        "seconds": round(seconds, 3),
        "tokens_per_s": round(score.tokens / seconds, 1),
    }
    print(to_json(result) if as_json else _table(result), flush=True)
    if run.data.fingerprint != run.folder.info().get("data_fingerprint"):
        print(
            f"note: this is not the data {folder} was trained on; the score is not kept in its folder", file=sys.stderr
        )
        return
    try:
        write_atomically(run.folder.path / f"eval-{how.split}{_kind(result)}.json", to_json(result, indent=2) + "\n")
    except OSError as error:
        print(f"note: the score could not be kept in the run's folder ({error})", file=sys.stderr)


def _kind(result: Mapping[str, Any]) -> str:
    """What is added to the name of a result that is not of one model as it was trained."""
    names = {"average_last": "averaged", "ensemble": "ensemble", "monte_carlo": "monte_carlo", "adaptation": "adapted"}
    return "".join(f"-{name}" for key, name in names.items() if key in result)


def _table(result: dict[str, Any]) -> str:
    rows = [
        ("run", f"{result['run']}, step {result['checkpoint']}, {result['weights']} weights"),
        ("split", f"{result['split']}, batch_size {result['batch_size']}"),
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
        rows += [("chosen on valid", f"from {len(searched['trials'])} trials on {searched['tokens']:,} tokens")]
    return "\n".join(f"{name:<20} {value}" for name, value in rows)
