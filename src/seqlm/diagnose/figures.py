"""Diagnostics as pictures: readable in grey, and by those who tell no red from green."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..report.plotting import COLOURS, pyplot_for

LINES = (*COLOURS, "#000000")
WIDE = (14, 5)  # a hundred tokens, and names of units
STYLES = ("-", "--", "-.", ":")


def pyplot() -> Any:
    """matplotlib's, drawing into files. Raises ConfigError if it is not installed."""
    return pyplot_for("pictures need", "; figures=false leaves them out")


def style(index: int) -> dict[str, Any]:
    """Colour and line of the curve of this number."""
    return {"color": LINES[index % len(LINES)], "linestyle": STYLES[index % len(STYLES)], "linewidth": 1.6}


def draw_lags(axis: Any, curves: Sequence[Mapping[str, Any]]) -> None:
    """The norm of the gradient by lag, on a logarithmic scale, with the range of eight texts in ten."""
    for index, curve in enumerate(curves):
        lags = range(len(curve["median"]))
        line = style(index)
        axis.plot(lags, _positive(curve["median"]), label=f"layer {curve['layer']}, {curve['state']}", **line)
        axis.fill_between(
            lags, _positive(curve["low"]), _positive(curve["high"]), color=line["color"], alpha=0.15, linewidth=0
        )
        if curve["bound"] is not None:
            shown = [(lag, value) for lag, value in enumerate(curve["bound"]) if value < 1e3 * max(curve["high"])]
            axis.plot(*zip(*shown, strict=True), color="#777777", linewidth=1, linestyle=(0, (1, 2)), label="bound")
    axis.set_yscale("log")
    axis.set_xlabel("lag k, steps")
    axis.set_ylabel(r"$\|\partial\,loss_t / \partial\,state_{t-k}\|$")
    axis.legend(fontsize=7, frameon=False)


def draw_spectra(axis: Any, found: Sequence[Mapping[str, Any]]) -> None:
    """Singular values of each recurrent matrix, the largest first."""
    for index, one in enumerate(found):
        axis.plot(one["singular"], label=f"layer {one['layer']}, {one['name']}", **style(index))
    axis.axhline(1, color="#777777", linewidth=0.8)
    axis.set_xlabel("number")
    axis.set_ylabel("singular value")
    axis.legend(fontsize=7, frameon=False)


def draw_context(axis: Any, curve: Mapping[str, Any]) -> None:
    """The loss by tokens of context, with two standard errors to either side."""
    axis.errorbar(
        curve["context"], curve["loss"], yerr=[2 * one for one in curve["error"]], color=COLOURS[0], marker="o",
        markersize=4, capsize=3, linewidth=1.6,
    )  # fmt: skip
    label = f"90% of the benefit: {curve['effective']}"
    axis.axvline(curve["effective"], color="#777777", linewidth=0.8, linestyle="--", label=label)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.legend(fontsize=7, frameon=False)
    axis.set_xlabel("tokens of context")
    axis.set_ylabel("loss, nats a token")


def draw_gates(axis: Any, found: Sequence[Mapping[str, Any]]) -> None:
    """How often each gate is how open."""
    for index, gate in enumerate(found):
        bins = len(gate["histogram"])
        middles = [(place + 0.5) / bins for place in range(bins)]
        label = f"layer {gate['layer']}, {gate['name']}: {100 * (gate['closed'] + gate['open']):.0f}% stuck"
        axis.plot(middles, gate["histogram"], label=label, **style(index))
    axis.axvspan(0, 0.1, color="#000000", alpha=0.06, linewidth=0)
    axis.axvspan(0.9, 1, color="#000000", alpha=0.06, linewidth=0)
    axis.set_xlim(0, 1)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("value of the gate")
    axis.set_ylabel("share")
    axis.legend(fontsize=7, frameon=False)


def draw_units(axis: Any, found: Mapping[str, Any]) -> None:
    """Activations of units (rows) while they read a text (columns)."""
    names, pieces = list(found["activations"]), found["pieces"]
    values = np.array([found["activations"][name] for name in names])
    values /= np.abs(values).max(1, keepdims=True).clip(1e-9)
    axis.imshow(values, aspect="auto", cmap="cividis", vmin=-1, vmax=1, interpolation="nearest")
    axis.set_yticks(range(len(names)), names, fontsize=6)
    written = [piece.replace("\n", "⏎").replace(" ", "␣") for piece in pieces]
    single = all(len(piece) == 1 for piece in written)
    axis.set_xticks(range(len(pieces)), written, fontsize=6, rotation=0 if single else 90)
    axis.set_xlabel("tokens; dark is negative, bright positive, up to the largest of the row")


PANELS: dict[str, Callable[[Any, Any], None]] = {
    "gradients": draw_lags, "spectra": draw_spectra, "context": draw_context, "gates": draw_gates,
    "units": draw_units,
}  # fmt: skip
TITLES = {
    "gradients": "gradient through time", "spectra": "recurrent matrices", "context": "context that is used",
    "gates": "gates", "units": "units on a text",
}  # fmt: skip


def draw(found: Mapping[str, Any], folder: Path, title: str, format: str) -> list[Path]:
    """A picture for each diagnosis that there is something to show of; returns their files."""
    plot, files = pyplot(), []
    for name, panel in PANELS.items():
        if not found.get(name) or (name == "units" and not found[name]["activations"]):
            continue
        figure, axis = plot.subplots(figsize=WIDE if name == "units" else (6, 4))
        panel(axis, found[name])
        axis.set_title(f"{title}: {TITLES[name]}", fontsize=10)
        files.append(_save(plot, figure, folder / f"{name}.{format}"))
    return files


def pixels_of(found: Mapping[str, Any], name: str) -> NDArray[np.uint8]:
    """The picture of one diagnosis as (height, width, 3). Raises ConfigError without matplotlib."""
    plot = pyplot_for("pictures of diagnose.every need")
    figure, axis = plot.subplots(figsize=(4.4, 3.3))  # as wide as TensorBoard shows it
    PANELS[name](axis, found[name])
    axis.set_title(TITLES[name], fontsize=10)
    figure.tight_layout()
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba(), dtype=np.uint8)[..., :3].copy()
    plot.close(figure)
    return pixels


def draw_side_by_side(runs: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """The gradient through time and the context that is used, a column for each run, on the same scales."""
    plot = pyplot()
    names = [name for name in ("gradients", "context") if all(found.get(name) for found in runs.values())]
    size = (3.4 * len(runs), 2.9 * len(names))
    figure, axes = plot.subplots(len(names), len(runs), figsize=size, sharey="row", squeeze=False)
    titles = short_names(list(runs))
    for row, name in zip(axes, names, strict=True):
        for axis, title, found in zip(row, titles, runs.values(), strict=True):
            PANELS[name](axis, found[name])
            axis.set_title("\n".join(wrap(f"{title}: {TITLES[name]}", 40)), fontsize=10)
            if axis is not row[0]:
                axis.set_ylabel("")
    return _save(plot, figure, path)


def draw_textbook(found: Mapping[str, Any], path: Path) -> Path:
    """The findings of `textbook`: without and with tanh, the memory of an LSTM, and clipping."""
    plot = pyplot()
    figure, axes = plot.subplots(2, 2, figsize=(9, 6.4))
    groups = {
        "h = W h + x": [one for one in found["sent"] if one["name"].endswith("no f")],
        "h = tanh(W h + x)": [one for one in found["sent"] if one["name"].endswith("tanh")],
        "c = f * c + i * g of an LSTM": [one for one in found["sent"] if one["bound"] is None],
    }
    for axis, (title, curves) in zip(axes.flat, groups.items(), strict=False):
        for index, curve in enumerate(curves):
            axis.plot(curve["norm"], label=f"{curve['name']}: {curve['factor']:.2g} a step", **style(index))
            if curve["bound"] is not None:
                label = "bounds of the singular values" if index == len(curves) - 1 else None
                line = {"linewidth": 1, "linestyle": (0, (1, 2)), "label": label}
                axis.plot(curve["bound"], color=style(index)["color"], **line)
        _through_time(axis, title, r"$\|\partial \Sigma state_T / \partial state_{T-k}\|$", "lag k, steps")
    clipped, axis = found["clipped"], axes[1, 1]
    for index, name in enumerate(("before", "after")):
        axis.plot(range(1, found["steps"] + 1), _positive(clipped[name]), label=f"{name} clipping", **style(index))
    _through_time(axis, f"the gradient of {clipped['name']}, h = W h + x", "norm", "steps that it comes through")
    return _save(plot, figure, path)


def _through_time(axis: Any, title: str, height: str, width: str) -> None:
    axis.set_yscale("log")
    axis.set_xlabel(width)
    axis.set_ylabel(height)
    axis.set_title(title, fontsize=10)
    axis.legend(fontsize=7, frameon=False)


def short_names(names: Sequence[str]) -> list[str]:
    """The parts, between dashes, that tell names apart: `elman` and `gru` of ptb-elman-s1-5f2a9c, ptb-gru-s1-08a3ef."""
    parts = [name.split("-") for name in names]
    if len(names) < 2 or len({len(one) for one in parts}) > 1:
        return list(names)
    places = [place for place, found in enumerate(zip(*parts, strict=True)) if len(set(found)) > 1]
    for kept in (places[:-1], places):  # without the hash at the end, if that will do
        short = [" ".join(one[place] for place in kept) for one in parts]
        if len(set(short)) == len(names):
            return short
    return list(names)


def _save(plot: Any, figure: Any, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plot.close(figure)
    return path


def _positive(values: Sequence[float]) -> list[float]:
    """Values for a logarithmic scale, with a gap where a gradient is 0."""
    return [value if value > 0 else math.nan for value in values]
