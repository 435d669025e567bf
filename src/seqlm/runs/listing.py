"""Rows of `seqlm runs`: every fact of a run by column, which of them are asked for, and in which order. No torch."""

from __future__ import annotations

import fnmatch
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..config.metrics import Metric
from ..errors import ConfigError
from .folder import RunFolder
from .table import DAMAGED, RunSummary, share_of, sparkline, summarize

# Columns to the left, then numbers; metrics stand between steps and tokens/s.
TEXTS = ("name", "status", "model", "experiment", "seed", "overrides", "tags", "note", "date")
NUMBERS = ("parameters", "steps")
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le, ">=": operator.ge, "!=": operator.ne, "<": operator.lt, ">": operator.gt, "=": operator.eq,
}  # fmt: skip
CONDITION = re.compile(r"(?P<key>[^<>=!]+?)(?P<sign><=|>=|!=|<|>|=)(?P<value>.+)")
# Words that have a column of their own, or say where a run is.
ELSEWHERE = ("model=", "experiment=", "seed=", "tags=", "note=", "run.", "paths.", "data.path=", "device=", "threads=")


@dataclass
class Row:
    """A run as `seqlm runs` shows it."""

    facts: dict[str, Any]  # by column; "valid" and "test" are the monitored metric
    rank: float = math.inf  # lower is better
    metrics: dict[str, Metric] = field(default_factory=dict)
    typed: dict[str, str] = field(default_factory=dict)  # key: value, as typed
    run: RunFolder | None = None

    def cell(self, column: str) -> str:
        """A fact as text."""
        value = self.facts.get(column)
        if value is None:
            return ""
        if column == "status" and (done := self.facts.get("done")) is not None:
            return f"{value} {100 * done:.0f}%"
        if isinstance(value, float) and (metric := self.metrics.get(column.partition(" ")[2])):
            return metric.text(value)
        return f"{value:,.0f}" if isinstance(value, (int, float)) and column != "seed" else str(value)


def row_of(run: RunFolder, name: str) -> Row:
    """A run as a row; a damaged one is a row too."""
    try:
        info = run.info()
        found, status = summarize(run, info), run.status(info)
        overrides = [str(word) for word in info.get("overrides") or []]
        facts: dict[str, Any] = {
            "name": name,
            "status": status,
            "model": model_of(info),
            "experiment": info.get("choices", {}).get("experiment"),
            "seed": info.get("seed"),
            "overrides": " ".join(word for word in overrides if not word.lstrip("+").startswith(ELSEWHERE)) or None,
            "tags": ",".join(map(str, info.get("tags") or [])) or None,
            "note": info.get("note"),
            "date": str(info.get("started", ""))[:16].replace("T", " ") or None,
            "parameters": found.parameters,
            "steps": found.steps,
            **{f"valid {metric}": value for metric, value in found.valid.items()},
            **{f"test {metric}": value for metric, value in found.test.items()},
            "valid": found.valid.get(found.shown),
            "test": found.test.get(found.shown),
            "done": _share_done(run, found) if status == "running" else None,
            "tokens/s": round(found.tokens / found.seconds) if found.tokens and found.seconds else None,
        }
        typed = dict(word.lstrip("+").partition("=")[::2] for word in overrides)
        return Row(facts, math.inf if found.rank is None else found.rank, found.metrics, typed, run)
    except DAMAGED:
        return Row({"name": name, "status": "damaged"})


def _share_done(run: RunFolder, found: RunSummary) -> float | None:
    """How far a run has come that trains now, 0 to 1; None if its config cannot be read."""
    try:
        return share_of(run, {"step": found.steps or 0, "tokens": found.tokens or 0, "seconds": found.seconds or 0.0})
    except ConfigError:
        return None


def curve_of(row: Row) -> str | None:
    """The loss on valid over the evaluations of a run, as a line of bars; None if there is none to draw."""
    try:
        records = row.run.records() if row.run else []
        return sparkline([float(one["valid/loss"]) for one in records if one.get("valid/loss") is not None]) or None
    except DAMAGED:
        return None


def model_of(info: Mapping[str, Any]) -> str | None:
    """The model in a word; of an older run, from the options that were taken."""
    choices = info.get("choices", {})
    model = info.get("model") or choices.get("model")
    older = "model" not in info and model in ("lstm", "gru", "elman", "jordan")
    return str(choices.get("model/cell", model)) if older else model


def columns_of(rows: Sequence[Row]) -> list[str]:
    """The columns that some row has something in, in order."""
    metrics = dict.fromkeys(name for row in rows for name in row.facts if name.startswith(("valid ", "test ")))
    columns = [*TEXTS, *NUMBERS, *sorted(metrics, key=lambda name: name.startswith("test ")), "tokens/s"]
    return [column for column in columns if any(row.facts.get(column) is not None for row in rows)]


def chosen(rows: Sequence[Row], conditions: str) -> list[Row]:
    """The rows that meet all conditions, as `model=gru valid<90 optim.lr=0.1 name=ptb*`. Raises ConfigError."""
    tests = [_condition(word, rows) for word in conditions.split()]
    return [row for row in rows if all(test(row) for test in tests)]


def ordered(rows: Sequence[Row], key: str) -> list[Row]:
    """The rows by a column, or by a key that was typed; from the largest with a - before it. Raises ConfigError."""
    down, name = key.startswith("-"), key.removeprefix("-")
    _require_known(name, rows, "--sort")
    values = [(_value(row, name), row) for row in rows]
    known = [pair for pair in values if pair[0] is not None]
    numbers = all(isinstance(value, (int, float)) for value, _ in known)
    known.sort(key=lambda pair: pair[0] if numbers else str(pair[0]), reverse=down)
    return [row for _, row in known] + [row for value, row in values if value is None]


def _condition(word: str, rows: Sequence[Row]) -> Callable[[Row], bool]:
    found = CONDITION.fullmatch(word)
    if found is None:
        signs = " ".join(OPERATORS)
        raise ConfigError(
            f"--filter: {word} is no condition; write key, one of {signs}, and a value: 'model=gru valid<90'"
        )
    key, sign, text = found["key"], found["sign"], found["value"]
    _require_known(key, rows, "--filter")
    wanted = as_value(text)

    def holds(row: Row) -> bool:
        value = _value(row, key)
        if value is None:
            return sign == "!="
        if isinstance(value, (int, float)) and isinstance(wanted, (int, float)):
            return OPERATORS[sign](value, wanted)
        if sign in ("=", "!="):
            options = str(value).split(",") if key == "tags" else [str(value)]
            return any(fnmatch.fnmatchcase(option, text) for option in options) == (sign == "=")
        return OPERATORS[sign](str(value), text)

    return holds


def _value(row: Row, key: str) -> Any:
    return row.facts[key] if key in row.facts else as_value(row.typed[key]) if key in row.typed else None


def as_value(text: str) -> Any:
    """A text as the number that it is, if it is one."""
    try:
        return float(text)
    except ValueError:
        return text


def _require_known(key: str, rows: Sequence[Row], flag: str) -> None:
    facts = dict.fromkeys(name for row in rows for name in row.facts)
    if rows and key not in facts and not any(key in row.typed for row in rows):
        typed = sorted({name for row in rows for name in row.typed} - facts.keys())
        raise ConfigError(f"{flag}: {key} is no column; allowed: {', '.join([*facts, *typed])}")
