"""Every cell and engine at one shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..cells import Cell, GatedCell
from ..config.build import build
from ..config.verb_schema import BenchConfig
from ..device import autocast
from ..engines import ENGINES
from ..engines.native import has_bf16_lstm
from ..layers import Recurrent
from .timing import Run, now, peak_bytes, take_turns, warmed, with_bf16

TURN = 0.1  # seconds


def _operations(layer: nn.Module, rows: int) -> float:
    """Additions and multiplications of matrices, forward and backward, for so many rows."""
    return 6.0 * rows * sum(parameter.numel() for parameter in layer.parameters() if parameter.dim() == 2)


def measure_layers(
    shape: tuple[int, int, int, int], nodes: Mapping[str, Any], options: BenchConfig, device: torch.device, record: Any
) -> list[dict[str, Any]]:
    """Measure every cell and engine at one shape; prints a line for each."""
    steps, batch, inputs, hidden = shape
    xs = torch.randn(steps, batch, inputs, device=device, requires_grad=True)
    dys = torch.randn(steps, batch, hidden, device=device)
    contestants: dict[tuple[str, str], Run] = {}
    work: dict[str, tuple[float, str]] = {}
    kept: dict[tuple[str, str], float] = {}
    for name, node in nodes.items():
        cell = build(node, "cell", input_size=inputs, hidden_size=hidden).to(device)
        reference = _reference(cell)
        work[name] = (_operations(cell, steps * batch), reference.__name__)
        if (reference.__name__, "torch") not in contestants:
            reference_layer = reference(inputs, hidden).to(device)
            work[reference.__name__] = (_operations(reference_layer, steps * batch), reference.__name__)
            for label, (_, precision) in with_bf16(["torch"], options).items():
                if reference is nn.LSTM and precision == "bf16" and device.type == "cpu" and not has_bf16_lstm():
                    continue
                contestants[reference.__name__, label] = _timed(reference_layer, None, xs, dys, precision)
        for label, (engine, precision) in with_bf16(options.engines or ["auto", *ENGINES], options).items():
            if engine == "auto" or ENGINES[engine].refusal(cell) is None:
                layer = Recurrent(cell, engine=engine)  # type: ignore[arg-type]
                contestants[name, label] = _timed(layer, layer.init_carry(batch), xs, dys, precision)
    for key, run in contestants.items():
        run()
        kept[key] = peak_bytes(run, device) / 2**20
    # Those that are compared with one module of torch take turns; others would only cool the caches.
    families = list(dict.fromkeys(against for _, against in work.values()))
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for family in families:
        members = {key: warmed(run, TURN) for key, run in contestants.items() if work[key[0]][1] == family}
        found |= take_turns(members, options.seconds / len(families))
    rows = []
    print(f"\nT,B,I,H = {','.join(map(str, shape))}: milliseconds; times as fast as torch and as scan; peak of both")
    titles = f"{'forward':>9}{'both':>9}{'x torch':>9}{'x scan':>8}{'GFLOP/s':>9}{'peak %':>8}{'MB':>8}"
    print(f"  {'cell':<16}{'engine':<14}{titles}")
    for (name, engine), (forward, both) in found.items():
        flops, against = work[name]
        scan = found.get((name, "scan"))
        row = {
            "shape": list(shape),
            "cell": name,
            "engine": engine,
            "forward_ms": round(1e3 * forward, 3),
            "both_ms": round(1e3 * both, 3),
            "torch": against,
            "times_torch": round(found[against, "torch"][1] / both, 3),
            "times_scan": round(scan[1] / both, 3) if scan else None,
            "gflops": round(flops / both / 1e9, 1),
            "share_of_peak": round(flops / both / 1e9 / record["gemm_peak_gflops"], 3),
            "peak_mb": round(kept[name, engine], 1),
        }
        rows.append(row)
        print(
            f"  {name:<16}{engine:<14}{row['forward_ms']:>9.1f}{row['both_ms']:>9.1f}{row['times_torch']:>9.2f}"
            f"{'' if scan is None else format(row['times_scan'], '.2f'):>8}{row['gflops']:>9.0f}"
            f"{100 * row['share_of_peak']:>8.0f}{row['peak_mb']:>8.1f}",
            flush=True,
        )
    return rows


def _reference(cell: Cell) -> Any:
    """The module of torch with as many gates."""
    gates = cell.num_gates if isinstance(cell, GatedCell) else 1
    references: dict[int, Any] = {1: nn.RNN, 3: nn.GRU}
    return references.get(gates, nn.LSTM)


def _timed(layer: nn.Module, carry: Any, xs: Tensor, dys: Tensor, precision: str) -> Run:
    def run() -> tuple[float, float]:
        layer.zero_grad()
        xs.grad = None
        start = now(xs.device)
        with autocast(xs.device, precision):
            ys = layer(xs)[0] if carry is None else layer(xs, carry)[1]
        middle = now(xs.device)
        ys.backward(dys[..., : ys.shape[-1]].to(ys.dtype))
        return middle - start, now(xs.device) - start

    return run
