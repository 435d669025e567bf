"""A search as a picture: parallel coordinates of its trials, and the importance of each key."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from ..report.plotting import file_pyplot
from .findings import Findings

PRUNED_COLOUR = "#bbbbbb"


def draw(found: Findings, path: Path) -> None:
    """Write the picture, in the format that the file's name ends with. Raises ImportError without matplotlib."""
    pyplot = file_pyplot()
    keys = list(found.ranked[0].distributions)
    shares = found.importances()
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(2.2 * (len(keys) + 1) + 3.5, 4.2), width_ratios=[2.2 * (len(keys) + 1), 3.5]
    )
    _coordinates(left, found, keys, pyplot)
    names = list(shares)[::-1]
    right.barh(names, [shares[name] for name in names], color="#d1603d")
    right.set_title("importance" if shares else "importance: too few complete trials", fontsize=9)
    right.tick_params(labelsize=7)
    figure.suptitle(f"{found.folder.name}: {len(found.trials)} trials", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _coordinates(axis: Any, found: Findings, keys: Sequence[str], pyplot: Any) -> None:
    """One vertical line a key and one for the objective; a complete trial is a coloured curve, a pruned one grey."""
    objective = found.objectives[0]
    ranks = [objective.metric.rank(one.values[0]) for one in found.ranked]
    low, high = min(ranks), max(ranks)
    colours = pyplot.get_cmap("viridis")
    for trial in (one for one in found.trials if one.state == TrialState.PRUNED and set(keys) <= set(one.params)):
        axis.plot(range(len(keys)), _heights(trial, keys), color=PRUNED_COLOUR, linewidth=0.7)
    for place, (trial, rank) in reversed(list(enumerate(zip(found.ranked, ranks, strict=True)))):  # the best on top
        height = 1 - (rank - low) / (high - low) if high > low else 1.0
        colour = colours(1 - place / len(ranks))  # by place: one bad trial would make all others alike
        axis.plot(range(len(keys) + 1), [*_heights(trial, keys), height], color=colour, linewidth=1.2)
    for place, key in enumerate(keys):
        _label(axis, place, key, found.ranked[0].distributions[key])
    best, worst = found.ranked[0].values[0], found.ranked[-1].values[0]
    _texts(axis, len(keys), objective.name, [(0.0, objective.metric.text(worst)), (1.0, objective.metric.text(best))])
    axis.set_xlim(-0.3, len(keys) + 0.6)
    axis.set_ylim(-0.12, 1.12)
    axis.axis("off")
    axis.set_title("trials (grey: pruned)", fontsize=9)


def _heights(trial: FrozenTrial, keys: Sequence[str]) -> list[float]:
    return [_height(trial.distributions[key], trial.params[key]) for key in keys]


def _height(kind: BaseDistribution, value: Any) -> float:
    """Where a value stands on the line of its key, from 0 to 1."""
    if isinstance(kind, CategoricalDistribution):
        return kind.choices.index(value) / max(1, len(kind.choices) - 1)
    low, high = float(kind.low), float(kind.high)  # type: ignore[attr-defined]
    if kind.log:  # type: ignore[attr-defined]
        low, high, value = math.log(low), math.log(high), math.log(value)
    return float((value - low) / (high - low))


def _label(axis: Any, place: int, key: str, kind: BaseDistribution) -> None:
    if isinstance(kind, CategoricalDistribution):
        marks = [(_height(kind, option), str(option)) for option in kind.choices]
    else:
        form = "{:.3g}" if isinstance(kind, FloatDistribution) else "{}"
        marks = [(0.0, form.format(kind.low)), (1.0, form.format(kind.high))]  # type: ignore[attr-defined]
    _texts(axis, place, key, marks)


def _texts(axis: Any, place: int, title: str, marks: Sequence[tuple[float, str]]) -> None:
    axis.axvline(place, 0.1, 0.9, color="#444444", linewidth=0.8)
    axis.text(place, 1.06, title, ha="center", fontsize=7)
    for height, text in marks:
        axis.text(place + 0.04, height, text, fontsize=7, va="center")
