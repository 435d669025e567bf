"""seqlm runs: a table of runs, best first. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from ..runs.folder import RunFolder, find_runs
from ..runs.table import summarize, table

SPLITS = ("valid ", "test ")
TEXT = ("name", "status", "model")  # columns to the left; numbers are to the right


def main(words: Sequence[str]) -> None:
    """`seqlm runs [DIR]`: every run below DIR, ranked by the monitored metric on valid."""
    if len(words) > 1:
        raise ConfigError(f"seqlm runs takes one folder, not {len(words)}")
    folder = words[0] if words else "outputs"
    rows = sorted((_row(run) for run in find_runs(Path(folder))), key=lambda row: row[0])
    if not rows:
        print(f"no runs in {folder} yet; start one with: seqlm train")
        return
    titles = dict.fromkeys(title for _, cells in rows for title in cells if title.startswith(SPLITS))
    measured = [title for title in titles if any(cells.get(title) for _, cells in rows)]
    columns = [*TEXT, "parameters", "steps", *measured, "tokens/s"]
    print(table([columns, *([cells.get(column, "") for column in columns] for _, cells in rows)], len(TEXT)))


def _row(run: RunFolder) -> tuple[float, dict[str, str]]:
    """Rank of a run, lower is better, and its cells by column. A damaged run is a line too."""
    try:
        found, status, model = summarize(run), run.status(), str(run.info().get("choices", {}).get("model", ""))
    except (ConfigError, AttributeError, KeyError, TypeError, ValueError):
        return math.inf, {"name": run.name, "status": "damaged"}
    cells = {"name": run.name, "status": status, "model": model, "parameters": f"{found.parameters:,}"}
    cells["steps"] = "" if found.steps is None else f"{found.steps:,}"
    cells["tokens/s"] = f"{found.tokens / found.seconds:,.0f}" if found.tokens and found.seconds else ""
    for name, metric in found.metrics.items():
        cells |= {
            f"valid {name}": metric.text(found.valid.get(name)),
            f"test {name}": metric.text(found.test.get(name)),
        }
    return math.inf if found.rank is None else found.rank, cells
