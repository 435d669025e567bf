"""What a run has shown, and tables of it. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from .folder import RunFolder

# Metrics that have a column where a run has them, and their digits.
METRICS = {
    "ppl": 2, "bpc": 4, "f1": 4, "accuracy": 4, "macro_f1": 4, "frame": 4, "exact": 4, "bleu": 2, "chrf": 2,
}  # fmt: skip


class Shown(NamedTuple):
    """How far a run has come, and the metrics of the checkpoint that was best on valid."""

    judged_by: str
    rank: float | None  # lower is better: that metric, or minus it; None before the first evaluation
    parameters: int
    steps: int | None
    tokens: int | None
    seconds: float | None
    valid: dict[str, float | None]
    test: dict[str, float | None]  # empty if that checkpoint was not scored on it


def shown(run: RunFolder) -> Shown:
    """What a run has shown; raises ConfigError, AttributeError, TypeError or ValueError if its files are damaged."""
    info = run.info()
    metrics: dict[str, Any] = dict(info.get("metrics") or {})
    progress = info
    judged_by = str(info.get("judged_by", "loss"))

    def rank(record: dict[str, Any]) -> float:
        value = _checked(record.get(f"valid/{judged_by}"))
        return math.inf if value is None else value if judged_by == "loss" else -value  # null: it was not finite

    if not metrics or info.get("status") == "running":  # still going, or killed: what it has logged so far
        records = run.records()
        metrics = min((record for record in records if "valid/loss" in record), key=rank, default={})
        if records:
            progress = {**records[-1], "steps": records[-1]["step"]}
    test = run.eval_result("test")
    scored = test.get("checkpoint") == info.get("best_step")  # not weights that are the best no more
    return Shown(
        judged_by=judged_by,
        rank=rank(metrics) if metrics else None,
        parameters=_checked(info.get("parameters", {}).get("total", 0)) or 0,
        steps=_checked(progress.get("steps")),
        tokens=_checked(progress.get("tokens")),
        seconds=_checked(progress.get("seconds")),
        valid={name: _checked(metrics[f"valid/{name}"]) for name in METRICS if f"valid/{name}" in metrics},
        test={name: _checked(test[name]) for name in METRICS if scored and name in test},
    )


def table(lines: Sequence[Sequence[str]], left: int) -> str:
    """Lines of cells in columns; the first `left` are to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def number(value: float | None, digits: int) -> str:
    """A metric as it is printed; nothing for null, which stands for a number that is not finite."""
    return "" if value is None else f"{value:.{digits}f}"


def _checked(value: Any) -> Any:
    """A number or null; raises TypeError for anything else."""
    if value is not None and not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    return value
