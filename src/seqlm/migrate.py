"""Configs of older versions as configs of today: functions of plain dicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Old keys and their names today; behind "; " how to choose the part that has it.
RENAMED = {
    "model.softmaxes": "model.output.num_softmaxes; use model/output=mixture",
    "model.dropout.latent": "model.output.latent_dropout; use model/output=mixture",
    "model.cutoffs": "model.output.cutoffs; use model/output=adaptive",
    "model.div_value": "model.output.div_value; use model/output=adaptive",
    "task.activation_penalty": "task.penalties.activation",
    "task.temporal_penalty": "task.penalties.temporal",
}
# Old keys that are no key today.
REPLACED = {"model.predicts": "the choice of a model: model=lstm, bilm or cloze"}
# Full names of classes and functions in `_target_`, and those of today.
MOVED: dict[str, str] = {}


def migrate(config: Mapping[str, Any]) -> dict[str, Any]:
    """The nested config of an older run, with the keys, values and classes of today; one of today is unchanged."""
    made: dict[str, Any] = _copied(config)
    _split_text_models(made)
    for old, new in RENAMED.items():
        _rename(made, old.split("."), new.partition(";")[0].split("."))
    today: dict[str, Any] = _copied(made, MOVED)  # last: the steps before know the names of their time
    return today


def migrate_flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a config with dotted keys, as records in results/ hold it."""
    return dotted(migrate(nested(config)))


def renamed(key: str) -> str | None:
    """The name that an old key has today and how to choose it; None if `key` is not an old one."""
    return RENAMED.get(key) or REPLACED.get(key)


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one flat mapping with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `dotted`."""
    result: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        node = result
        for name in path:
            node = node.setdefault(name, {})
        node[last] = value
    return result


def _copied(value: Any, moved: Mapping[str, str] | None = None) -> Any:
    """A copy down to the leaves, with other names for the classes in `moved`."""
    if isinstance(value, Mapping):
        copied = {key: _copied(item, moved) for key, item in value.items()}
        if moved and "_target_" in copied:
            copied["_target_"] = moved.get(copied["_target_"], copied["_target_"])
        return copied
    return [_copied(item, moved) for item in value] if isinstance(value, list) else value


def _rename(config: dict[str, Any], old: list[str], new: list[str]) -> None:
    """Move a leaf, unless the part that it belongs to is the user's own, which may mean something else by it."""
    node: Any = config
    owner = "seqlm."
    for name in old[:-1]:
        node = node.get(name)
        if not isinstance(node, dict):
            return
        owner = str(node.get("_target_", owner))
    if old[-1] in node and owner.startswith("seqlm."):
        value, home = node.pop(old[-1]), config
        for name in new[:-1]:
            home = home.setdefault(name, {})
        home.setdefault(new[-1], value)


def _split_text_models(config: dict[str, Any]) -> None:
    """One builder with `predicts` and the options of all output layers -> three builders, and an output layer."""
    model = config.get("model")
    if not isinstance(model, dict) or model.get("_target_") != "seqlm.models.build_language_model" or "output" in model:
        return
    builders = {"both": "build_bidirectional_language_model", "masked": "build_cloze_model"}
    model["_target_"] = f"seqlm.models.{builders.get(model.pop('predicts', 'next'), 'build_language_model')}"
    num_softmaxes, latent_dropout = model.pop("softmaxes", 1), model.get("dropout", {}).pop("latent", 0.0)
    cutoffs, div_value = model.pop("cutoffs", None), model.pop("div_value", 4.0)
    if cutoffs is not None:
        model["output"] = {"_target_": "seqlm.layers.AdaptiveSoftmax", "cutoffs": cutoffs, "div_value": div_value}
    elif num_softmaxes != 1:
        sizes = {"num_softmaxes": num_softmaxes, "latent_dropout": latent_dropout}
        model["output"] = {"_target_": "seqlm.layers.Mixture", **sizes}
    else:
        model["output"] = {"_target_": "seqlm.layers.Softmax"}
