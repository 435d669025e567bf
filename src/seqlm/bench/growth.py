"""How the time of a training step grows with the sizes of a model and of its batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..config.verb_schema import BenchConfig
from .cost import step_flops
from .steps import Recipe, seqlm_model, seqlm_step
from .timing import Run, now, take_turns

BASE = Recipe(256, [256], bptt=32, batch=16, vocabulary=4096)
SIZES = {
    "hidden size": (64, 128, 256, 512, 1024),
    "batch size": (4, 8, 16, 32, 64),
    "bptt": (8, 16, 32, 64, 128),
    "vocabulary": (1024, 2048, 4096, 8192, 16384),
}


def measure_growth(options: BenchConfig, device: torch.device) -> list[dict[str, Any]]:
    """Measure steps at five values of each size, the others fixed; prints milliseconds and the fitted exponent.

    time ~ size^e, e by least squares over all five: 1 is in proportion, less means that overhead or idle units remain.
    """
    rows = []
    fixed = f"hidden and embedding size {BASE.embedding}, batch size {BASE.batch}, bptt {BASE.bptt}"
    print(f"\nmilliseconds of a step of one LSTM layer: {fixed}, vocabulary {BASE.vocabulary:,}, but for one of them")
    for what, sizes in SIZES.items():
        found = take_turns({size: _timed(_recipe(what, size), options, device) for size in sizes}, options.seconds / 4)
        ms = [1e3 * found[size][1] for size in sizes]
        gflops = [step_flops(_recipe(what, size)) / time / 1e6 for size, time in zip(sizes, ms, strict=True)]
        exponent = slope([math.log(size) for size in sizes], [math.log(time) for time in ms])
        row = {
            "size": what,
            "values": list(sizes),
            "ms": [round(time, 3) for time in ms],
            "exponent": round(exponent, 3),
        }
        rows.append(row | {"gflops": [round(one, 1) for one in gflops]})
        print(f"  {what:<12}" + "".join(f"{size:>8}: {time:<8.1f}" for size, time in zip(sizes, ms, strict=True))
              + f"  exponent {exponent:.2f}", flush=True)  # fmt: skip
    return rows


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The slope of the line of least squares through points."""
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    both = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return both / sum((x - mean_x) ** 2 for x in xs)


def _recipe(what: str, size: int) -> Recipe:
    changes: dict[str, dict[str, Any]] = {
        "hidden size": {"embedding": size, "sizes": [size]},
        "batch size": {"batch": size},
        "bptt": {"bptt": size},
        "vocabulary": {"vocabulary": size},
    }
    return BASE._replace(**changes[what])


def _timed(recipe: Recipe, options: BenchConfig, device: torch.device) -> Run:
    step = seqlm_step(recipe, seqlm_model(recipe, "auto").to(device), device, options.precision)
    tokens = torch.randint(recipe.vocabulary, (recipe.bptt + 1, recipe.batch)).to(device)
    step(tokens)

    def run() -> tuple[float, float]:
        start = now(device)
        step(tokens)
        return 0.0, now(device) - start

    return run
