"""The gates of a cell on a text: how open they are, how many are stuck, and how long units remember."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.language_model import LanguageModel
from ..models.stack import cells_of
from .unrolled import recorded, unroll

CLOSED, OPEN = 0.1, 0.9
BINS = 20


@dataclass
class Gate:
    """A gate of a layer, over all units, texts and steps.

    Args:
        layer: number of the layer, from 0
        name: as its cell names it
        histogram: shares of values in 20 equal parts of 0 to 1
        closed: the share of values under 0.1
        open: that of values over 0.9
        half_lives: of the state of each unit, in steps, if this gate decides what is kept of it: -ln 2 / mean ln keep
    """

    layer: int
    name: str
    histogram: list[float]
    closed: float
    open: float
    half_lives: list[float] | None = None

    def record(self) -> dict[str, Any]:
        """All of it as JSON."""
        return dict(vars(self))


def gates(model: LanguageModel, tokens: Tensor) -> list[Gate]:
    """Of every cell that names its gates (`Cell.gate_names`), on tokens (T, B) read from the zero carry."""
    cells = cells_of(model)
    with torch.no_grad(), recorded(cells) as kept:
        unroll(model, tokens)
    found = []
    for layer, (cell, values) in enumerate(zip(cells, kept, strict=True)):
        names, steps = cell.gate_names, len(tokens)
        if not names:
            continue
        each = len(values) // steps  # a step; what comes before the gates that have names has none
        for place, name in ((place, name) for place, name in enumerate(names) if name):
            value = torch.stack(values[each - len(names) + place :: each]).double()  # (T, B, H)
            found.append(_gate(layer, name, value, cell.kept_by))
    return found


def _gate(layer: int, name: str, value: Tensor, kept_by: str) -> Gate:
    counts = torch.histc(value, BINS, 0.0, 1.0)
    half_lives = None
    if kept_by.removeprefix("1-") == name:
        keep = 1 - value if kept_by.startswith("1-") else value
        rate = keep.clamp(1e-12, 1 - 1e-12).log().flatten(0, 1).mean(0)  # (H)
        half_lives = (-math.log(2) / rate).tolist()
    return Gate(
        layer,
        name,
        (counts / counts.sum()).tolist(),
        float((value < CLOSED).double().mean()),
        float((value > OPEN).double().mean()),
        half_lives,
    )
