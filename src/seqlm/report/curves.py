"""Learning curves of settings: a mean over seeds, and the band that they lie in, at a bounded number of points."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

AXES = {"step": "steps", "tokens": "tokens", "seconds": "seconds of training"}
POINTS = 60  # of a curve: what a page can show


@dataclass
class Curve:
    """A quantity of a setting over `x`: the mean over seeds, and the least and largest of them."""

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def curve(runs: Sequence[Sequence[Mapping[str, Any]]], tag: str, axis: str) -> Curve:
    """The curve of records of several runs; each point is the mean of what a run logged up to it since the one before.

    Points are at the same places for all runs, as far as the shortest of them goes; at most POINTS of them. What is not
    finite is left out.
    """
    series = [_series(records, tag, axis) for records in runs]
    series = [one for one in series if one]
    if not series:
        return Curve([], [], [], [])
    start, end = max(one[0][0] for one in series), min(one[-1][0] for one in series)
    count = min(POINTS, min(len(one) for one in series))
    places = [start + (end - start) * place / max(1, count - 1) for place in range(count)] if end > start else [end]
    columns = [_at(one, places) for one in series]
    rows = [[value for value in row if value is not None] for row in zip(*columns, strict=True)]
    kept = [(place, row) for place, row in zip(places, rows, strict=True) if row]
    return Curve(
        [place for place, _ in kept],
        [statistics.fmean(row) for _, row in kept],
        [min(row) for _, row in kept],
        [max(row) for _, row in kept],
    )


def _series(records: Sequence[Mapping[str, Any]], tag: str, axis: str) -> list[tuple[float, float]]:
    pairs: list[tuple[Any, Any]] = [(record.get(axis), record.get(tag)) for record in records]
    return [(float(x), float(y)) for x, y in pairs if _finite(x) and _finite(y)]


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _at(series: Sequence[tuple[float, float]], places: Sequence[float]) -> list[float | None]:
    """The mean of the values up to each place since the one before; the last known one where there is none."""
    found: list[float | None] = []
    last, index = None, 0
    for place in places:
        values = []
        while index < len(series) and series[index][0] <= place + 1e-9 * abs(place):
            values.append(series[index][1])
            index += 1
        last = statistics.fmean(values) if values else last
        found.append(last)
    return found


def generalisation_gap(records: Sequence[Mapping[str, Any]]) -> float | None:
    """The last loss of valid minus the mean loss of train over the tenth of the steps before it, in nats a token."""
    valid = _series(records, "valid/loss", "step")
    train = _series(records, "train/loss", "step")
    if not valid or not train:
        return None
    step, loss = valid[-1]
    near = [value for at, value in train if 0.9 * step <= at <= step] or [train[-1][1]]
    return loss - statistics.fmean(near)
