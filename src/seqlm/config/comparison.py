"""Configurations compared: may a run go on under another one, and are two runs one setting?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from ..errors import ConfigError
from .build import defaults
from .keys import dotted
from .schema import DATA_PATHS, LIMITS, PARTS, READING_KEYS, Config

# What may change when a run is resumed: when it ends, what it prints and keeps, where it computes, and
# where its data lies and how it is read (the content is checked). Everything else would make it another experiment.
RESUMABLE = [
    "train.steps",
    "train.epochs",
    "train.tokens",
    "train.minutes",
    "train.patience",
    "train.nonmonotone",
    "train.on_nonfinite",
    "train.eval_every",
    "train.log_every",
    "train.log_parameters",
    "diagnose.",
    "checkpoint.",
    "sample.",
    "schedule.extend",
    "device",
    "precision",
    "engine",
    "threads",
    "tags",
    "note",
    "trust",
    "callbacks",
    "logger",
    "logger.",
    "published",
    "published.",
    *(f"data.{key}" for key in (*DATA_PATHS, *READING_KEYS)),
]

# Keys whose values make no other experiment.
IGNORED_KEYS = ("seed", "sample.", "checkpoint.", "train.log_every", "train.log_parameters", "diagnose.")


def may_change(key: str) -> bool:
    """Whether a key may have another value when a run is resumed."""
    return any(key == allowed or (allowed.endswith(".") and key.startswith(allowed)) for allowed in RESUMABLE)


def refused_changes(saved: Config, changed: Config) -> list[tuple[str, Any, Any]]:
    """(key, old, new) for each key that may not change when a run is resumed. Paths of both are absolute."""
    return [one for one in differences(asdict(saved), asdict(changed)) if not may_change(one[0])]


def with_younger_options(saved: Config, today: Config) -> Config:
    """The config of a run with the options of its parts that are younger than it, at their defaults."""
    pairs = {part: (getattr(saved, part), getattr(today, part)) for part in PARTS}
    parts: dict[str, Any] = {
        part: with_missing_options(old, new, part)
        for part, (old, new) in pairs.items()
        if isinstance(old, Mapping) and isinstance(new, Mapping)
    }
    return replace(saved, **parts)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, old, new) for every leaf that differs."""
    a, b = dotted(old), dotted(new)
    return [(key, a.get(key), b.get(key)) for key in sorted({*a, *b}) if a.get(key) != b.get(key)]


def changes(saved: Config, config: Config) -> dict[str, list[Any]]:
    """The keys that a resumed run changes, {key: [before, now]}; none of those that change no result."""
    both = with_younger_options(saved, config), config
    before, now = (_that_matters(comparable_config(asdict(one))) for one in both)
    return {key: [old, new] for key, old, new in differences(before, now)}


def _that_matters(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in dotted(config).items() if not key.startswith(IGNORED_KEYS)}


def comparable_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the keys that change no result: paths, names, devices."""
    where = ("run", "tags", "note", "trust", "resume", "threads", "device", "published", "logger")
    kept = {key: value for key, value in config.items() if key not in where}
    loop = kept.get("train", {})
    if any(loop.get(unit) is not None for unit in LIMITS):
        kept["train"] = {key: value for key, value in loop.items() if key != "default_steps"}  # not in force
    if loop.get("on_nonfinite") == "stop":  # as every run before there was the key
        kept["train"] = {key: value for key, value in kept["train"].items() if key != "on_nonfinite"}
    if not kept.get("callbacks"):  # a key that is younger than most records
        kept.pop("callbacks", None)
    begins = config.get("init_from")  # whether, not from where
    kept["init_from"] = "optimizer" if isinstance(begins, Mapping) and begins.get("optimizer") else begins is not None
    if isinstance(kept.get("model"), Mapping) and kept["model"].get("language_models"):  # how each is read, not which
        read = [{key: spec[key] for key in spec if key == "reverse"} for spec in kept["model"]["language_models"]]
        kept["model"] = {**kept["model"], "language_models": read}
    return {**kept, "data": {key: value for key, value in kept["data"].items() if not _says_nothing(key, value)}}


def _says_nothing(key: str, value: Any) -> bool:
    """Whether a key of a data node is a path, or a way of reading that is the usual one, of today or (None) of once."""
    return key in DATA_PATHS or (key in READING_KEYS and value in (READING_KEYS[key], None))


def telling_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with which runs it begins with and reads: all that tells one run from another."""
    return comparable_config(config) | {"init_from": config.get("init_from"), "model": config["model"]}


def identity(config: Mapping[str, Any]) -> str:
    """A digest, in hexadecimal, that two configurations share if a run of one repeats a run of the other."""
    return hashlib.sha256(json.dumps(telling_config(config), sort_keys=True, default=str).encode()).hexdigest()


def canonical(value: Any) -> str:
    """A value as a text that is equal for equal numbers, whether 1 or 1.0 was written."""

    def plain(one: Any) -> Any:
        if isinstance(one, Mapping):
            return {str(key): plain(item) for key, item in one.items()}
        if isinstance(one, (list, tuple)):
            return [plain(item) for item in one]
        return float(one) if type(one) is int and abs(one) < 2**53 else one

    return json.dumps(plain(value), sort_keys=True, default=str)


def with_missing_options(config: Mapping[str, Any], like: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """`config` with the options of `like` that are younger than it, at their defaults.

    That is the default of the same part; in a plain mapping, such as model.dropout, a number or a switch is off.
    """
    absent = [key for key in like if key not in config]
    found: dict[str, Any] = {}
    if absent and "_target_" not in config:
        found = {key: type(like[key])() for key in absent if isinstance(like[key], (bool, float))}
    elif absent and config["_target_"] == like.get("_target_"):
        with suppress(ConfigError):  # a part of the user's own, which only a command line makes trusted
            known = defaults(config, where or "config")
            found = {
                key: with_missing_options({}, like[key])
                if not known[key] and isinstance(like[key], Mapping)
                else known[key]
                for key in absent
                if key in known
            }
    for key, value in config.items():
        both = isinstance(value, Mapping) and isinstance(like.get(key), Mapping)
        found[key] = with_missing_options(value, like[key], f"{where}.{key}".lstrip(".")) if both else value
    return found
