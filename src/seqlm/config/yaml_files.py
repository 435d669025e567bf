"""The YAML files of configs/: where they are, and what is read from them. Imports neither torch nor hydra."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..errors import ConfigError, describe
from ..files import MB, read_bounded
from .tree import find_configs

MOST_VALUES, MOST_DEEP = 100_000, 100  # that a YAML file may hold, and how many levels of them
SUSPICIOUS = re.compile(r"&|(?:[-?:] ){20}|\n {200}")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises ConfigError if there is none."""
    try:
        check_yaml(path)
        values = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {describe(error)}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} does not hold keys and values")
    return cast("dict[str, Any]", values)


def read_saved(path: Path) -> dict[str, Any]:
    """The mapping in a file that `save_config` wrote, which holds no interpolations: ten times as fast."""
    try:
        values = yaml.load(check_yaml(path), _SavedLoader)  # which is a safe one
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:  # TypeError: a list as a key
        raise ConfigError(f"{path} cannot be read: {describe(error)}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} does not hold keys and values")
    return values


def check_yaml(path: Path) -> str:
    """The text of a YAML file, after a look at its size, its depth, and what its aliases (`*name`) stand for.

    A few lines of aliases can stand for billions of values. Raises ConfigError, ValueError, YAMLError; OSError.
    """
    text = read_bounded(path, 4 * MB).decode()
    if not SUSPICIOUS.search(text) and text.count("[") + text.count("{") <= MOST_DEEP:
        return text
    started: list[tuple[str | None, int]] = []  # collections that are not at their end
    stands_for: dict[str, int] = {}
    count = 0
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            name = event.anchor or ""
            if any(anchor == name for anchor, _ in started):
                raise ConfigError(f"{path}: *{name} stands in what it stands for")
            count += stands_for.get(name, 0)
        elif isinstance(event, yaml.CollectionStartEvent):
            started.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = started.pop()
            stands_for[anchor or ""] = count - before
        elif isinstance(event, yaml.ScalarEvent):
            stands_for[event.anchor or ""] = 1
            count += 1
        if count > MOST_VALUES or len(started) > MOST_DEEP:
            kind = f"{MOST_VALUES:,} values" if count > MOST_VALUES else f"{MOST_DEEP} levels"
            raise ConfigError(f"{path} holds more than {kind}, aliases written out; that is no configuration")
    return text


class _SavedLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML 1.1 takes 1e-05 for a text."""


_SavedLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789")
)


def verb_files(verb: str) -> list[Path]:
    """configs/<verb>.yaml and the files it shares with other verbs; none for a verb without keys."""
    path = find_configs() / f"{verb}.yaml"
    if not path.is_file():
        return []
    return [path, *(path.with_name(f"{name}.yaml") for name in read_yaml(path).get("defaults", []))]


def cell_nodes() -> dict[str, Any]:
    """The node of every cell in configs/model/cell, by name."""
    return {path.stem: read_yaml(path) for path in sorted((find_configs() / "model" / "cell").glob("*.yaml"))}


def logger_nodes(value: Any) -> Any:
    """The node of each logger that is named, by name: of `wandb` or `[tensorboard, wandb]`. Raises ConfigError."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list):
        return value
    files = {path.stem: path for path in sorted((find_configs() / "logger").glob("*.yaml"))}
    if unknown := [name for name in names if name not in files]:
        raise ConfigError(f"logger={unknown[0]} is unknown; allowed: {', '.join(files)}, and several as logger=[a,b]")
    return {key: node for name in names for key, node in read_yaml(files[name]).items()}


def resolve_layer_cells(model: Any, folders: Sequence[Path]) -> None:
    """Replace the short forms of a cell in `model.layers`, `model.characters` and `model.head` by its node.

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
