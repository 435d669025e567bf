"""Configurations as values: found, typed, checked, changed, saved and compared. Imports neither torch nor hydra."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..errors import several
from ..files import MB, read_bounded, write_atomically
from .build import describe_type, fits, mismatches
from .keys import dotted, nested, with_text_keys
from .migrate import READ_AS_BEFORE, migrate, renamed
from .reference import Reference
from .schema import DATA_PATHS, RANDOM_SEED, READING_KEYS, Config
from .suggest import not_key_value, unknown_flag, unknown_key, value_behind
from .tree import find_configs
from .words import names_something, typed_name
from .yaml_files import logger_nodes, read_saved, read_yaml, verb_files

T = TypeVar("T")


def typed(schema: type[T], values: Mapping[str, Any], verb: str = "train") -> T:
    """`values` as an instance of `schema`; raises ConfigError that lists every wrong key and value at once.

    `verb` is the one whose help is pointed to.
    """
    flat, known = _flatten(with_text_keys(values), schema), _keys(schema)
    for key, value in flat.items():  # run.name=2024 is a name
        if isinstance(value, (int, float)) and not isinstance(value, bool) and key in known and fits("", known[key][0]):
            flat[key] = str(value)
        elif value == RANDOM_SEED and key in known and known[key][1].metadata["seed"]:
            flat[key] = secrets.randbelow(2**32)
    names_of_sections = {name[:place] for name in known for place, letter in enumerate(name) if letter == "."}
    sections = [key for key in flat if key in names_of_sections]  # train=3
    problems = [
        problem
        for key, value in flat.items()
        if key not in sections
        for problem in [_problem(known[key], key, value) if key in known else unknown_key(key, known, verb)]
        if problem
    ]
    problems += [f"{key}={flat[key]} replaces a whole section; set a key of it, {key}.<key>=..." for key in sections]
    missing = [key for key in known if key not in flat and key.partition(".")[0] not in sections]
    missing += [key for key, value in dotted(values).items() if value == "???" and key not in known]
    problems += [f"{key} is not set and has no default: give {key}=..." for key in missing]
    if problems:
        raise several(problems)
    return _constructed(schema, nested(flat))


def with_words(schema: type[T], values: Mapping[str, Any], words: Sequence[str], verb: str = "train") -> T:
    """`values` changed by `key=value` words of a command line; for runs, whose model is chosen already.

    `verb` is the one whose help is pointed to.
    """
    flat, known = _flatten(values, schema), _keys(schema)
    problems, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        key, equals, text = word.partition("=")
        part = next((name for name in known if key.startswith(f"{name}.")), None)  # data.path lies in the part data
        if word.startswith("-"):
            value = text if equals else value_behind(rest)
            problems.append(unknown_flag(key, value, dotted(flat), {}, [], verb))
        elif not equals or not key:
            choices = {key.name: key.choices for key in Reference().verb_keys(verb).values()}
            problems.append(not_key_value(word, choices, "write key=value, without spaces around ="))
        elif inside := [name for name in known if name.startswith(f"{key}.")]:
            problems.append(f"{word} replaces a whole section; set a key of it: {', '.join(inside)}")
        elif (part is None and key not in known) or renamed(key):
            problems.append(unknown_key(key, {**known, **dotted(flat)}, verb))
        elif part is None:
            is_name = names_something(key) and text != "null" and not text.startswith("{")
            as_text = _is_text(known[key][0], text)
            flat[key] = typed_name(key, text) if is_name else text if as_text else _yaml_value(text)
            flat[key] = logger_nodes(flat[key]) if key == "logger" else flat[key]
        else:
            below = key.removeprefix(f"{part}.")
            value = typed_name(key, text) if names_something(key) and text != "null" else _yaml_value(text)
            inner = flat[part] if isinstance(flat[part], dict) else {}
            flat[part] = _with_leaf(inner, below.split("."), value)
    if problems:
        raise several(problems)
    return typed(schema, nested(flat))


def verb_config(verb: str, schema: type[T], words: Sequence[str]) -> T:
    """The keys of a verb but train: configs/<verb>.yaml, with the files it names in `defaults`, changed by `words`."""
    return with_words(schema, _verb_defaults(verb), words, verb)


def verb_options(verb: str, schema: type[T], options: Mapping[str, Any]) -> T:
    """The same, changed by values from Python: of a section by those of its keys that are given."""
    defaults = _verb_defaults(verb)
    merged = {
        key: {**defaults[key], **value} if isinstance(value, Mapping) and isinstance(defaults.get(key), dict) else value
        for key, value in options.items()
    }
    return typed(schema, {**defaults, **merged}, verb)


def changed_keys(section: str, options: Any, plain: Any) -> list[str]:
    """The keys of a section whose values are not those of `plain`, as typed."""
    given, defaults = (asdict(getattr(one, section)) for one in (options, plain))
    return [f"{section}.{key}={as_typed(value)}" for key, value in given.items() if value != defaults[key]]


def _verb_defaults(verb: str) -> dict[str, Any]:
    return {key: value for file in verb_files(verb) for key, value in read_yaml(file).items() if key != "defaults"}


def save_config(config: Config, path: Path) -> None:
    """Write plain YAML that `load_config` reads back to an equal object."""
    save_values(asdict(config), path)


def save_values(values: Mapping[str, Any], path: Path) -> None:
    """Write plain YAML that `read_saved` reads back, unless it is there already."""
    text = OmegaConf.to_yaml(OmegaConf.create(dict(values)))
    if not path.is_file() or read_bounded(path, 4 * MB).decode() != text:
        write_atomically(path, text)


def load_config(path: Path) -> Config:
    """The config in a file that `save_config` wrote, of a run for instance. Raises ConfigError."""
    return config_of(read_saved(path))


def config_of(saved: Mapping[str, Any]) -> Config:
    """The config of a run. What it lists under `trust` is not believed: trust comes from command lines only.

    Keys of older versions become today's, and those that are younger than the run have the values of
    configs/train.yaml.
    """
    values, defaults = _flatten(migrate(saved), Config), _defaults()
    younger = {key: defaults[key] for key in _keys(Config) if key in defaults and key not in values}
    config = typed(Config, nested({**younger, **values}))
    config.trust = []
    return config


@cache
def _defaults() -> dict[str, Any]:
    """The values of configs/train.yaml."""
    return _flatten(read_yaml(find_configs() / "train.yaml"), Config)


def as_typed(value: Any) -> str:
    """A plain value as it stands on a command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@cache
def _hints(schema: Any) -> dict[str, Any]:
    """The types of a schema's keys."""
    return get_type_hints(schema)


def _keys(schema: Any, prefix: str = "") -> dict[str, Any]:
    """Every key of the trunk with its type and limits: {"train.steps": (hint, field)}."""
    keys: dict[str, Any] = {}
    hints = _hints(schema)
    for item in fields(schema):
        if is_dataclass(hints[item.name]):
            keys |= _keys(hints[item.name], f"{prefix}{item.name}.")
        else:
            keys[f"{prefix}{item.name}"] = (hints[item.name], item)
    return keys


def _flatten(values: Mapping[str, Any], schema: Any, prefix: str = "") -> dict[str, Any]:
    """Values by dotted key, as deep as the trunk goes: a part stays whole."""
    flat: dict[str, Any] = {}
    hints = _hints(schema)
    for key, value in values.items():
        if is_dataclass(hints.get(key)) and isinstance(value, Mapping):
            flat |= _flatten(value, hints[key], f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _with_leaf(values: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy of nested `values` with one leaf set."""
    first, *rest = path
    inner = values.get(first)
    return {**values, first: _with_leaf(inner if isinstance(inner, Mapping) else {}, rest, value) if rest else value}


def _constructed(schema: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass from checked values, sections and all; whole numbers become floats where floats are meant."""
    hints, arguments = _hints(cast("Any", schema)), {}
    for name, hint in hints.items():
        value = values[name]
        if is_dataclass(hint):
            value = _constructed(cast("type[Any]", hint), value)
        elif type(value) is int and hint in (float, float | None):
            value = float(value)
        arguments[name] = value
    return schema(**arguments)


def _problem(known: tuple[Any, Field[Any]], key: str, value: Any) -> str | None:
    """The mistake in the value of a key of the trunk, None if there is none."""
    hint, limits = known[0], known[1].metadata
    shown = as_typed(value)
    if isinstance(value, Mapping) and (wrong := mismatches(value, hint, key)):
        return "\n".join(wrong)
    if not fits(value, hint):
        return f"{key}={shown} should be {describe_type(hint)}{f' or {RANDOM_SEED}' if limits['seed'] else ''}"
    if limits["allowed"] and value not in limits["allowed"]:
        options = ", ".join("null" if option is None else str(option) for option in limits["allowed"])
        return f"{key}={shown} is unknown; allowed: {options}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{key}={shown} must be finite"
    if value is not None and limits["least"] is not None and not value >= limits["least"]:
        return f"{key}={shown} must be at least {limits['least']:g}"
    if value is not None and limits["most"] is not None and not value <= limits["most"]:
        return f"{key}={shown} must be at most {limits['most']}"
    if value is not None and limits["below"] is not None and not value < limits["below"]:
        return f"{key}={shown} must be less than {limits['below']:g}"
    if value is not None and limits["above"] is not None and not value > limits["above"]:
        return f"{key}={shown} must be greater than {limits['above']:g}"
    return None


def _is_text(hint: Any, text: str) -> bool:
    """Whether the value of a key is the text itself: YAML would make a number of 4:00:00."""
    return hint is str or (hint == str | None and re.fullmatch(r"[\d:-]+", text) is not None)


def _yaml_value(text: str) -> Any:
    """`text` as hydra would read it on a command line."""
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[index,call-overload]
    except (ValueError, OmegaConfBaseException, YAMLError):
        return text


def with_absolute_paths(config: Config) -> Config:
    """The same config with paths of data and of another run that hold in any working directory.

    And with the keys of how files are read that a config of the user's own leaves out: only older runs lack them.
    """
    if isinstance(config.init_from, str):
        config = replace(config, init_from=str(Path(config.init_from).resolve()))
    elif config.init_from and "run" in config.init_from:
        config = replace(config, init_from={**config.init_from, "run": str(Path(config.init_from["run"]).resolve())})
    if not isinstance(config.data, dict):
        return config
    absolute = {
        key: str(Path(config.data[key]).resolve()) for key in DATA_PATHS if isinstance(config.data.get(key), str)
    }
    reading = {key: READING_KEYS[key] for key in READ_AS_BEFORE.get(str(config.data.get("_target_")), ())}
    return replace(config, data={**reading, **config.data, **absolute})
