"""seqlm runs: a table of runs, best first. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from ..runs.folder import RunFolder, find_runs
from ..runs.table import METRICS, number, shown, table

TEXT = ("name", "status", "model")  # columns to the left; numbers are to the right


def main(words: Sequence[str]) -> None:
    """`seqlm runs [DIR]`: every run below DIR, ranked by what its task chooses weights by on valid."""
    if len(words) > 1:
        raise ConfigError(f"seqlm runs takes one folder, not {len(words)}")
    folder = words[0] if words else "outputs"
    rows = sorted((_row(run) for run in find_runs(Path(folder))), key=lambda row: row[0])
    if not rows:
        print(f"no runs in {folder} yet; start one with: seqlm train")
        return
    measured = [f"{split} {name}" for name in METRICS for split in ("valid", "test")]
    measured = [name for name in measured if any(cells.get(name) for _, cells in rows)]
    columns = [*TEXT, "parameters", "steps", *measured, "tokens/s"]
    print(table([columns, *([cells.get(column, "") for column in columns] for _, cells in rows)], len(TEXT)))


def _row(run: RunFolder) -> tuple[float, dict[str, str]]:
    """What a run is ranked by, and its cells by column. A damaged run is a line too."""
    try:
        found, status, model = shown(run), run.status(), str(run.info().get("choices", {}).get("model", ""))
    except (ConfigError, AttributeError, KeyError, TypeError, ValueError):
        return math.inf, {"name": run.name, "status": "damaged"}
    cells = {"name": run.name, "status": status, "model": model, "parameters": f"{found.parameters:,}"}
    cells["steps"] = "" if found.steps is None else f"{found.steps:,}"
    cells["tokens/s"] = f"{found.tokens / found.seconds:,.0f}" if found.tokens and found.seconds else ""
    for split, metrics in (("valid", found.valid), ("test", found.test)):
        cells |= {f"{split} {name}": number(value, METRICS[name]) for name, value in metrics.items()}
    return math.inf if found.rank is None else found.rank, cells
