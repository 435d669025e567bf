"""seqlm compare: settings that differ between runs, beside their metrics.

Runs that differ in nothing but the seed are one setting, whose metrics are means. Imports torch only where runs do not
know the same keys.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from ..config.comparison import IGNORED_KEYS, comparable_config, with_missing_options
from ..config.keys import dotted
from ..config.values import as_typed, load_config
from ..errors import ConfigError
from ..files import to_json, write_atomically
from ..runs.folder import RunFolder, find_runs
from ..runs.table import RunSummary, summarize, table
from .words import pop_file

DATA = "data fingerprint"  # of train and of valid
FACTS = ("seed", "device", "hardware", "seqlm", "torch")


class ComparedRun(NamedTuple):
    """A run with its run.json, status and configuration, and how far it has come."""

    run: RunFolder
    info: dict[str, Any]
    status: str
    config: dict[str, Any]
    summary: RunSummary


class Setting(NamedTuple):
    """Runs that differ in nothing but the seed, and their configuration by dotted key."""

    config: dict[str, Any]
    runs: list[ComparedRun]

    @property
    def names(self) -> list[str]:
        return [one.run.name for one in self.runs]

    @property
    def rank(self) -> float:
        """The mean over the runs that were evaluated; lower is better."""
        known = [one.summary.rank for one in self.runs if one.summary.rank is not None]
        return statistics.fmean(known) if known else math.inf


def main(words: Sequence[str]) -> None:
    """`seqlm compare RUN|DIR ... [--json FILE]`: where the runs in these folders differ, best first on valid.

    The file holds the keys that all share, and of each setting those that differ, with the numbers of its runs. Raises
    ConfigError unless there are two runs or more.
    """
    places, file = pop_file(words, "--json")
    if flags := [word for word in places if word.startswith("-")]:
        raise ConfigError(f"seqlm compare knows no {flags[0]}: seqlm compare RUN|DIR ... [--json FILE]")
    settings = compare([run for place in places for run in _runs(place)])
    why = incomparable(settings)
    settings.sort(key=(lambda setting: setting.names) if why else (lambda setting: setting.rank))
    order = f"by name: {why}" if why else f"best first by {settings[0].runs[0].summary.monitor} on valid"
    count = sum(len(one.runs) for one in settings)
    print(f"{count} runs of {len(settings)} settings, {order}\n" if len(settings) > 1 else f"{count} runs alike\n")
    differing = [key for key in _keys(settings) if len({_canonical(one.config, key) for one in settings}) > 1]
    columns = _columns(settings, differing)
    print(table(columns if len(settings) < len(columns) else list(zip(*columns, strict=True)), 1))
    if file:
        write_atomically(file, to_json(_record(settings, differing, why), indent=1) + "\n")


def compare(runs: Sequence[RunFolder]) -> list[Setting]:
    """The settings of runs. Raises ConfigError for fewer than two runs. A damaged run is left out, and named."""
    found = [one for run in {run.path.resolve(): run for run in runs}.values() for one in _read(run)]
    if len(found) < 2:
        raise ConfigError(f"seqlm compare needs two runs or more, not {len(found)}: seqlm compare RUN RUN, or a folder")
    settings: dict[str, Setting] = {}
    for one in found:
        config = one.config
        for other in found:
            config = with_missing_options(config, other.config)
        keys = {key: value for key, value in dotted(config).items() if not key.startswith(IGNORED_KEYS)}
        keys[DATA] = str(one.info.get("data_fingerprint", ""))
        same = json.dumps({key: _canonical(keys, key) for key in sorted(keys) if _canonical(keys, key)})
        settings.setdefault(same, Setting(keys, [])).runs.append(one)
    return list(settings.values())


def incomparable(settings: Sequence[Setting]) -> str:
    """Why the numbers of settings do not compare; empty if they do."""
    if len({one.config.get("task._target_") for one in settings}) > 1:
        return "their tasks differ, and what is measured of them"
    if len({one.config[DATA].partition("/")[2] for one in settings}) > 1:
        return "they are not scored on the same data, in the same tokens"
    if len({one.summary.monitor for setting in settings for one in setting.runs}) > 1:
        return "they do not monitor the same metric"
    return ""


def _runs(place: str) -> list[RunFolder]:
    """The run in a folder, or those below it."""
    found = find_runs(Path(place))
    if not found:
        raise ConfigError(f"{place} is no run, and there is none in it; `seqlm runs` lists the runs in outputs")
    return found


def _read(run: RunFolder) -> list[ComparedRun]:
    """The run with all that is known of it, or nothing if its files are damaged."""
    try:
        config = load_config(run.config)
        plain = asdict(config)
        settings = comparable_config(plain) | {
            "init_from": config.init_from,
            "model": plain["model"],
        }  # from which runs, too
        return [ComparedRun(run, run.info(), run.status(), settings, summarize(run))]
    except (ConfigError, AttributeError, KeyError, TypeError, ValueError) as error:
        print(f"seqlm: {run.path} is left out: {error!s:.300}", file=sys.stderr)
        return []


def _canonical(config: Mapping[str, Any], key: str) -> str:
    """A value as text that is equal for equal values; nothing for null, which is what a part without the key has."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(name): plain(inner) for name, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(inner) for inner in value]
        return float(value) if type(value) is int else value

    return "" if config.get(key) is None else json.dumps(plain(config[key]), sort_keys=True, default=str)


def _keys(settings: Sequence[Setting]) -> list[str]:
    """Every key that one of them has, section by section."""
    keys = list(dict.fromkeys(key for one in settings for key in one.config))
    sections = list(dict.fromkeys(key.partition(".")[0] for key in keys))
    return sorted(keys, key=lambda key: sections.index(key.partition(".")[0]))


def _columns(settings: Sequence[Setting], differing: Sequence[str]) -> list[list[str]]:
    """Columns of the table, each with its title: names, what differs, sizes, metrics."""
    columns = {"name": _names(settings)}
    columns["runs"] = [str(len(one.runs)) if len(one.runs) > 1 else "" for one in settings]
    statuses = [", ".join(sorted({one.status for one in setting.runs})) for setting in settings]
    columns["status"] = ["" for _ in settings] if set(statuses) == {"finished"} else statuses
    for key in differing:
        columns[key.removesuffix("._target_")] = _cells(settings, key)
    devices = [sorted({str(one.info.get("device")) for one in setting.runs}) for setting in settings]
    columns["device"] = [
        "; ".join(each) if len({name for row in devices for name in row}) > 1 else "" for each in devices
    ]
    columns["parameters"] = [f"{one.runs[0].summary.parameters:,}" for one in settings]
    columns["steps"] = [_typical([one.summary.steps for one in setting.runs], 1, 0) for setting in settings]
    columns["minutes"] = [_typical([one.summary.seconds for one in setting.runs], 60, 1) for setting in settings]
    every_run = [one for setting in settings for one in setting.runs]
    metrics = {name: metric for one in every_run for name, metric in one.summary.metrics.items()}
    for split in ("valid", "test"):
        for name, metric in metrics.items():
            values = [[getattr(one.summary, split).get(name) for one in setting.runs] for setting in settings]
            columns[f"{split} {name}"] = [_mean(each, metric.digits) for each in values]
    return [[title, *cells] for title, cells in columns.items() if any(cells)]


def _names(settings: Sequence[Setting]) -> list[str]:
    """A name for each setting: the beginning of the names of its runs, all names, or paths, the first that differ."""

    def beginning(names: list[str]) -> str:
        common = os.path.commonprefix(names)
        return common if set(names) == {common} else f"{common}*" if common else ", ".join(names)

    names = [one.names for one in settings]
    paths = [[str(run.run.path) for run in one.runs] for one in settings]
    forms = [[form(each) for each in all_] for all_ in (names, paths) for form in (beginning, ", ".join)]
    return next((form for form in forms if len(set(form)) == len(form)), forms[-1])


def _cells(settings: Sequence[Setting], key: str) -> list[str]:
    """A key in each setting, in short where the short forms differ: names without their folders, hashes."""
    values = [as_typed(one.config[key]) if key in one.config else "-" for one in settings]
    if key == DATA:
        short = [
            " / ".join(hashlib.sha256(part.encode()).hexdigest()[:6] for part in text.partition("/")[::2])
            for text in values
        ]
    elif key.endswith("._target_"):
        short = [text.rpartition(".")[2] for text in values]
    else:
        short = [Path(text).name for text in values] if key == "init_from" else values
    return short if len(set(short)) == len(set(values)) else values


def _typical(values: Sequence[float | None], unit: float, digits: int) -> str:
    """The mean of those that are known."""
    known = [value / unit for value in values if value is not None]
    return f"{statistics.fmean(known):,.{digits}f}" if known else ""


def _mean(values: Sequence[float | None], digits: int) -> str:
    """The mean of a metric and, of several runs, its standard deviation; with how many have it if not all do."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        text = f"{known[0]:.{digits}f}" if known else ""
    else:
        text = f"{statistics.fmean(known):.{digits}f} ± {statistics.stdev(known):.{digits}f}"
    return text + f" ({len(known)} of {len(values)})" * (0 < len(known) < len(values))


def _record(settings: Sequence[Setting], differing: Sequence[str], why: str) -> dict[str, Any]:
    """The comparison as JSON."""
    rows = [
        {
            "config": {key: setting.config[key] for key in differing if key in setting.config},
            "runs": [
                {"path": str(one.run.path), "status": one.status, **{key: one.info.get(key) for key in FACTS}}
                | {key: value for key, value in one.summary._asdict().items() if key != "metrics"}
                for one in setting.runs
            ],
        }
        for setting in settings
    ]
    same = {key: settings[0].config.get(key) for key in _keys(settings) if key not in differing}
    return {"incomparable": why or None, "same": same, "settings": rows}
