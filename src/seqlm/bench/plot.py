"""Measurements as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..report.plotting import pyplot_for

COLOURS = {
    "torch": "#444444", "scan": "#bbbbbb", "native": "#7a9cc6", "deferred": "#8fbf8f", "fused": "#d1603d",
    "persistent": "#8e3b6d",
}  # fmt: skip


def plotting() -> Any:
    """pyplot, drawing into files. Raises ConfigError if matplotlib is not installed."""
    return pyplot_for("--png needs")


def plot(record: Mapping[str, Any], path: Path) -> None:
    """One panel a shape: milliseconds of forward and backward pass for every cell and engine."""
    pyplot = plotting()
    shapes = list(dict.fromkeys(tuple(row["shape"]) for row in record["layers"]))
    bars = max(sum(tuple(row["shape"]) == shape for row in _shown(record)) for shape in shapes)
    size = (3.6 * len(shapes) + 1, 1.5 + 0.15 * bars)  # inches, so that labels of bars do not touch
    figure, axes = pyplot.subplots(1, len(shapes), figsize=size, squeeze=False)
    for axis, shape in zip(axes[0], shapes, strict=True):
        rows = [row for row in _shown(record) if tuple(row["shape"]) == shape]
        labels = [row["cell"] if row["engine"] == "torch" else f"{row['cell']} {row['engine']}" for row in rows]
        colours = [COLOURS.get(row["engine"].removesuffix(" bf16"), "#999999") for row in rows]
        edges = ["#000000" if row["engine"].endswith("bf16") else "none" for row in rows]
        axis.barh(labels, [row["both_ms"] for row in rows], color=colours, edgecolor=edges, linewidth=0.6)
        axis.invert_yaxis()
        axis.set_title("T={} B={} I={} H={}".format(*shape), fontsize=9)
        axis.set_xlabel("ms, forward and backward", fontsize=8)
        axis.tick_params(labelsize=7)
    figure.suptitle(f"seqlm engines: {record['device']}, torch {record['torch']}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _shown(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows but for those of `auto`, which is one of the others."""
    return [row for row in record["layers"] if not row["engine"].startswith("auto")]


def plot_growth(record: Mapping[str, Any], path: Path) -> None:
    """One panel a size: milliseconds of a step, and the share of the peak that its products reach."""
    pyplot = plotting()
    figure, axes = pyplot.subplots(1, len(record["growth"]), figsize=(3.4 * len(record["growth"]), 3.2), squeeze=False)
    for axis, row in zip(axes[0], record["growth"], strict=True):
        axis.loglog(row["values"], row["ms"], "o-", color=COLOURS["fused"])
        axis.set_title(f"{row['size']}: exponent {row['exponent']:.2f}", fontsize=9)
        axis.set_ylabel("ms a step", fontsize=8)
        axis.minorticks_off()
        axis.set_xticks(row["values"], [f"{value:,}" for value in row["values"]])
        axis.set_yticks(row["ms"], [f"{ms:.0f}" for ms in row["ms"]])
        share = axis.twinx()
        share.plot(
            row["values"], [100 * one / record["gemm_peak_gflops"] for one in row["gflops"]], "s:", color="#7a9cc6"
        )
        share.set_ylim(0, 130)
        share.set_ylabel("% of peak", fontsize=8, color="#7a9cc6")
        axis.tick_params(labelsize=7)
        share.tick_params(labelsize=7)
    peak = f"matrix product at most {record['gemm_peak_gflops']} GFLOP/s"
    figure.suptitle(f"a training step: {record['device']}, {record['hardware']}, {peak}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
