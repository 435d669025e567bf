"""The ways to compute a product, at the shapes of language models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ..config.verb_schema import BenchConfig
from ..engines.choice import timed
from ..engines.product import ways_to_map, ways_to_repeat
from .timing import Run, take_turns

# rows, inputs, outputs: of a step of the recurrence, and of all steps of a chunk
REPEATED = [
    (1, 650, 2600), (20, 200, 800), (20, 650, 2600), (20, 2600, 650), (20, 1150, 4600), (32, 512, 2048), (64, 128, 512),
]  # fmt: skip
AT_ONCE = [(400, 200, 10_000), (700, 650, 2600), (700, 650, 10_000), (1400, 1150, 4600)]


def measure_products(options: BenchConfig) -> list[dict[str, Any]]:
    """Measure every way to multiply x (rows, inputs) by a matrix of weights; prints a line for each."""
    rows = []
    print("\nproducts, GFLOP/s: by torch, and with a matrix that MKL or oneDNN has packed")
    print(f"  {'rows, inputs, outputs':<24}{'type':<10}{'torch':>8}{'mkl':>8}{'onednn':>8}")
    seconds = options.seconds / (2 * (len(REPEATED) + len(AT_ONCE)))
    for shape in REPEATED + AT_ONCE:
        for dtype in (torch.float32, torch.bfloat16):
            found = take_turns(_contestants(shape, dtype), seconds)
            flops = 2 * shape[0] * shape[1] * shape[2]
            gflops = {way: round(flops / spent / 1e9, 1) for way, (_, spent) in found.items()}
            row = {
                "shape": list(shape),
                "packed": "once" if shape in REPEATED else "each time",
                "type": str(dtype).removeprefix("torch."),
                "gflops": gflops,
            }
            rows.append(row)
            speeds = "".join(f"{gflops.get(way, ''):>8}" for way in ("torch", "mkl", "onednn"))
            print(f"  {', '.join(map(str, shape)):<24}{row['type']:<10}{speeds}", flush=True)
    return rows


def _contestants(shape: tuple[int, int, int], dtype: torch.dtype) -> dict[str, Run]:
    """One product by every way: with a matrix that is packed already, or that is packed for it."""
    count, inputs, outputs = shape
    x, weight = torch.randn(count, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
    if shape not in REPEATED:
        return {name: _run(partial(way, x, weight, None)) for name, way in ways_to_map(weight, count).items()}
    out = torch.empty(count, outputs, dtype=dtype)
    ways = ways_to_repeat(weight.t(), count)
    return {name: _run(partial(way(weight.t(), count), x, None, out)) for name, way in ways.items()}


def _run(function: Callable[[], object]) -> Run:
    trial = timed(function)
    return lambda: (0.0, trial())
