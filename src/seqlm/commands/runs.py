"""seqlm runs: a table of runs, best first. Imports no torch."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from ..files import to_json
from ..runs.folder import OUTPUTS, find_runs
from ..runs.listing import TEXTS, Row, chosen, columns_of, curve_of, ordered, row_of
from ..runs.table import table, table_width
from ..terminal import has_blocks, output_width
from .words import pop_flag, pop_option, refuse_flags

# What is left out first where the terminal is too narrow; name, status and the first metric on valid stay.
EXPENDABLE = (
    "note", "tokens/s", "parameters", "date", "overrides", "tags", "experiment", "curve", "steps", "seed", "model"
)  # fmt: skip

CURVES = 50  # runs whose logs are read for a curve


def main(words: Sequence[str]) -> None:
    """`seqlm runs [DIR] [--sort COLUMN] [--filter CONDITIONS] [--json] [--csv]`: every run below DIR.

    The best on valid come first. Names are those that other verbs take.
    """
    words, sort = pop_option(words, "--sort", "a column: --sort=valid, --sort=-date")
    words, conditions = pop_option(words, "--filter", "conditions: --filter 'model=gru valid<90'")
    words, as_json = pop_flag(words, "--json")
    words, as_csv = pop_flag(words, "--csv")
    refuse_flags("runs", words, "a folder, --sort, --filter, --json and --csv")
    if len(words) > 1:
        raise ConfigError(f"seqlm runs takes one folder, not {len(words)}")
    folder = Path(words[0]) if words else OUTPUTS
    found = find_runs(folder) if words or folder.is_dir() else []
    rows = [row_of(run, str(run.path.relative_to(folder) if folder == OUTPUTS else run.path)) for run in found]
    rows = chosen(rows, conditions or "")
    rows = ordered(rows, sort) if sort else sorted(rows, key=lambda row: row.rank)
    columns = columns_of(rows)
    if as_json:
        print(to_json([{column: row.facts.get(column) for column in columns} for row in rows], indent=1))
    elif as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerows([columns, *([row.facts.get(column) for column in columns] for row in rows)])
    elif rows:
        for row in rows[:CURVES] if has_blocks(sys.stdout) else ():
            row.facts["curve"] = curve_of(row)
        columns += ["curve"] * any(row.facts.get("curve") for row in rows)
        print(_fitting(rows, columns, output_width()))
    elif found:
        print(f"none of the {len(found)} runs in {folder} meets {conditions}")
    else:
        print(f"no runs in {folder} yet; start one with: seqlm train")


def _fitting(rows: Sequence[Row], columns: Sequence[str], width: int | None) -> str:
    """The table without the columns that the terminal is too narrow for."""
    metrics = [column for column in columns if " " in column]
    for dropped in ("", *EXPENDABLE, *reversed(metrics[1:])):
        columns = [column for column in columns if column != dropped]
        lines = [columns, *([row.cell(column) for column in columns] for row in rows)]
        if width is None or table_width(lines) <= width:
            break
    return table(lines, sum(column in TEXTS for column in columns))
