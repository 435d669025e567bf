"""seqlm runs: a table of runs, best first. Imports no torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .run import RunFolder, find_runs

COLUMNS = ("name", "status", "model", "parameters", "steps", "valid ppl", "valid bpc", "test ppl", "tokens/s")


def main(folder: str = "outputs") -> None:
    """`seqlm runs [DIR]`: every run below DIR, ranked by validation loss."""
    rows = sorted((_row(run) for run in find_runs(Path(folder))), key=lambda row: row[0])
    if not rows:
        print(f"no runs in {folder} yet; start one with: seqlm train")
        return
    cells = [COLUMNS, *(row[1] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    for line in cells:
        texts = [
            text.ljust(width) if column < 3 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(texts).rstrip())


def _row(run: RunFolder) -> tuple[float, tuple[str, ...]]:
    """The sorting key (validation loss) and the texts of one line; a damaged run is a line too."""
    try:
        return _read_row(run)
    except (ConfigError, AttributeError, KeyError, TypeError, ValueError):
        return math.inf, (run.name, "damaged", *[""] * (len(COLUMNS) - 2))


def _read_row(run: RunFolder) -> tuple[float, tuple[str, ...]]:
    info = run.info()
    metrics: dict[str, Any] = dict(info.get("metrics") or {})
    steps, tokens, seconds = info.get("steps"), info.get("tokens"), info.get("seconds")
    if not metrics or info.get("status") == "running":  # still going, or killed: what it has logged so far
        records = run.records()
        valid = [record for record in records if "valid/loss" in record]
        metrics = min(valid, key=lambda record: float(record["valid/loss"])) if valid else {}
        if records:
            steps, tokens, seconds = (records[-1].get(key) for key in ("step", "tokens", "seconds"))
    test = run.eval_result("test")
    if test.get("checkpoint") != info.get("best_step"):  # of weights that are not the best any more
        test = {}
    speed = f"{tokens / seconds:,.0f}" if tokens and seconds else ""
    loss = metrics.get("valid/loss")
    return math.inf if loss is None else float(loss), (
        run.name,
        run.status(),
        str(info.get("choices", {}).get("model", "")),
        f"{info.get('parameters', {}).get('total', 0):,}",
        f"{steps:,}" if steps is not None else "",
        _number(metrics.get("valid/ppl"), 2),
        _number(metrics.get("valid/bpc"), 4),
        _number(test.get("ppl"), 2),
        speed,
    )


def _number(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else ""
