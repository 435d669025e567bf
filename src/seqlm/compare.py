"""seqlm compare: what runs do differently, and what came of it.

Runs that differ in nothing but the seed are one setting, whose metrics are means. Imports torch only where runs do not
know the same keys.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from .config import HARMLESS, dotted, grown, load_config, option, plain_dict, recorded
from .errors import ConfigError
from .run import RunFolder, find_runs, to_json, write_atomically
from .runs import METRICS, Shown, number, shown, table

DATA = "data fingerprint"


class One(NamedTuple):
    """A run, what it was told, and what it has shown."""

    run: RunFolder
    info: dict[str, Any]
    config: dict[str, Any]
    shown: Shown


class Setting(NamedTuple):
    """Runs that differ in nothing but the seed, and what they were told, by dotted key."""

    told: dict[str, Any]
    runs: list[One]

    @property
    def name(self) -> str:
        """What the names of its runs have in common."""
        names = [one.run.name for one in self.runs]
        return names[0] if len(names) == 1 else f"{os.path.commonprefix(names)}*"


def main(words: Sequence[str]) -> None:
    """`seqlm compare RUN|DIR ... [--json FILE]`: what the runs in these folders do differently, best first on valid.

    The file holds all settings and every run's numbers. Raises ConfigError unless there are two runs or more.
    """
    places, file = option(words, "--json")
    if flags := [word for word in places if word.startswith("-")]:
        raise ConfigError(f"seqlm compare knows no {flags[0]}: seqlm compare RUN|DIR ... [--json FILE]")
    settings, judged_by = compare([run for place in places for run in _runs(place)])
    differing = [key for key in _keys(settings) if len({repr(one.told.get(key)) for one in settings}) > 1]
    count = sum(len(one.runs) for one in settings)
    order = f"best first by {judged_by} on valid" if judged_by else "by name: they are not judged by the same metric"
    print(f"{count} runs of {len(settings)} settings, {order}\n" if len(settings) > 1 else f"{count} runs alike\n")
    columns = _columns(settings, differing)
    print(table(columns if len(settings) < len(columns) else list(zip(*columns, strict=True)), 1))
    if DATA in differing:
        print("\nThey do not read the same data: losses and perplexities do not compare.")
    if file:
        write_atomically(Path(file), to_json(_record(settings, differing, judged_by), indent=1) + "\n")


def compare(runs: Sequence[RunFolder]) -> tuple[list[Setting], str]:
    """The settings of runs, best first, and what they are ranked by; by name, and "", if that is not the same for all.

    Raises ConfigError for fewer than two runs. A damaged run is left out, and named.
    """
    found = [one for run in {run.path.resolve(): run for run in runs}.values() for one in _read(run)]
    if len(found) < 2:
        raise ConfigError(f"seqlm compare needs two runs or more, not {len(found)}: seqlm compare RUN RUN, or a folder")
    kinds = {frozenset(dotted(one.config)): one.config for one in found}  # each set of keys once
    settings: dict[str, Setting] = {}
    for one in found:
        config = one.config
        for other in kinds.values():
            with suppress(ConfigError):  # a part of the user's own, which only a command line makes trusted
                config = grown(config, other)
        told = _told(config) | {DATA: str(one.info.get("data_fingerprint", ""))[:8]}
        settings.setdefault(repr(sorted(told.items())), Setting(told, [])).runs.append(one)
    judged = {one.shown.judged_by for one in found}
    ranked = sorted(settings.values(), key=lambda setting: setting.name)
    if len(judged) > 1:
        return ranked, ""
    return sorted(ranked, key=lambda setting: statistics.fmean(one.shown.rank for one in setting.runs)), judged.pop()


def _runs(place: str) -> list[RunFolder]:
    """The run in a folder, or those below it."""
    found = find_runs(Path(place))
    if not found:
        raise ConfigError(f"{place} is no run, and there is none in it; `seqlm runs` lists the runs in outputs")
    return found


def _read(run: RunFolder) -> list[One]:
    """The run with all that is known of it, or nothing if it is damaged."""
    try:
        config = load_config(run.config)
        begun = {"init_from": Path(config.init_from).name} if config.init_from else {}
        return [One(run, run.info(), recorded(plain_dict(config)) | begun, shown(run))]
    except (ConfigError, AttributeError, KeyError, TypeError, ValueError) as error:
        print(f"seqlm: {run.path} is left out, it is damaged ({error})", file=sys.stderr)
        return []


def _told(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration by dotted key, without what makes no difference; a part by its name."""
    told = {}
    for key, value in dotted(config).items():
        if not key.startswith(HARMLESS):
            is_part = key.endswith("._target_")
            told[key.removesuffix("._target_")] = str(value).rpartition(".")[2] if is_part else value
    return told


def _keys(settings: Sequence[Setting]) -> list[str]:
    """Every key that one of them has, section by section."""
    keys = list(dict.fromkeys(key for one in settings for key in one.told))
    sections = list(dict.fromkeys(key.partition(".")[0] for key in keys))
    return sorted(keys, key=lambda key: sections.index(key.partition(".")[0]))


def _columns(settings: Sequence[Setting], differing: Sequence[str]) -> list[list[str]]:
    """Columns of the table, each with its title: names, what differs, sizes, metrics."""
    columns = {"name": [one.name for one in settings], "runs": [str(len(one.runs)) for one in settings]}
    columns["status"] = [", ".join(sorted({one.run.status() for one in setting.runs})) for setting in settings]
    for key in differing:
        columns[key] = [_word(one.told[key]) if key in one.told else "-" for one in settings]
    columns["parameters"] = [f"{one.runs[0].shown.parameters:,}" for one in settings]
    for name, unit in (("steps", 1), ("seconds", 60)):
        values = [[getattr(one.shown, name) or 0 for one in setting.runs] for setting in settings]
        columns["minutes" if unit == 60 else name] = [
            f"{statistics.fmean(each) / unit:,.{int(unit > 1)}f}" for each in values
        ]
    for split in ("valid", "test"):
        for name, digits in METRICS.items():
            measured = [[getattr(one.shown, split).get(name) for one in setting.runs] for setting in settings]
            columns[f"{split} {name}"] = [_mean(each, digits) for each in measured]
    always = {"name", *differing}
    plain = {"runs": {"1"}, "status": {"finished"}}  # not worth a column
    return [
        [title, *cells] for title, cells in columns.items() if title in always or set(cells) - plain.get(title, {""})
    ]


def _mean(values: Sequence[Any], digits: int) -> str:
    """The mean of a metric and, of several runs, its standard deviation; says how many have it if not all do."""
    known = [value for value in values if isinstance(value, (int, float))]
    if len(known) < 2:
        text = number(known[0], digits) if known else ""
    else:
        text = f"{number(statistics.fmean(known), digits)} ± {number(statistics.stdev(known), digits)}"
    return text + f" ({len(known)} of {len(values)})" * (0 < len(known) < len(values))


def _word(value: Any) -> str:
    """A value as it is typed."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _record(settings: Sequence[Setting], differing: Sequence[str], judged_by: str) -> dict[str, Any]:
    """The comparison as JSON: what all were told, and for each setting what it alone was told and its runs' numbers."""
    same = {key: settings[0].told.get(key) for key in _keys(settings) if key not in differing}
    rows = []
    for setting in settings:
        runs = []
        for one in setting.runs:
            facts = {key: one.info.get(key) for key in ("seed", "status", "device", "hardware", "seqlm", "torch")}
            kept = {key: value for key, value in one.shown._asdict().items() if key not in ("judged_by", "rank")}
            runs.append({"name": one.run.name, **facts, **kept})
        rows.append({"told": {key: setting.told[key] for key in differing if key in setting.told}, "runs": runs})
    return {"judged_by": judged_by, "same": same, "settings": rows}
