"""seqlm runs: a table of runs, best first. Imports no torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from .errors import ConfigError
from .run import RunFolder, find_runs

# Metrics that have a column where a run has them, and their digits.
METRICS = {
    "ppl": 2, "bpc": 4, "f1": 4, "accuracy": 4, "macro_f1": 4, "frame": 4, "exact": 4, "bleu": 2, "chrf": 2,
}  # fmt: skip
TEXT = ("name", "status", "model")  # columns to the left; numbers are to the right


class Row(NamedTuple):
    """One run: what it is ranked by (lower is better), and its cells by column."""

    rank: float
    cells: dict[str, str]


def main(folder: str = "outputs") -> None:
    """`seqlm runs [DIR]`: every run below DIR, ranked by what its task chooses weights by on valid."""
    rows = sorted((_row(run) for run in find_runs(Path(folder))), key=lambda row: row.rank)
    if not rows:
        print(f"no runs in {folder} yet; start one with: seqlm train")
        return
    measured = [f"{split} {name}" for name in METRICS for split in ("valid", "test")]
    shown = [name for name in measured if any(row.cells.get(name) for row in rows)]
    columns = [*TEXT, "parameters", "steps", *shown, "tokens/s"]
    lines = [columns, *([row.cells.get(column, "") for column in columns] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    for line in lines:
        texts = [
            text.ljust(width) if column in TEXT else text.rjust(width)
            for column, text, width in zip(columns, line, widths, strict=True)
        ]
        print("  ".join(texts).rstrip())


def _row(run: RunFolder) -> Row:
    """A damaged run is a line too."""
    try:
        return _read_row(run)
    except (ConfigError, AttributeError, KeyError, TypeError, ValueError):
        return Row(math.inf, {"name": run.name, "status": "damaged"})


def _read_row(run: RunFolder) -> Row:
    info = run.info()
    metrics: dict[str, Any] = dict(info.get("metrics") or {})
    steps, tokens, seconds = info.get("steps"), info.get("tokens"), info.get("seconds")
    judged_by = str(info.get("judged_by", "loss"))

    def rank(record: dict[str, Any]) -> float:
        value = record.get(f"valid/{judged_by}")
        return math.inf if value is None else float(value) if judged_by == "loss" else -float(value)

    if not metrics or info.get("status") == "running":  # still going, or killed: what it has logged so far
        records = run.records()
        metrics = min((record for record in records if "valid/loss" in record), key=rank, default={})
        if records:
            steps, tokens, seconds = (records[-1].get(key) for key in ("step", "tokens", "seconds"))
    test = run.eval_result("test")
    if test.get("checkpoint") != info.get("best_step"):  # of weights that are not the best any more
        test = {}
    cells = {
        "name": run.name,
        "status": run.status(),
        "model": str(info.get("choices", {}).get("model", "")),
        "parameters": f"{info.get('parameters', {}).get('total', 0):,}",
        "steps": f"{steps:,}" if steps is not None else "",
        "tokens/s": f"{tokens / seconds:,.0f}" if tokens and seconds else "",
    }
    for name, digits in METRICS.items():
        cells[f"valid {name}"] = _number(metrics.get(f"valid/{name}"), digits)
        cells[f"test {name}"] = _number(test.get(name), digits)
    return Row(rank(metrics), cells)


def _number(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else ""
