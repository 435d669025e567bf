"""Engines run a cell over a chunk; the mathematics stays the cell's own.

    layer -> [pick] -> scan | native | deferred | fused

An engine is a module with `refusal(cell) -> str | None` and `run(cell, xs, carry, *, reverse, lengths) -> (carry, ys)`.
Tests hold every one of them to `scan`. `fused` has the longest road. An Elman cell on it, gates(z, r, h) = tanh(z + r):

trace.py: the gates and their gradient, dh being that of the new state

    add = add(z, r)
    tanh = tanh(add)
    tanh_backward = tanh_backward(dh, tanh)

program.py, for torch's operations: a step forwards, and backwards with k0 = tanh_backward(1, tanh) for all steps before

    def forward(new0, r):           # the product with the weight has added z, bias and W h
        f_tanh(r, out=new0)
    def reverse(dr, d0, k0):        # then dh of the step before is dy + W^T dr
        f_mul(d0, k0, out=dr)

compiled.py: the same as kernels, for a unit of a row. Forwards, and backwards:

    const real biased_0 = (r_0 + bias_0);
    const real add_0 = (z0_0 + biased_0);
    const real tanh_0 = TANH(add_0);
    new0[row * 1 * size + 0 * size + unit] = tanh_0;

    const real tanh_backward_0 = (d0_0 * (1 - new0_0 * new0_0));
    const real all_of_h = (((real)0.0) + dy_0);
    dr[row * 1 * size + 0 * size + unit] = tanh_backward_0;
    next0[row * 1 * size + 0 * size + unit] = all_of_h;
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cells import Carry, Cell, LSTMCell
from ..config.schema import ENGINES as NAMES
from ..config.schema import Engine as Engine
from . import fused

ENGINES: dict[str, Any] = {name: import_module(f".{name}", __name__) for name in NAMES if name != "auto"}


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
