"""The tables of docs/scaling.md: the formulas of cost.py beside the record of a `seqlm bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..runs.table import markdown
from .cost import STATES, exchanged, largest, memory, parameters, step_flops
from .steps import STEPS

CORPUS = 1_000_000_000  # tokens
NETWORKS = {"1 Gbit/s": 0.125e9, "10 Gbit/s": 1.25e9, "100 Gbit/s": 12.5e9}  # bytes a second
RANKS = (2, 8)
SHARE = 0.1  # of a step, that its exchange may take
GPU_MEMORY = 80e9


def tables(record: Mapping[str, Any]) -> str:
    """All of them, as Markdown, for the machine of the record."""
    machine = f"Measured on {record['hardware']}, {record['device']}, torch {record['torch']}."
    return "\n\n".join([machine, _steps(record), _growth(record), _corpus(record), _exchange(record), _largest()])


def _measured(record: Mapping[str, Any], name: str, engine: str) -> Mapping[str, Any]:
    return next(row for row in record["steps"] if row["step"] == name and row["engine"] == engine)


def _steps(record: Mapping[str, Any]) -> str:
    lines = [["step", "parameters", "GFLOP", "MB with SGD", "MB with Adam", "measured ms", "GFLOP/s"]]
    for name, recipe in STEPS.items():
        flops, ms = step_flops(recipe), _measured(record, name, "auto")["ms"]
        needs = [f"{memory(recipe, optimizer).total / 1e6:,.0f}" for optimizer in ("sgd", "adam")]
        lines.append([name, f"{parameters(recipe).total:,}", f"{flops / 1e9:.1f}", *needs, f"{ms:,.0f}",
                      f"{flops / ms / 1e6:.0f}"])  # fmt: skip
    return markdown(lines, 1)


def _growth(record: Mapping[str, Any]) -> str:
    lines = [["twice the ...", "takes so many times as long", "GFLOP/s at the smallest and the largest"]]
    for row in record["growth"]:
        ends = f"{row['gflops'][0]:.0f} at {row['values'][0]:,}, {row['gflops'][-1]:.0f} at {row['values'][-1]:,}"
        lines.append([row["size"], f"{2 ** row['exponent']:.2f}", ends])
    return markdown(lines, 1)


def _corpus(record: Mapping[str, Any]) -> str:
    lines = [["a billion tokens once", "steps", *(f"{engine}: tokens/s, days" for engine in ("float32", "bf16"))]]
    for name, recipe in STEPS.items():
        steps = f"{CORPUS / (recipe.bptt * recipe.batch):,.0f}"
        speeds = [_measured(record, name, engine)["tokens_per_s"] for engine in ("auto", "auto bf16")]
        lines.append([name, steps, *(f"{speed:,.0f}, {CORPUS / speed / 86400:.1f}" for speed in speeds)])
    return markdown(lines, 1)


def _exchange(record: Mapping[str, Any]) -> str:
    titles = [f"{network}, {ranks} ranks" for network in NETWORKS for ranks in RANKS]
    lines = [["exchange as a share of a step", "MB of gradients", *titles, f"GB/s for {SHARE:.0%}, {RANKS[-1]} ranks"]]
    for name, recipe in STEPS.items():
        count, seconds = parameters(recipe).total, _measured(record, name, "auto")["ms"] / 1e3
        shares = [f"{exchanged(count, ranks) / speed / seconds:.0%}" for speed in NETWORKS.values() for ranks in RANKS]
        needed = exchanged(count, RANKS[-1]) / (SHARE * seconds)
        lines.append([name, f"{4 * count / 1e6:,.0f}", *shares, f"{needed / 1e9:.2f}"])
    return markdown(lines, 1)


def _largest() -> str:
    lines: list[Sequence[str]] = [
        [
            "published model",
            "parameters",
            "the paper says",
            "GB with Adam",
            f"of the {GPU_MEMORY / 1e9:.0f} GB of a GPU",
        ]
    ]
    for one in largest():
        needs = 4 * one.parameters * (2 + STATES["adam"])
        lines.append([f"{one.name} ({one.source})", f"{one.parameters:,}", f"{one.published / 1e9:.1f} billion",
                      f"{needs / 1e9:.1f}", f"{needs / GPU_MEMORY:.0%}"])  # fmt: skip
    return markdown(lines, 1)
