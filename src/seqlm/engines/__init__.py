"""Engines run a cell over a chunk; the mathematics stays the cell's own.

    layer -> [pick] -> scan | native | deferred | fused | persistent

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
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cells import Carry, Cell, LSTMCell
from ..config.schema import ENGINES as NAMES
from ..config.schema import Engine as Engine
from . import fused
from .choice import length_class, measured, shape_class, timed

ENGINES: dict[str, Any] = {name: import_module(f".{name}", __name__) for name in NAMES if name != "auto"}


# `engine=auto` takes the first that can serve the cell, or the fastest of those that are measured.
ORDERS: dict[str, tuple[str, ...]] = {
    "cpu": ("fused", "native", "persistent", "deferred"),
    "cuda": ("native", "fused", "deferred"),
}
MEASURED = {"fused", "native", "persistent"}  # on the CPU, in float32
MOST_STEPS = 128  # of a chunk in a trial: longer ones are like it
LEAST_STEPS, MOST_WORK = 16, 1e10  # operations of a trial, or it would take too long; but so many steps


class Plan(NamedTuple):
    """Which engine serves a layer, and why."""

    engine: str
    reason: str
    run: Callable[..., tuple[Carry, Tensor]]


def pick(cell: Cell, engine: Engine = "auto", steps: int | None = None, rows: int | None = None) -> Plan:
    """Choose the engine for `cell`, on the device and in the type of its parameters, for chunks of this shape.

    What is fastest on a CPU is measured, with a gradient or without, in autocast's type, as it is asked for; without
    a shape it is what is usual. Raises ValueError when a forced engine cannot serve the cell.
    """
    if engine not in NAMES:
        raise ValueError(f"engine={engine!r} is unknown; allowed: {', '.join(NAMES)}")
    if engine != "auto":
        why_not = ENGINES[engine].refusal(cell)
        if why_not:
            raise ValueError(f"engine={engine} cannot serve this layer: {why_not}; use engine=auto or engine=scan")
        return _plan(engine, "asked for", cell)
    parameter = next(cell.parameters(), torch.empty(0))
    order = ORDERS.get(parameter.device.type, ())
    refusals = {name: ENGINES[name].refusal(cell) for name in order}
    able = [name for name in order if refusals[name] is None]
    if not able:
        return _plan("scan", f"no other for {parameter.device.type}", cell)
    passed = [f"{name}: {why_not}" for name, why_not in list(refusals.items())[: order.index(able[0])] if why_not]
    if parameter.device.type == "cpu" and parameter.dtype is torch.float32:
        usual = _usual(cell)
        able.sort(key=lambda name: name != usual)
        rivals = [name for name in able if name in MEASURED]
        if steps and rows and len(rivals) > 1:
            return _measured(cell, rivals, steps, rows)
    return _plan(able[0], "; ".join(passed) or "the usual one, not measured", cell)


def _usual(cell: Cell) -> str | None:
    """The engine that is usually the fastest on the CPU in float32, where that is not the first of the order."""
    if torch.is_autocast_enabled("cpu"):
        return "persistent"  # a weight of half the size stays in the caches
    return "native" if isinstance(cell, LSTMCell) else None  # oneDNN's, as the other cells of torch are not


def _measured(cell: Cell, rivals: list[str], steps: int, rows: int) -> Plan:
    """The fastest of several engines for chunks of this shape."""
    grad, narrow = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    kind = type(cell).__name__
    sizes = f"{length_class(steps, MOST_STEPS)}x{shape_class(rows, cell.input_size, cell.output_size)}"
    work = 6.0 * rows * sum(parameter.numel() for parameter in cell.parameters())  # of a step and its gradient
    steps = min(steps, MOST_STEPS, max(LEAST_STEPS, round(MOST_WORK / work)))
    question = (
        f"{'training' if grad else 'reading'} by {kind} of {sizes}, {'bfloat16' if narrow else 'float32'}, "
        f"{torch.get_num_threads()} threads"
    )
    ways = {name: partial(_trial, cell, name, steps, rows) for name in rivals}
    name = measured.choose(question, ways)
    ratios = {other: measured.times_as_fast(question, name, other) for other in rivals if other != name}
    known = [f"{ratio:.2f} times as fast as {other}" for other, ratio in ratios.items() if ratio]
    return _plan(name, " and ".join(known) or "the usual one, not measured", cell)


def _trial(cell: Cell, name: str, steps: int, rows: int) -> float:
    """Seconds of a chunk, with its gradient if one is wanted; draws no random number that anyone else would miss."""
    run, parameters = ENGINES[name].run, [p for p in cell.parameters() if p.requires_grad]
    with torch.random.fork_rng(devices=[]):
        xs = torch.randn(steps, rows, cell.input_size, requires_grad=torch.is_grad_enabled())
        carry = cell.init_carry(rows)

        def chunk() -> None:
            _, ys = run(cell, xs, carry)
            if torch.is_grad_enabled():
                torch.autograd.grad(ys, [xs, *parameters], torch.ones_like(ys))

        return timed(chunk)()


def _plan(name: str, reason: str, cell: Cell) -> Plan:
    if name == "fused":
        reason += f" ({fused.describe(cell)})"
    return Plan(name, reason, ENGINES[name].run)
