"""seqlm compare: settings that differ between runs, beside their metrics.

Finished runs of equal configuration and history, each with a seed of its own, are one setting, whose metrics are means.
A run of a seed that is there already is a duplicate, one that did not finish a setting of its own. Imports torch only
where runs do not know the same keys.
"""

from __future__ import annotations

import csv
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

from ..config.comparison import IGNORED_KEYS, canonical, telling_config, with_missing_options
from ..config.keys import dotted
from ..config.values import as_typed, load_config
from ..errors import ConfigError
from ..runs.folder import OUTPUTS, RunFolder, find_runs
from ..runs.listing import as_value
from ..runs.sealed import is_as_written
from ..runs.table import DAMAGED, RunSummary, blocks, markdown, summarize
from ..terminal import output_width
from .searching import print_findings
from .words import pop_file, pop_flag, pop_option, refuse_flags

DATA = "data fingerprint"  # of train and of valid
HISTORY = "resumed with"


class ComparedRun(NamedTuple):
    """A run with its run.json, status and configuration, how far it has come, and where it was changed on the way."""

    run: RunFolder
    info: dict[str, Any]
    status: str
    config: dict[str, Any]
    summary: RunSummary
    history: str | None


class Setting(NamedTuple):
    """Runs that differ in nothing but the seed, and their configuration by dotted key."""

    config: dict[str, Any]
    runs: list[ComparedRun]
    duplicates: list[tuple[ComparedRun, ComparedRun]]  # and the one of `runs` that each repeats

    @property
    def seeds(self) -> list[str]:
        return [str(one.info.get("seed")) for one in self.runs]

    @property
    def names(self) -> list[str]:
        return [one.run.name for one in self.runs]

    @property
    def repeated(self) -> list[str]:
        """A sentence for each run that is left out."""
        return [
            f"{double.run.path} repeats {one.run.path}, with the same seed: counted once"
            for double, one in self.duplicates
        ]

    @property
    def rank(self) -> float:
        """The mean over the runs that were evaluated; lower is better."""
        known = [one.summary.rank for one in self.runs if one.summary.rank is not None]
        return statistics.fmean(known) if known else math.inf


def main(words: Sequence[str]) -> None:
    """`seqlm compare RUN|DIR ... [--sort COLUMN] [--markdown|--csv] [--json FILE] [--html FILE]`: where runs differ.

    The best on valid stands first. The JSON holds the keys that all share, and of each setting those that differ, with
    the numbers of its runs. Raises ConfigError unless there are two runs or more.
    """
    places, file = pop_file(words, "--json")
    places, sort = pop_option(places, "--sort", "a column: --sort 'valid ppl'")
    places, page = pop_file(places, "--html")
    places, as_markdown = pop_flag(places, "--markdown")
    places, as_csv = pop_flag(places, "--csv")
    if as_markdown and as_csv:
        raise ConfigError("--markdown and --csv are two ways to print one table; leave one of them out")
    refuse_flags("compare", places, "runs, --sort, --markdown, --csv, --json FILE and --html FILE")
    settings = compare([run for place in places for run in _runs(place)])
    why = incomparable(settings)
    settings.sort(key=(lambda setting: setting.names) if why else (lambda setting: setting.rank))
    differing = [key for key in _keys(settings) if len({_canonical(one.config, key) for one in settings}) > 1]
    columns = _columns(settings, differing)
    order = f"by name: {why}" if why else f"best first by {settings[0].runs[0].summary.monitor} on valid"
    if page:
        from .comparing import write_page

        write_page(page, settings, columns, _summary(settings, order), why)
    if sort:
        columns, order = _sorted(columns, sort), f"by {sort.removeprefix('-')}"
    if file:
        from .comparing import write_record

        same = {key: settings[0].config.get(key) for key in _keys(settings) if key not in differing}
        write_record(file, settings, differing, same, why, [_folder(place) for place in places])
    if as_csv:
        csv.writer(sys.stdout).writerows(zip(*columns, strict=True))
        return
    print(f"{_summary(settings, order)}\n")
    print(markdown(list(zip(*columns, strict=True)), 1) if as_markdown else blocks(columns, output_width()))
    for repeated in (text for setting in settings for text in setting.repeated):
        print(repeated)
    for place in dict.fromkeys(places):
        print_findings(_folder(place))


def _summary(settings: Sequence[Setting], order: str) -> str:
    count = sum(len(one.runs) for one in settings)
    return f"{count} runs of {len(settings)} settings, {order}" if len(settings) > 1 else f"{count} runs alike"


def compare(runs: Sequence[RunFolder]) -> list[Setting]:
    """The settings of runs. Raises ConfigError for fewer than two runs. A damaged run is left out, and named."""
    found = [one for run in {run.path.resolve(): run for run in runs}.values() for one in _read(run)]
    if len(found) < 2:
        raise ConfigError(f"seqlm compare needs two runs or more, not {len(found)}: seqlm compare RUN RUN, or a folder")
    shapes = {frozenset(dotted(one.config)): one.config for one in found}  # of configurations with other options
    settings: dict[str, Setting] = {}
    for one in found:
        config = one.config
        for other in shapes.values():
            config = with_missing_options(config, other)
        keys = {key: value for key, value in dotted(config).items() if not key.startswith(IGNORED_KEYS)}
        keys[DATA] = str(one.info.get("data_fingerprint", ""))
        keys[HISTORY] = one.history
        same = json.dumps({key: _canonical(keys, key) for key in sorted(keys) if _canonical(keys, key)})
        alone = "" if one.status == "finished" else str(one.run.path)
        setting = settings.setdefault(same + alone, Setting(keys, [], []))
        double = next((known for known in setting.runs if known.info.get("seed") == one.info.get("seed")), None)
        if double is None:
            setting.runs.append(one)
        else:
            setting.duplicates.append((one, double))
    return list(settings.values())


def _history(info: Mapping[str, Any]) -> str | None:
    """Where a run was resumed otherwise than it was before, as `train.steps=400 at step 200`."""
    return "; ".join(
        f"{' '.join(f'{key}={as_typed(now)}' for key, (_, now) in part['changed'].items())} at step {part['step']}"
        for part in info.get("history") or []
    ) or None  # fmt: skip


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
    """The run in a folder, or those below it; the folder may be named as it is called in outputs."""
    found = find_runs(_folder(place))
    if not found:
        raise ConfigError(f"{place} is no run, and there is none in it; `seqlm runs` lists the runs in outputs")
    return found


def _folder(place: str) -> Path:
    inside = OUTPUTS / place
    return inside if not Path(place).exists() and inside.is_dir() else Path(place)


def _read(run: RunFolder) -> list[ComparedRun]:
    """The run with all that is known of it, or nothing if its files are damaged."""
    try:
        settings = telling_config(asdict(load_config(run.config)))
        info = run.info()
        if not is_as_written(run):
            print(f"note: {run.config} was edited or damaged since seqlm wrote it", file=sys.stderr)
        return [ComparedRun(run, info, run.status(info), settings, summarize(run, info), _history(info))]
    except DAMAGED as error:
        print(f"seqlm: {run.path} is left out: {error!s:.300}", file=sys.stderr)
        return []


def _canonical(config: Mapping[str, Any], key: str) -> str:
    """A value as text that is equal for equal values; nothing for null, which is what a part without the key has."""
    return "" if config.get(key) is None else canonical(config[key])


def _keys(settings: Sequence[Setting]) -> list[str]:
    """Every key that one of them has, section by section."""
    keys = list(dict.fromkeys(key for one in settings for key in one.config))
    sections = list(dict.fromkeys(key.partition(".")[0] for key in keys))
    return sorted(keys, key=lambda key: sections.index(key.partition(".")[0]))


def _columns(settings: Sequence[Setting], differing: Sequence[str]) -> list[list[str]]:
    """Columns of the table, each with its title: names, what differs, sizes, metrics."""
    columns = {"name": _names(settings)}
    columns["runs"] = [str(len(one.runs)) if len(one.runs) > 1 else "" for one in settings]
    columns["seeds"] = [", ".join(one.seeds) for one in settings]
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


def _sorted(columns: list[list[str]], key: str) -> list[list[str]]:
    """Columns with their rows in the order of one of them; from the largest with a - before it. Raises ConfigError."""
    down, title = key.startswith("-"), key.removeprefix("-")
    cells = next((column[1:] for column in columns if column[0] == title), None)
    if cells is None:
        raise ConfigError(f"--sort: {title} is no column; allowed: {', '.join(column[0] for column in columns)}")

    def value(row: int) -> tuple[bool, float, str]:
        number = as_value(cells[row].partition(" ")[0].replace(",", ""))
        return isinstance(number, str), 0.0 if isinstance(number, str) else number, cells[row]

    order = sorted(range(len(cells)), key=value, reverse=down)
    return [[column[0], *(column[1:][row] for row in order)] for column in columns]


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
