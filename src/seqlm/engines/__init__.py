"""Engines run a cell over a window; the mathematics stays the cell's own.

An engine is a module with `refusal(cell) -> str | None` and `run(cell, xs, carry, *, reverse, lengths) -> (carry, ys)`.
Tests hold every one of them to `scan`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..cells import Carry, Cell, LSTMCell
from . import deferred, fused, native, scan

Engine = Literal["auto", "scan", "native", "fused", "deferred"]
ENGINES = {"scan": scan, "native": native, "fused": fused, "deferred": deferred}
NAMES = ("auto", *ENGINES)


class Rule(NamedTuple):
    """Where an order of engines holds: for cells of this class, at this hidden size or above, on this device."""

    device: str
    dtype: torch.dtype | None  # None: any
    cell: Any  # a class of cells
    hidden_size: int
    order: tuple[str, ...]
    because: str


# `engine=auto`: the first rule that fits, then the first engine of its order that can serve the cell.
RULES = (
    Rule("cpu", torch.float32, LSTMCell, 600, ("fused", "native"), "as fast as torch's LSTM, or faster, on a CPU"),
    Rule("cpu", torch.float32, LSTMCell, 0, ("native", "fused"), "torch's LSTM is the fastest at small sizes on a CPU"),
    Rule("cpu", None, Cell, 0, ("fused", "deferred"), "the fastest exact one on a CPU"),
    # Not measured: cuDNN where it has the cell.
    Rule(
        "cuda", None, Cell, 0, ("native", "fused", "deferred"), "the first of native, fused and deferred that is exact"
    ),
)


class Plan(NamedTuple):
    """Which engine serves a layer, and why."""

    engine: str
    reason: str
    run: Callable[..., tuple[Carry, Tensor]]


def pick(cell: Cell, engine: Engine = "auto") -> Plan:
    """Choose the engine for `cell`, on the device and in the type of its parameters.

    Raises ValueError when a forced one cannot serve it.
    """
    if engine not in NAMES:
        raise ValueError(f"engine={engine!r} is unknown; allowed: {', '.join(NAMES)}")
    if engine != "auto":
        why_not = ENGINES[engine].refusal(cell)
        if why_not:
            raise ValueError(f"engine={engine} cannot serve this layer: {why_not}; use engine=auto or engine=scan")
        return _plan(engine, "asked for", cell)
    parameter = next(cell.parameters(), torch.empty(0))
    size = getattr(cell, "hidden_size", 0)
    for device, dtype, kind, least, order, because in RULES:
        here = device == parameter.device.type and dtype in (None, parameter.dtype)
        if here and isinstance(cell, kind) and size >= least:
            passed: list[str] = []
            for name in order:
                why_not = ENGINES[name].refusal(cell)
                if why_not is None:
                    return _plan(name, "; ".join(passed) or because, cell)
                passed.append(f"{name}: {why_not}")
    return _plan("scan", f"no rule for {parameter.device.type}", cell)


def _plan(name: str, reason: str, cell: Cell) -> Plan:
    if name == "fused":
        reason += f" ({fused.describe(cell)})"
    return Plan(name, reason, ENGINES[name].run)
