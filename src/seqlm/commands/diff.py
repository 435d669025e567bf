"""seqlm diff: where two runs differ: configuration, data, versions, and the first step at which their numbers part."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..config.keys import dotted
from ..config.values import as_typed, load_config
from ..errors import ConfigError
from ..files import to_json
from ..runs.folder import RunFolder
from ..runs.table import table
from .words import pop_flag, refuse_flags

FACTS = (
    "seqlm", "torch", "python", "git", "device", "hardware", "threads", "seed", "status", "steps", "data_fingerprint",
)  # fmt: skip
PLACES = ("run.name", "run.root", "tags", "note")  # keys that make no other training
CLOCK = {"step", "tokens", "seconds", "train/tokens_per_s"}  # of records: when they were written


def main(words: Sequence[str]) -> None:
    """`seqlm diff RUN RUN [--json]`: exit code 0 whether they differ or not."""
    words, as_json = pop_flag(words, "--json")
    refuse_flags("diff", words, "two runs and --json")
    if len(words) != 2:
        raise ConfigError(f"seqlm diff needs two runs, not {len(words)}: seqlm diff outputs/ONE outputs/OTHER")
    found = difference(*(RunFolder.open(word) for word in words))
    print(to_json(found, indent=1) if as_json else _shown(words, found))


def difference(one: RunFolder, other: RunFolder) -> dict[str, Any]:
    """Keys of the configuration, facts of run.json, and where what was logged parts, each with both values."""
    configs = [dotted(asdict(load_config(run.config))) for run in (one, other)]
    infos, records = [run.info() for run in (one, other)], [run.records() for run in (one, other)]
    keys = [key for key in dict.fromkeys([*configs[0], *configs[1]]) if key not in PLACES]
    return {
        "config": _differing(keys, *configs),
        "facts": _differing(FACTS, *infos),
        "parted": parted(*records),
        "shared": len(pairs(*records)),
        "records": [len(each) for each in records],
    }


Records = Sequence[Mapping[str, Any]]


def pairs(one: Records, other: Records) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Records of the same kind and step of two runs, which may have logged at different ones."""
    at: dict[Any, list[Mapping[str, Any]]] = {}
    for record in other:
        at.setdefault((record.get("step"), "valid/loss" in record), []).append(record)
    every = ((a, b) for a in one for b in at.get((a.get("step"), "valid/loss" in a), ()))
    return [(a, b) for a, b in every if (a.keys() & b.keys()) - CLOCK]


def parted(one: Records, other: Records) -> dict[str, Any] | None:
    """The first record of two runs in which a number differs, clocks aside; None if all that both have are equal."""
    for a, b in pairs(one, other):
        for tag in [tag for tag in a if tag in b]:
            if tag not in CLOCK and a.get(tag) != b.get(tag):
                return {"step": a["step"], "tag": tag, "values": [a.get(tag), b.get(tag)]}
    return None


def _differing(keys: Sequence[str], one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {key: [one.get(key), other.get(key)] for key in keys if one.get(key) != other.get(key)}


def _shown(names: Sequence[str], found: Mapping[str, Any]) -> str:
    """The differences for people: a table each, and a sentence about the numbers."""
    parts = []
    for title in ("config", "facts"):
        if rows := found[title]:
            cells = [[key, *map(_cell, values)] for key, values in rows.items()]
            parts.append(table([[title, *names], *cells], 3))
    where, shared = found["parted"], found["shared"]
    if where is None:
        text = (
            f"the {shared:,} records that both have are equal, but for the clock" if shared else "no record in common"
        )
        more = [f"{name} has {count - shared:,} more" for name, count in zip(names, found["records"], strict=True)
                if count > shared]  # fmt: skip
        parts.append("; ".join([text, *more]))
    else:
        values = " and ".join(_cell(value) for value in where["values"])
        parts.append(f"what was logged parts at step {where['step']:,}: {where['tag']} is {values}")
    if not found["config"] and not found["facts"]:
        parts.insert(0, "configuration, data and versions are the same")
    return "\n\n".join(parts)


def _cell(value: Any) -> str:
    text = "-" if value is None else as_typed(value)
    return text if len(text) <= 60 or not sys.stdout.isatty() else f"{text[:57]}..."
