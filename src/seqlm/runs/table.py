"""Runs as rows: how far each has come, and its metrics; and how tables are written. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..config.metrics import Metric, by_name
from ..config.values import load_config
from ..errors import ConfigError
from .folder import RunFolder

BARS = "▁▂▃▄▅▆▇█"
DAMAGED = (ConfigError, AttributeError, KeyError, TypeError, ValueError)  # what a damaged file may raise


class RunSummary(NamedTuple):
    """How far a run has come, and the metrics of the checkpoint that was best on valid."""

    monitor: str
    rank: float | None  # the monitored metric, lower is better; None before the first evaluation
    parameters: int
    steps: int | None
    tokens: int | None
    seconds: float | None
    valid: dict[str, float | None]
    test: dict[str, float | None]  # empty if that checkpoint was not scored on it
    metrics: dict[str, Metric]  # those that the task of the run declares, by name, without the loss

    @property
    def shown(self) -> str:
        """The metric that says how good a run is: the monitored one, or for a loss what is made of it first."""
        return self.monitor if self.monitor in self.metrics else next(iter(self.metrics), "")


def summarize(run: RunFolder, info: Mapping[str, Any] | None = None) -> RunSummary:
    """Progress and metrics of a run, whose run.json may be at hand.

    Raises one of DAMAGED for damaged files.
    """
    info = run.info() if info is None else info
    metrics: dict[str, Any] = dict(info.get("metrics") or {})
    progress, monitor, declared = info, str(info["monitor"]), by_name(info["declared_metrics"])
    monitored = declared.get(monitor, Metric(monitor))

    def rank(record: dict[str, Any]) -> float:
        value = _checked(record.get(f"valid/{monitor}"))
        return math.inf if value is None else monitored.rank(value)  # null: it was not finite

    if not metrics or info.get("status") == "running":  # still going, or killed: what it has logged so far
        records = run.records()
        metrics = min((record for record in records if "valid/loss" in record), key=rank, default={})
        if records:
            progress = {**records[-1], "steps": records[-1]["step"]}
    test = run.eval_result("test")
    scored = test.get("checkpoint") == info.get("best_step")  # not weights that are the best no more
    del declared["loss"]
    return RunSummary(
        monitor=monitor,
        rank=rank(metrics) if metrics else None,
        parameters=_checked(info.get("parameters", {}).get("total", 0)) or 0,
        steps=_checked(progress.get("steps")),
        tokens=_checked(progress.get("tokens")),
        seconds=_checked(progress.get("seconds")),
        valid={name: _checked(metrics[f"valid/{name}"]) for name in declared if f"valid/{name}" in metrics},
        test={name: _checked(test[name]) for name in declared if scored and name in test},
        metrics=declared,
    )


def share_done(limits: Mapping[str, float], record: Mapping[str, Any], epoch_tokens: int | None = None) -> float:
    """The share of a run that is done, 0 to 1, by the limit that is nearest, as a record of metrics.jsonl says."""
    tokens = record.get("tokens", 0)
    come = {"steps": record.get("step", 0), "tokens": tokens, "minutes": record.get("seconds", 0.0) / 60}
    if epoch_tokens:
        come["epochs"] = tokens / epoch_tokens
    return min(1.0, max((come[unit] / limit for unit, limit in limits.items() if unit in come), default=0.0))


def share_of(run: RunFolder, record: Mapping[str, Any]) -> float:
    """The share of a run that is done at a record of its metrics.jsonl. Raises ConfigError for a damaged config."""
    return share_done(load_config(run.config).train.limits, record, run.info().get("epoch_tokens"))


def sparkline(values: Sequence[float], width: int = 12) -> str:
    """Numbers as a line of bars, from the lowest to the highest; at most `width` of them, evenly chosen."""
    values = [value for value in values if math.isfinite(value)]
    if len(values) < 2:
        return ""
    count = min(width, len(values))
    chosen = [values[round(place * (len(values) - 1) / (count - 1))] for place in range(count)]
    low, high = min(chosen), max(chosen)
    steps = [0 if high == low else (value - low) / (high - low) for value in chosen]
    return "".join(BARS[round(step * (len(BARS) - 1))] for step in steps)


def markdown(lines: Sequence[Sequence[str]], left: int) -> str:
    """The same as a table of Markdown."""
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    rule = ["---" if place < left else "---:" for place in range(len(lines[0]))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (escaped[0], rule, *escaped[1:]))


def table_width(lines: Sequence[Sequence[str]]) -> int:
    """Characters of the longest line of `table`."""
    return sum(max(map(len, column)) + 2 for column in zip(*lines, strict=True)) - 2


def blocks(columns: Sequence[Sequence[str]], width: int | None) -> str:
    """A table of columns that begin with their titles; where rows are few, or too wide, they stand below each other."""
    titles, *rows = zip(*columns, strict=True)
    if len(rows) >= len(columns) and (width is None or table_width([titles, *rows]) <= width):
        return table([titles, *rows], 1)
    parts: list[str] = []
    while rows:
        count = len(rows)
        while count > 1 and width and table_width(list(zip(titles, *rows[:count], strict=True))) > width:
            count -= 1
        parts.append(table(list(zip(titles, *rows[:count], strict=True)), 1))
        rows = rows[count:]
    return "\n\n".join(parts)


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


def _checked(value: Any) -> Any:
    """A number or null; raises TypeError for anything else."""
    if value is not None and not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    return value
