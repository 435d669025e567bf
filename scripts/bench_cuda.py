"""Measure a GPU in one call: layers, whole steps, and steps as CUDA graphs.

    python scripts/bench_cuda.py [--out FOLDER] [--seconds 10] [--device cuda]

Writes FOLDER/bench-cuda.json, and bench-cuda-PRECISION.json and .png of `seqlm bench`. Sections are independent: one
that fails is reported and the rest goes on. With --device cpu it is a rehearsal, without graphs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from seqlm import LanguageModel, LSTMCell, Recurrent, Stack
from seqlm.bench.timing import now
from seqlm.commands.bench import main as bench
from seqlm.data.batching.streams import Chunk
from seqlm.layers import make_dropout
from seqlm.models.stack import Dropouts
from seqlm.training.gradient import GraphedGradient, cuda_capture, gradient
from seqlm.training.loop import descend

SHAPES = ["35x20x650x650", "70x20x1150x1150", "35x20x1500x1500", "35x20x200x200", "100x64x128x128"]
STEPS = {"zaremba_medium": (650, 2, 35, 20, 10_000, 0.5), "zaremba_large": (1500, 2, 35, 20, 10_000, 0.65)}


def step_times(name: str, engine: Any, graphed: bool, device: torch.device, seconds: float) -> dict[str, Any]:
    """Median time of a training step, eagerly or as a graph; `notes` holds what the fall-back said."""
    hidden, layers, bptt, batch, vocabulary, dropout = STEPS[name]
    cells = [Recurrent(LSTMCell(hidden, hidden).to(device), engine=engine) for _ in range(layers)]
    stack = Stack(cells, dropout=make_dropout("standard", dropout))
    outside: Dropouts = {"kind": "standard", "input": dropout, "output": dropout}
    model = LanguageModel(vocabulary, stack, dropout=outside, init_range=0.05).to(device)
    parameters = list(model.parameters())
    notes: list[str] = []
    optimizer = torch.optim.SGD(parameters, lr=0.1, fused=True)

    def objective(chunk: Chunk, carry: Any) -> Any:
        return (*model.nll(chunk.inputs, chunk.targets, carry), None)

    graph = GraphedGradient(objective, parameters, cuda_capture(device), notes.append) if graphed else None
    carry = model.init_carry(batch)
    tokens = torch.randint(vocabulary, (bptt + 1, batch), device=device)
    read = Chunk(tokens[:-1], tokens[1:], bptt * batch)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 10 or time.perf_counter() < end:
        start = now(device)
        if graph is not None:
            carry, _ = graph(read, carry, float(batch))
        else:
            carry, _ = gradient(objective, parameters, read, carry, float(batch))
        descend(optimizer, parameters, 5.0)
        times.append(now(device) - start)
    median = statistics.median(times[3:])
    return {"step": name, "engine": engine, "graph": graphed, "ms": round(1e3 * median, 3), "notes": notes,
            "tokens_per_s": round(bptt * batch / median, 1)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    device, record = torch.device(options.device), options.out / "bench-cuda.json"
    options.out.mkdir(parents=True, exist_ok=True)
    small = device.type == "cpu"
    shapes = ["5x2x8x8"] if small else SHAPES
    for precision in ["float32"] if small else ["tf32", "bf16"]:
        target = record.with_name(f"bench-cuda-{precision}.json")
        words = [
            f"device={device}",
            f"precision={precision}",
            f"seconds={options.seconds}",
            f"shapes=[{','.join(shapes)}]",
        ]
        words += ["levels=[layer]"] if small else []
        try:
            bench([*words, "--json", str(target), "--png", str(target.with_suffix(".png"))])
        except Exception as error:  # the next section is worth having
            print(f"bench {precision}: {type(error).__name__}: {error}")
    graphs = []
    for name in STEPS:
        for engine, graphed in (("native", False), ("native", True), ("fused", False), ("fused", True)):
            if small and (graphed or name != "zaremba_medium"):
                continue
            try:
                graphs.append(step_times(name, engine, graphed, device, options.seconds))
                print(graphs[-1], flush=True)
            except Exception as error:
                print(f"{name} {engine} graph={graphed}: {type(error).__name__}: {error}")
            record.write_text(
                json.dumps({"torch": torch.__version__, "steps": graphs}, indent=1) + "\n", encoding="utf-8"
            )


if __name__ == "__main__":
    main()
