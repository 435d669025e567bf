"""The name of a run: what it is and what was typed for it, as ptb-gru-h650-lr0.003-s2-5f2a9c. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from ..config.comparison import identity
from ..config.schema import DATA_PATHS, Config
from ..config.yaml_files import cell_nodes
from ..files import file_stem

LONGEST = 60  # characters of a name without its hash
LONGEST_VALUE = 16  # of a typed value in it
SHORT = {"hidden_size": "h", "num_layers": "l", "batch_size": "b"}
# Said by other parts of the name, or of no interest in it.
UNNAMED = (
    "run",
    "paths",
    "resume",
    "trust",
    "tags",
    "note",
    "published",
    "hydra",
    "checkpoint",
    "sample",
    "debug",
    "logger",
)
UNNAMED_KEYS = {
    "seed", "device", "threads", "engine", "experiment", "data", "model", "model/cell", "model.hidden_size",
    "train.log_every", "train.log_parameters", "diagnose.every", "train.eval_every",
    *(f"data.{key}" for key in DATA_PATHS),
}  # fmt: skip


def run_name(config: Config, choices: Mapping[str, str], words: Sequence[str]) -> str:
    """The name of a run that is given none: experiment, or data and model; size; what was typed; seed; a hash.

    The hash is that of the whole configuration, so that a name that is cut short is still one run's.
    """
    typed = dict(map(_key_and_value, words))
    experiment = choices.get("experiment")
    size = (config.model if isinstance(config.model, Mapping) else {}).get("hidden_size")
    head = [experiment or choices.get("data", "data")]
    if experiment:
        head += [choices["data"]] if "data" in typed else []
    if not experiment or {"model", "model/cell"} & typed.keys():
        head.append(describe_model(config, choices))
    if isinstance(size, int) and "model.num_params" not in typed and (not experiment or "model.hidden_size" in typed):
        head.append(f"h{size}")
    seed = f"s{config.seed}"
    parts = [file_stem(part) for part in head]
    for part in (name_part(key, typed[key]) for key in sorted(typed) if not _is_unnamed(key)):
        if len("-".join([*parts, part, seed])) <= LONGEST:
            parts.append(part)
    return "-".join(["-".join(parts)[: LONGEST - len(seed) - 1], seed, identity(asdict(config))[:6]])


def describe_model(config: Config, choices: Mapping[str, str]) -> str:
    """The model in a word: its cell, after the preset if that is another kind of model, as tagger-gru."""
    model = config.model if isinstance(config.model, Mapping) else {}
    cell, preset = _cell(model), choices.get("model", "")
    if preset in {"", *_cell_names().values()}:
        return cell or preset or "model"
    return f"{preset}-{cell}" if cell and cell != "lstm" else preset


def _cell(model: Mapping[str, Any]) -> str:
    """The cell of a model, by its name in configs/model/cell, or by its class; `mixed` where layers differ."""
    node = model.get("cell")
    if not isinstance(node, Mapping):
        return ""
    cells = [layer.get("cell") or node for layer in model.get("layers") or [] if isinstance(layer, Mapping)] or [node]
    targets = {str(cell.get("_target_")) if isinstance(cell, Mapping) else str(cell) for cell in cells}
    if len(targets) > 1:
        return "mixed"
    (target,) = targets
    return _cell_names().get(target, target.rpartition(".")[2])


@cache
def _cell_names() -> dict[str, str]:
    """The name of each cell in configs/model/cell, by its class."""
    return {node["_target_"]: name for name, node in cell_nodes().items()}


def _key_and_value(word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    return key.lstrip("+").partition("@")[0], value


def _is_unnamed(key: str) -> bool:
    return key in UNNAMED_KEYS or key.partition(".")[0].partition("/")[0] in UNNAMED or key.startswith("~")


def name_part(key: str, value: str) -> str:
    """A typed word in a name: optim.lr=0.003 -> lr0.003, optim=sgd -> sgd, model.tied=true -> tied."""
    value = value.strip("'\"")
    value = Path(value).name if "/" in value else value
    last = key.rpartition(".")[2].rpartition("/")[2]
    short = SHORT.get(last, last)
    if "." not in key and key not in ("precision", "init_from", "eval_weights", "deterministic"):
        return file_stem(value)[:LONGEST_VALUE]  # an option of a group
    if value == "true":
        return file_stem(short)
    value = file_stem(value)[:LONGEST_VALUE]
    return file_stem(short) + (value if value[:1].isdigit() else f"_{value}")
