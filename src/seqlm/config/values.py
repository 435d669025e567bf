"""Configurations as values: found, typed, checked, changed, saved and compared. Imports neither torch nor hydra."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import Field, asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..errors import ConfigError
from ..files import write_atomically
from .build import defaults, describe_type, fits
from .keys import dotted, nested
from .migrate import migrate, renamed
from .schema import LIMITS, Config

T = TypeVar("T")

DATA_PATHS = ("path", "train", "valid", "test")  # keys of a data node that name files

# What may change when a run is resumed: when it ends, what it prints and keeps, where it computes, and
# where its data lies (the content is checked). Everything else would make it another experiment.
RESUMABLE = [
    "train.steps",
    "train.epochs",
    "train.tokens",
    "train.minutes",
    "train.patience",
    "train.nonmonotone",
    "train.eval_every",
    "train.log_every",
    "checkpoint.",
    "sample.",
    "device",
    "engine",
    "threads",
    "trust",
    "published",
    "published.",
    *(f"data.{key}" for key in DATA_PATHS),
]

# Keys whose values make no other experiment.
HARMLESS = ("seed", "sample.", "checkpoint.", "train.log_every")


def find_configs() -> Path:
    """The folder of YAML files: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parents[1] / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError(f"the configs folder is missing beside {package}; install seqlm again")


def typed(schema: type[T], values: Mapping[str, Any]) -> T:
    """`values` as an instance of `schema`; raises ConfigError that lists every wrong key and value at once."""
    flat, known = _flatten(values, schema), _keys(schema)
    for key, value in flat.items():  # run.name=2024 is a name
        if isinstance(value, (int, float)) and not isinstance(value, bool) and key in known and fits("", known[key][0]):
            flat[key] = str(value)
    sections = [key for key in flat if any(name.startswith(f"{key}.") for name in known)]  # train=3
    problems = [
        problem
        for key, value in flat.items()
        if key not in sections
        for problem in [_problem(known[key], key, value) if key in known else unknown_key(key, known)]
        if problem
    ]
    problems += [f"{key}={flat[key]} replaces a whole section; set a key of it, {key}.<key>=..." for key in sections]
    missing = [key for key in known if key not in flat and key.partition(".")[0] not in sections]
    missing += [key for key, value in dotted(values).items() if value == "???" and key not in known]
    problems += [f"{key} is not set and has no default: give {key}=..." for key in missing]
    if problems:
        raise ConfigError("\n".join(problems))
    return _constructed(schema, nested(flat))


def with_words(schema: type[T], values: Mapping[str, Any], words: Sequence[str]) -> T:
    """`values` changed by `key=value` words of a command line; for runs, whose model is chosen already."""
    flat, known = _flatten(values, schema), _keys(schema)
    problems = []
    for word in words:
        key, equals, text = word.partition("=")
        part = next((name for name in known if key.startswith(f"{name}.")), None)  # data.path lies in the part data
        if not equals or not key:
            problems.append(f"{word} is not key=value")
        elif (part is None and key not in known) or renamed(key):
            problems.append(unknown_key(key, known))
        elif part is None:
            flat[key] = text if known[key][0] is str else _yaml_value(text)
        else:
            below = key.removeprefix(f"{part}.")
            is_path = part == "data" and below in DATA_PATHS and text != "null"  # data.path=2024 is a folder
            inner = flat[part] if isinstance(flat[part], dict) else {}
            flat[part] = _with_leaf(inner, below.split("."), text if is_path else _yaml_value(text))
    if problems:
        raise ConfigError("\n".join(problems))
    return typed(schema, nested(flat))


def verb_config(verb: str, schema: type[T], words: Sequence[str]) -> T:
    """The keys of a verb but train: configs/<verb>.yaml, with the files it names in `defaults`, changed by `words`."""
    values = {key: value for file in verb_files(verb) for key, value in read_yaml(file).items() if key != "defaults"}
    return with_words(schema, values, words)


def verb_files(verb: str) -> list[Path]:
    """configs/<verb>.yaml and the files it shares with other verbs; none for a verb without keys."""
    path = find_configs() / f"{verb}.yaml"
    if not path.is_file():
        return []
    return [path, *(path.with_name(f"{name}.yaml") for name in read_yaml(path).get("defaults", []))]


def save_config(config: Config, path: Path) -> None:
    """Write plain YAML that `load_config` reads back to an equal object."""
    text = OmegaConf.to_yaml(OmegaConf.create(plain_dict(config)))
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text)


def load_config(path: Path) -> Config:
    """The config of a run. What it lists under `trust` is not believed: trust comes from command lines only.

    Keys of older versions become today's, and those that are younger than the run have the values of
    configs/train.yaml.
    """
    values = _flatten(migrate(read_yaml(path)), Config)
    defaults = _flatten(read_yaml(find_configs() / "train.yaml"), Config)
    younger = {key: defaults[key] for key in _keys(Config) if key in defaults and key not in values}
    config = typed(Config, nested({**younger, **values}))
    config.trust = []
    return config


def resumed(saved: Config, wanted: Config) -> Config:
    """`wanted` as the config of the run `saved` going on; raises ConfigError with the diff if it is another run.

    Paths of both are absolute.
    """
    wanted = replace(wanted, run=saved.run, resume=saved.resume)
    refused = [
        f"  {key}: {old} -> {new}"
        for key, old, new in differences(plain_dict(saved), plain_dict(wanted))
        if not any(key == allowed or (allowed.endswith(".") and key.startswith(allowed)) for allowed in RESUMABLE)
    ]
    if refused:
        raise ConfigError(
            "a resumed run continues as it was; these keys would make it another one:\n"
            + "\n".join(refused[:8] + [f"  and {len(refused) - 8} more"] * (len(refused) > 8))
            + "\nstart a new run with `seqlm train ...`, or change only: "
            + ", ".join(key + "*" if key.endswith(".") else key for key in RESUMABLE)
        )
    return wanted


def plain_dict(config: Any) -> dict[str, Any]:
    """A config object as nested plain dicts."""
    return asdict(config)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, old, new) for every leaf that differs."""
    a, b = dotted(old), dotted(new)
    return [(key, a.get(key), b.get(key)) for key in sorted({*a, *b}) if a.get(key) != b.get(key)]


def recorded(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what says where, not what."""
    where = ("run", "trust", "resume", "threads", "device", "published")
    kept = {key: value for key, value in config.items() if key not in where}
    loop = kept.get("train", {})
    if any(loop.get(unit) is not None for unit in LIMITS):
        kept["train"] = {key: value for key, value in loop.items() if key != "default_steps"}  # not in force
    kept["init_from"] = config.get("init_from") is not None  # whether, not from where
    if isinstance(kept.get("model"), Mapping) and kept["model"].get("language_models"):  # how each is read, not which
        read = [{key: spec[key] for key in spec if key == "reverse"} for spec in kept["model"]["language_models"]]
        kept["model"] = {**kept["model"], "language_models": read}
    return {**kept, "data": {key: value for key, value in kept["data"].items() if key not in DATA_PATHS}}


def grown(config: Mapping[str, Any], like: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """`config` with the options of `like` that it is too old to know, as they are where nobody sets them.

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
                key: grown({}, like[key]) if not known[key] and isinstance(like[key], Mapping) else known[key]
                for key in absent
                if key in known
            }
    for key, value in config.items():
        both = isinstance(value, Mapping) and isinstance(like.get(key), Mapping)
        found[key] = grown(value, like[key], f"{where}.{key}".lstrip(".")) if both else value
    return found


def as_typed(value: Any) -> str:
    """A plain value as it stands on a command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The message for a key that does not exist, with its new name or the nearest one that does."""
    if today := renamed(key):
        return f"{key} is now {today}"
    known = list(known)
    section, _, last = key.rpartition(".")
    siblings = {item.rpartition(".")[2]: item for item in known if item.rpartition(".")[0] == section}
    elsewhere = {item.rpartition(".")[0]: item for item in known if item.rpartition(".")[2] == last}
    near = (
        [siblings[name] for name in difflib.get_close_matches(last, siblings, 1, 0.6)]
        or [elsewhere[name] for name in difflib.get_close_matches(section, elsewhere, 1, 0.0)]
        or difflib.get_close_matches(key, known, 1, 0.75)
    )
    hint = f"did you mean {near[0]}?" if near else ""
    if not hint and siblings and section:
        hint = f"in {section} there are: {', '.join(siblings)}"
    return f"{key} is not a key of this configuration; {hint or 'see seqlm train --help'}"


def cell_nodes() -> dict[str, Any]:
    """The node of every cell in configs/model/cell, by name."""
    return {path.stem: read_yaml(path) for path in sorted((find_configs() / "model" / "cell").glob("*.yaml"))}


def resolve_layer_cells(model: Any, folders: Sequence[Path]) -> None:
    """Make the node of a cell of what `model.layers`, `model.characters` or `model.head` may say of one.

    `{cell: gru}` names a YAML file found in `folders`; `{cell: {window: 1}}` is the model's cell with other options.
    """
    model = model if isinstance(model, dict) else {}
    layers = model.get("layers")
    places = {f"layers.{index}": layer for index, layer in enumerate(layers if isinstance(layers, list) else [])}
    places |= {name: model.get(name) for name in ("characters", "head")}
    for place, part in places.items():
        cell = part.get("cell") if isinstance(part, dict) else None
        if isinstance(cell, dict) and "_target_" not in cell:
            part["cell"] = {**model.get("cell", {}), **cell}
        elif isinstance(cell, str):
            files = [folder / "model" / "cell" / f"{cell}.yaml" for folder in folders]
            path = next((file for file in files if file.is_file()), None)
            if path is None:
                names = sorted({file.stem for folder in folders for file in (folder / "model" / "cell").glob("*.yaml")})
                raise ConfigError(f"model.{place}.cell={cell} is unknown; allowed: {', '.join(names)}")
            part["cell"] = read_yaml(path)


def _keys(schema: Any, prefix: str = "") -> dict[str, Any]:
    """Every key of the trunk with its type and limits: {"train.steps": (hint, field)}."""
    keys: dict[str, Any] = {}
    hints = get_type_hints(schema)
    for item in fields(schema):
        if is_dataclass(hints[item.name]):
            keys |= _keys(hints[item.name], f"{prefix}{item.name}.")
        else:
            keys[f"{prefix}{item.name}"] = (hints[item.name], item)
    return keys


def _flatten(values: Mapping[str, Any], schema: Any, prefix: str = "") -> dict[str, Any]:
    """Values by dotted key, as deep as the trunk goes: a part stays whole."""
    flat: dict[str, Any] = {}
    hints = get_type_hints(schema)
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
    hints, arguments = get_type_hints(schema), {}
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
    if not fits(value, hint):
        return f"{key}={shown} should be {describe_type(hint)}"
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


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises ConfigError if there is none."""
    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} does not hold keys and values")
    return cast("dict[str, Any]", values)


def _yaml_value(text: str) -> Any:
    """`text` as hydra would read it on a command line."""
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[index,call-overload]
    except (ValueError, OmegaConfBaseException, YAMLError):
        return text
