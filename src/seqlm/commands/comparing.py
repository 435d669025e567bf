"""`seqlm compare --html FILE`: the comparison as a page, with curves, samples, and the confidence of differences.

And `--json FILE`: the comparison for programs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import ConfigError
from ..files import read_bounded, to_json, write_atomically
from ..report.curves import generalisation_gap
from ..report.page import Page, Shown, html
from ..report.welch import welch
from ..terminal import status
from .searching import search_record

if TYPE_CHECKING:
    from .compare import ComparedRun, Setting

SAMPLE_BYTES = 1 << 16
FACTS = ("seed", "device", "hardware", "seqlm", "torch")  # of a run


def write_page(
    path: Path, settings: Sequence[Setting], columns: Sequence[Sequence[str]], summary: str, why: str
) -> None:
    """Write the page of settings, the best first unless `why` says that they do not compare."""
    names = columns[0][1:]
    with status("reading what was logged"):
        records = [[_records(one) for one in setting.runs] for setting in settings]
    more = [["gap", *(_gap(each) for each in records)]]
    notes = ["gap: the last loss of valid minus that of train over the tenth of the steps before it, in nats a token."]
    if not why and len(settings) > 1:
        shown = settings[0].runs[0].summary.shown
        more.append([f"p, valid {shown}", *_confidence(settings, shown)])
        notes.append(
            "p: how probable a difference from the best setting at least as large would be if the two were the same, "
            "by Welch's test over seeds, and how many seeds of each there are; two or more are needed. Many settings "
            "make small values likely."
        )
    notes += [f"{text}." for setting in settings for text in setting.repeated]
    monitored = {f"valid/{one.summary.monitor}": f"valid {one.summary.monitor}" for one in settings[0].runs}
    page = Page(
        "Comparison of runs",
        f"{summary}.",
        _arranged([*columns, *more]),
        [
            Shown(name, [str(one.run.path) for one in setting.runs], each, _sample(setting.runs[0]))
            for name, setting, each in zip(names, settings, records, strict=True)
        ],
        {**monitored, "valid/loss": "valid loss, nats", "train/loss": "train loss, nats"},
        notes,
        not why,
    )
    write_atomically(path, html(page, __version__))


def _arranged(columns: Sequence[Sequence[str]]) -> list[list[str]]:
    """Columns with names and numbers first: what differs may be much."""
    shown = [list(column) for column in columns if any(column[1:])]
    numbers = [one for one in shown if one[0].startswith(("valid ", "test ", "p, ")) or one[0] == "gap"]
    first = [one for one in shown if one[0] in ("name", "runs", "seeds", "status")]
    return [*first, *numbers, *(one for one in shown if one not in first and one not in numbers)]


def _records(one: ComparedRun) -> list[dict[str, Any]]:
    """The records of a run; none if they cannot be read."""
    try:
        return one.run.records()
    except (OSError, ConfigError):
        return []


def _gap(records: Sequence[Sequence[dict[str, Any]]]) -> str:
    known = [gap for one in records if (gap := generalisation_gap(one)) is not None]
    return f"{sum(known) / len(known):.3f}" if known else ""


def _confidence(settings: Sequence[Setting], metric: str) -> list[str]:
    """Of each setting but the first: the p-value of its difference from the first, and the numbers of seeds."""

    def values(setting: Setting) -> list[float]:
        found = [one.summary.valid.get(metric) for one in setting.runs]
        return [value for value in found if value is not None]

    best, cells = values(settings[0]), [""]
    for setting in settings[1:]:
        p = welch(best, other := values(setting))
        cells.append("" if p is None else f"{'<0.0001' if p < 1e-4 else f'{p:.2g}'} ({len(best)}, {len(other)} seeds)")
    return cells


def _sample(one: ComparedRun) -> str:
    """The last text that a run kept."""
    try:
        newest = max(one.run.samples.glob("step-*.txt"), default=None)
        return "" if newest is None else read_bounded(newest, SAMPLE_BYTES).decode("utf-8", "replace")
    except (OSError, ConfigError):
        return ""


def write_record(
    path: Path,
    settings: Sequence[Setting],
    differing: Sequence[str],
    same: Mapping[str, Any],
    why: str,
    folders: Sequence[Path],
) -> None:
    """Write as JSON what settings share, where each differs, its runs, and the findings of searches in `folders`."""
    rows = [
        {
            "config": {key: setting.config[key] for key in differing if key in setting.config},
            "duplicates": [str(double.run.path) for double, _ in setting.duplicates],
            "runs": [
                {"path": str(one.run.path), "status": one.status, **{key: one.info.get(key) for key in FACTS}}
                | {key: value for key, value in one.summary._asdict().items() if key != "metrics"}
                for one in setting.runs
            ],
        }
        for setting in settings
    ]
    searches = {str(folder): found for folder in folders if (found := search_record(folder))}
    record = {"incomparable": why or None, "same": same, "settings": rows, "searches": searches}
    write_atomically(path, to_json(record, indent=1) + "\n")
