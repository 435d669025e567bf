"""seqlm eval: score a split, every target token exactly once."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .assemble import load_run
from .config import verb_config
from .data import Batches
from .lens import LENSES, look_through
from .run import to_json, write_atomically
from .schema import EvalConfig
from .tasks import Score, Task, perplexity
from .testtime.command import adapts, evaluate_adaptively
from .training.device import autocast, prepare


@torch.no_grad()
def evaluate(
    model: Any,
    task: Task,
    batches: Batches,
    device: torch.device,
    precision: str = "float32",
    stopped: Callable[[], bool] = lambda: False,
) -> Score:
    """Add up the scores of all batches, the carry running through; `stopped` may end it early."""
    was_training = model.training
    model.eval()
    score, carry = Score(), model.init_carry(batches.batch_size)
    try:
        for index in range(len(batches)):
            if stopped():
                break
            with autocast(device, precision):
                carry, part = task.score(model, batches[index].to(device), carry)
            score.add(part)
    finally:
        model.train(was_training)
    return score


def main(folder: str, words: Sequence[str], as_json: bool) -> None:
    """`seqlm eval RUN [key=value ...] [--json]`: print and keep the scores of a split."""
    how = verb_config("eval", EvalConfig, words)
    device = prepare(how.device, how.precision, how.threads)
    run = load_run(
        folder, checkpoint=how.checkpoint, weights=how.weights, engine=how.engine, data=how.data, trust=how.trust
    )
    encoded, tokenizer = run.data[how.split], run.tokenizer
    window = run.config.train.window if how.window is None else how.window
    run.model.to(device)
    started = time.perf_counter()
    if adapts(how):
        score, adaptation = evaluate_adaptively(run, how, window, device)
    else:
        batches = run.task.batches(run.data, how.split, how.batch_size, window)
        score, adaptation = evaluate(run.model, run.task, batches, device, how.precision), {}
    seconds = time.perf_counter() - started
    assert score.tokens == len(encoded.tokens), "every target once"

    if how.lens != "seqlm":
        seen = look_through(how.lens, run.model, encoded.tokens, how.split, window, tokenizer.eos_id, device)
        ppl = perplexity(seen["loss"], 1)
        difference = ppl - perplexity(score.nats, score.tokens)
        adaptation["lens"] = {**seen, "ppl": ppl, "difference": difference, "source": LENSES[how.lens].source}
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
        **adaptation,
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
        kind = "-adapted" if "adaptation" in result else ""
        write_atomically(run.folder.path / f"eval-{how.split}{kind}.json", to_json(result, indent=2) + "\n")
    except OSError as error:
        print(f"note: the score could not be kept in the run's folder ({error})", file=sys.stderr)


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
    adapted = {**result.get("adaptation", {})}
    rows += [("adaptation", "  ".join(f"{key} {value}" for key, value in adapted.items()))] if adapted else []
    if "search" in result:
        searched = result["search"]
        rows += [("chosen on valid", f"from {len(searched['trials'])} trials on {searched['tokens']:,} tokens")]
    return "\n".join(f"{name:<20} {value}" for name, value in rows)
