"""The typed trunk of a configuration, and what can be done with one: find, check, save, load, change.

Values live in configs/*.yaml, types live here. Parts (model, data, optim, ...) are nodes with a
`_target_` whose schema is the constructor they name; see build.py. Imports neither torch nor hydra.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Optional, TypeVar, Union, cast, get_args, get_type_hints

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .errors import ConfigError

# OmegaConf 2.3 reads the annotations at run time and knows Optional, not `X | None`.
# ruff: noqa: UP007, UP045


@dataclass
class RunConfig:
    """Where the run lives: <root>/<name>; without a name one is made of data, model, time and chance."""

    name: Optional[str] = MISSING
    root: str = MISSING


@dataclass
class TrainConfig:
    batch_size: int = MISSING
    window: int = MISSING
    eval_batch_size: int = MISSING
    loss_unit: str = MISSING
    clip_norm: Optional[float] = MISSING
    steps: Optional[int] = MISSING
    epochs: Optional[int] = MISSING
    tokens: Optional[int] = MISSING
    minutes: Optional[float] = MISSING
    patience: Optional[int] = MISSING
    eval_every: Optional[int] = MISSING
    log_every: int = MISSING


@dataclass
class CheckpointConfig:
    every: Optional[int] = MISSING
    keep_last: int = MISSING
    keep_best: int = MISSING
    keep_every: Optional[int] = MISSING


@dataclass
class SamplingConfig:
    """How tokens are drawn; the same keys for `seqlm sample` and for the samples during training."""

    prompt: str = MISSING
    tokens: int = MISSING
    temperature: float = MISSING
    top_k: Optional[int] = MISSING
    top_p: Optional[float] = MISSING
    seed: int = MISSING
    allow_unk: bool = MISSING


@dataclass
class Config:
    """Everything a training run is made from."""

    run: RunConfig = field(default_factory=RunConfig)
    seed: int = MISSING
    device: str = MISSING
    precision: str = MISSING
    engine: str = MISSING
    deterministic: bool = MISSING
    threads: Optional[int] = MISSING
    resume: Optional[str] = MISSING
    trust: list[str] = MISSING
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    sample: SamplingConfig = field(default_factory=SamplingConfig)
    data: Any = MISSING
    model: Any = MISSING
    task: Any = MISSING
    optim: Any = MISSING
    schedule: Any = MISSING


@dataclass
class EvalConfig:
    """Keys of `seqlm eval RUN`."""

    split: str = MISSING
    checkpoint: str = MISSING
    batch_size: int = MISSING
    window: Optional[int] = MISSING
    device: str = MISSING
    precision: str = MISSING
    engine: str = MISSING
    threads: Optional[int] = MISSING
    trust: list[str] = MISSING
    data: dict[str, Any] = MISSING


@dataclass
class SampleConfig(SamplingConfig):
    """Keys of `seqlm sample RUN`."""

    checkpoint: str = MISSING
    device: str = MISSING
    engine: str = MISSING
    threads: Optional[int] = MISSING
    trust: list[str] = MISSING


T = TypeVar("T")

# What may change when a run is resumed: when it ends, what it prints and keeps, where it computes, and
# where its data lies (the content is checked). Everything else would make it another experiment.
RESUMABLE = (
    "train.steps train.epochs train.tokens train.minutes train.patience train.eval_every train.log_every "
    "checkpoint. sample. device engine threads trust data.path data.train data.valid data.test"
).split()

CHOICES = {
    "precision": ("float32", "tf32", "bf16"),
    "engine": ("auto", "scan", "native"),
    "train.loss_unit": ("mean", "sum"),
    "resume": (None, "auto"),
}
AT_LEAST: dict[str, float] = {
    "threads": 1, "train.batch_size": 1, "train.window": 1, "train.eval_batch_size": 1, "train.steps": 1,
    "train.epochs": 1, "train.tokens": 1, "train.patience": 1, "train.eval_every": 1, "train.log_every": 1,
    "checkpoint.every": 1, "checkpoint.keep_last": 1, "checkpoint.keep_best": 0, "checkpoint.keep_every": 1,
    "seed": 0, "sample.tokens": 0, "sample.temperature": 0, "sample.top_k": 1, "tokens": 0, "temperature": 0,
    "top_k": 1, "batch_size": 1, "window": 1,
}  # fmt: skip
ABOVE_ZERO = ("train.minutes", "train.clip_norm", "sample.top_p", "top_p")


def find_configs() -> Path:
    """The folder of YAML files: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parents[1] / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError(f"the configs folder is missing beside {package}; install seqlm again")


def typed(schema: type[T], values: DictConfig | Mapping[str, Any]) -> T:
    """`values` as an instance of `schema`; raises ConfigError that lists every wrong key and value at once."""
    plain = OmegaConf.to_container(values, resolve=True) if isinstance(values, DictConfig) else dict(values)
    target, problems = OmegaConf.structured(schema), []
    for key, value in _leaves(cast("dict[str, Any]", plain), schema):
        problem = _assign(target, schema, key, value)
        problems += [problem] if problem else []
    problems += [f"{key} is not set: it is mandatory, give {key}=..." for key in sorted(OmegaConf.missing_keys(target))]
    if problems:
        raise ConfigError("\n".join(problems))
    return cast(T, OmegaConf.to_object(target))


def with_words(schema: type[T], values: Mapping[str, Any], words: Sequence[str]) -> T:
    """`values` changed by `key=value` words of a command line."""
    plain = {key: value for key, value in _leaves(values, schema)}
    problems = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            problems.append(f"{word} is not key=value")
        elif key not in plain and not _inside_part(key, schema):
            problems.append(unknown_key(key, plain))
        else:
            plain[key] = text if _is_text(schema, key) else _yaml_value(text)
    if problems:
        raise ConfigError("\n".join(problems))
    return typed(schema, _nested(plain))


def verb_config(verb: str, schema: type[T], words: Sequence[str]) -> T:
    """The keys of a verb that works on a run: configs/<verb>.yaml changed by `words`."""
    values = yaml.safe_load((find_configs() / f"{verb}.yaml").read_text(encoding="utf-8"))
    return with_words(schema, values, words)


def save_config(config: Config, path: Path) -> None:
    """Write plain YAML that `load_config` reads back to an equal object."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(config)), encoding="utf-8")


def load_config(path: Path) -> Config:
    """The config of a run. What it lists under `trust` is not believed: trust comes from command lines only."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        config = typed(Config, values)
    except (OSError, yaml.YAMLError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    config.trust = []
    return config


def resumed(config: Config, words: Sequence[str]) -> Config:
    """The config of a run to be resumed, changed by `words`; raises ConfigError with the difference if they go too far."""
    before = plain_dict(config)
    changed = with_words(Config, before, words)
    refused = [
        f"  {key}: {old} -> {new}"
        for key, old, new in differences(before, plain_dict(changed))
        if not any(key == allowed or (allowed.endswith(".") and key.startswith(allowed)) for allowed in RESUMABLE)
    ]
    if refused:
        raise ConfigError(
            "a resumed run continues as it was; these keys would make it another one:\n"
            + "\n".join(refused)
            + "\nstart a new run with `seqlm train ...`, or change only: "
            + ", ".join(key + "*" if key.endswith(".") else key for key in RESUMABLE)
        )
    return changed


def plain_dict(config: Any) -> dict[str, Any]:
    """A config object as nested plain dicts."""
    return cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.structured(config)))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, old, new) for every leaf that differs."""
    a, b = dict(_leaves(old)), dict(_leaves(new))
    return [(key, a.get(key), b.get(key)) for key in sorted({*a, *b}) if a.get(key) != b.get(key)]


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The message for a key that does not exist, with the nearest one that does."""
    known = list(known)
    sections = {part.rsplit(".", depth)[0] for part in known for depth in range(1, part.count(".") + 1)}
    near = difflib.get_close_matches(key, [*known, *sections], 1, 0.6)
    if not near:  # a right last word in a wrong place: hidden_size -> model.hidden_size
        near = [item for item in known if item.rpartition(".")[2] == key.rpartition(".")[2]]
    siblings = [item for item in known if item.rpartition(".")[0] == key.rpartition(".")[0]]
    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(siblings)}" if siblings else "see --help"
    return f"{key} is not a key of this configuration; {hint}"


def resolve_layer_cells(model: Any, folders: Sequence[Path]) -> None:
    """Replace names in `model.layers=[{cell: gru}]` by the cell's own YAML node, found in `folders`."""
    layers = model.get("layers") if isinstance(model, dict) else None
    for index, layer in enumerate(layers if isinstance(layers, list) else []):
        name = layer.get("cell") if isinstance(layer, dict) else None
        if not isinstance(name, str):
            continue
        found = [folder / "model" / "cell" / f"{name}.yaml" for folder in folders]
        path = next((path for path in found if path.is_file()), None)
        if path is None:
            names = sorted({file.stem for path in found for file in path.parent.glob("*.yaml")})
            raise ConfigError(f"model.layers.{index}.cell={name} is unknown; allowed: {', '.join(names)}")
        layer["cell"] = yaml.safe_load(path.read_text(encoding="utf-8"))


def _leaves(values: Mapping[str, Any], schema: Any = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything; below a part only when no schema tells where parts begin."""
    for key, value in values.items():
        inner = get_type_hints(schema).get(key) if is_dataclass(schema) else None
        deeper = isinstance(value, Mapping) and (is_dataclass(inner) if schema is not None else bool(value))
        if deeper:
            yield from _leaves(value, inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_leaves`; a dotted key may also reach into a part that is given whole."""
    result: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        node = result
        for name in path:
            existing = node.get(name)
            node[name] = dict(existing) if isinstance(existing, Mapping) else {}
            node = node[name]
        node[last] = value
    return result


def _hint(schema: Any, key: str) -> Any:
    """The annotation of a dotted key; None below a part or for an unknown key."""
    for name in key.split("."):
        if not is_dataclass(schema) or name not in {item.name for item in fields(schema)}:
            return None
        schema = get_type_hints(schema)[name]
    return schema


def _inside_part(key: str, schema: Any) -> bool:
    """Whether `key` lies below a part (data.path), whose constructor will judge it."""
    return any(_hint(schema, key.rsplit(".", depth)[0]) in (Any, dict[str, Any]) for depth in range(1, key.count(".") + 1))


def _is_text(schema: Any, key: str) -> bool:
    hint = _hint(schema, key)
    return hint is str or key.startswith("data.")  # paths: `data.path=2024` is a folder, not a number


def _yaml_value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _assign(target: DictConfig, schema: Any, key: str, value: Any) -> str | None:
    """Set one key of a structured config; the problem in words, if there is one."""
    if _hint(schema, key) is None:
        return unknown_key(key, [k for k, _ in _leaves(plain_dict_of(schema), schema)])
    if value == MISSING:
        return None
    hint = _hint(schema, key)
    options = get_args(hint) if get_args(hint) and type(None) in get_args(hint) else (hint,)
    if (bool in options) != isinstance(value, bool) and (bool in options or isinstance(value, bool)) and Any not in options:
        return f"{key}={_show(value)} should be {_kind(hint)}"  # OmegaConf would take 1 for true and true for 1
    try:
        OmegaConf.update(target, key, value)
    except OmegaConfBaseException:
        return f"{key}={_show(value)} should be {_kind(hint)}"
    if key in CHOICES and value not in CHOICES[key]:
        return f"{key}={_show(value)} is unknown; allowed: {', '.join(_show(option) for option in CHOICES[key])}"
    number = OmegaConf.select(target, key)
    if isinstance(number, (int, float)):
        if key in AT_LEAST and not number >= AT_LEAST[key]:
            return f"{key}={_show(value)} must be at least {AT_LEAST[key]:g}"
        if key in ABOVE_ZERO and not number > 0:
            return f"{key}={_show(value)} must be greater than 0"
    return None


def plain_dict_of(schema: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.structured(schema)))


def _show(value: Any) -> str:
    return {None: "null", True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool | None) else str(value)


def _kind(hint: Any) -> str:
    """A type hint in words."""
    options = get_args(hint)
    if options and type(None) in options:
        return " or ".join([*(_kind(option) for option in options if option is not type(None)), "null"])
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", list[str]: "a list like [a,b]"}
    return words.get(hint, "a mapping")


_ = (Literal, Union)
