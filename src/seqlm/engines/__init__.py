"""Engines run a cell over a window faster than the reference loop; the mathematics stays the cell's own.

An engine is a module with `refusal(cell) -> str | None` and `run(cell, xs, carry, reverse) -> (carry, ys)`,
listed in `FAST`, fastest first. Tests hold every one of them to `scan`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor

from ..cells import Carry, Cell
from . import native

Engine = Literal["auto", "scan", "native"]
FAST = {"native": native}
NAMES = ("auto", "scan", *FAST)


class Plan(NamedTuple):
    """Which engine serves a layer, and why. `run` is None for the reference loop, `scan`."""

    engine: str
    reason: str
    run: Callable[..., tuple[Carry, Tensor]] | None


def pick(cell: Cell, engine: Engine = "auto") -> Plan:
    """Choose the engine for `cell`; raises ValueError when a forced one cannot serve it."""
    if engine not in NAMES:
        raise ValueError(f"engine={engine!r} is unknown; allowed: {', '.join(NAMES)}")
    if engine == "scan":
        return Plan("scan", "asked for", None)
    if engine != "auto":
        why_not = FAST[engine].refusal(cell)
        if why_not:
            raise ValueError(f"engine={engine} cannot serve this layer: {why_not}; use engine=auto or engine=scan")
        return Plan(engine, "asked for", FAST[engine].run)
    refusals = []
    for name, module in FAST.items():
        why_not = module.refusal(cell)
        if why_not is None:
            return Plan(name, "fastest that computes this cell exactly", module.run)
        refusals.append(f"{name}: {why_not}")
    return Plan("scan", "; ".join(refusals), None)
