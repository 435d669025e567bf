"""A run that begins with another one (`init_from`): its weights, its optimizer's state, its words matched by text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..config.build import accepts, build
from ..config.schema import Config
from ..data.fields import Vocabulary
from ..data.tokenizers.examples import ExampleTokenizer
from ..data.tokenizers.saved import load_tokenizer
from ..data.tokenizers.text import Tokenizer
from ..errors import ConfigError
from . import checkpoint, finding
from .folder import RunFolder
from .load import origin, trained_model, warn
from .pointers import pointed
from .sealed import check_tokenizer, saved_config


class Matched(NamedTuple):
    """Two vocabularies: their sizes, and the ids in both of the items that both have."""

    old_size: int
    new_size: int
    old: Tensor
    new: Tensor

    @classmethod
    def of(cls, old: Sequence[str], new: Sequence[str]) -> Matched:
        ids = {item: index for index, item in enumerate(old)}
        pairs = [(ids[item], index) for index, item in enumerate(new) if item in ids]
        table = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
        return cls(len(old), len(new), table[:, 0], table[:, 1])


Axes = Sequence[tuple[int, Matched]]  # the dimensions of a tensor that are vocabularies


def begin_with_another(
    config: Config, model: nn.Module, tokenizer: Any, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Give a new model the best weights of the run that `init_from` names, as that run evaluated them.

    Rows of words that the run does not know stay as they were drawn. A run that was never evaluated gives its last
    weights. With `init_from.optimizer` the state of its optimizer is taken over too, zeros for new words. Returns what
    run.json keeps of it. Raises ConfigError if there is no such run, or it does not fit.
    """
    begin = config.begins_with
    assert begin is not None, "asked for where a run begins with another"
    if "run" not in begin:
        raise ConfigError("init_from names no run; give init_from=RUN")
    folder, with_optimizer = begin["run"], begin.get("optimizer", False)
    try:
        run = RunFolder.open(folder)
    except ConfigError as error:
        raise ConfigError(f"init_from={folder}: {error}") from None
    theirs = saved_config(run)
    check_tokenizer(run)
    start, stored, state = finding.while_it_is_there(partial(_read, run, theirs, with_optimizer), warn)
    matched = _matched(folder, load_tokenizer(run.tokenizer), tokenizer)
    axes = _vocabulary_axes(config, tokenizer, matched) if matched else {}
    own = checkpoint.weights_of(model)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if theirs.eval_weights == "average" and start.meta.get("averaged"):
        stored.update(zip(names, state["averaging"]["average"], strict=True))
    if unlike := sorted(stored.keys() ^ own.keys()):
        raise _another_model(start.path, unlike[0])
    with torch.no_grad():
        for name, tensor in own.items():
            if not _place(tensor, stored[name], axes.get(name, ())):
                raise _another_model(start.path, name)
    if with_optimizer:
        _load_optimizer(state["optimizer"]["state"], theirs, config, model, optimizer, axes)
    words = {size: {"known": len(one.new), "new": one.new_size - len(one.new)} for size, one in matched.items()}
    return {**origin(run, start.step), **({"optimizer": True} if with_optimizer else {}), **_if_any(words=words)}


def _read(
    run: RunFolder, config: Config, with_optimizer: bool
) -> tuple[checkpoint.Checkpoint, dict[str, Tensor], dict[str, Any]]:
    """The best checkpoint of a run, or its last, with its weights, and with its state if there is need of it."""
    found = finding.find(run.checkpoints, "best" if pointed(run.checkpoints, "best") else "last", warn)
    averaged = config.eval_weights == "average" and found.meta.get("averaged")
    return found, found.weights(), found.load_state() if averaged or with_optimizer else {}


def describe_beginning(folder: str, kept: Mapping[str, Any]) -> str:
    """A line about what a run began with."""
    words = [
        f"{size}: {count['known']:,} known to it, {count['new']:,} new and drawn"
        for size, count in kept.get("words", {}).items()
    ]
    optimizer = " with its optimizer" * kept.get("optimizer", False)
    return "; ".join([f"begins with {folder}, step {kept['step']:,}{optimizer}", *words])


def _if_any(**parts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in parts.items() if part}


def _another_model(path: Path, name: str) -> ConfigError:
    return ConfigError(f"{path} holds the weights of another model; first difference: {name}")


def _matched(folder: str, old: Any, new: Any) -> dict[str, Matched]:
    """The vocabularies that differ, by the name of their size: vocab_size, num_tags, ..."""
    if old.kind != new.kind:
        raise ConfigError(
            f"init_from={folder} reads {old.kind} tokens, and this data has {new.kind} tokens: they cannot be matched; "
            "use the tokenizer of that run"
        )
    pairs = {size: (known.get(size, []), items) for known in [_items(old)] for size, items in _items(new).items()}
    return {size: Matched.of(*pair) for size, pair in pairs.items() if pair[0] != pair[1]}


def _items(tokenizer: Tokenizer | ExampleTokenizer) -> dict[str, list[str]]:
    if not isinstance(tokenizer, ExampleTokenizer):
        return {"vocab_size": tokenizer.vocabulary}
    return {field.size: field.items for field in tokenizer.fields.values() if isinstance(field, Vocabulary)}


def _vocabulary_axes(
    config: Config, tokenizer: Tokenizer | ExampleTokenizer, matched: Mapping[str, Matched]
) -> dict[str, list[tuple[int, Matched]]]:
    """By the name of each tensor of the model, its dimensions that grow with a vocabulary."""
    examples = isinstance(tokenizer, ExampleTokenizer)
    sizes = tokenizer.sizes() if isinstance(tokenizer, ExampleTokenizer) else {"vocab_size": len(tokenizer)}
    known: dict[str, Any] = {}
    if accepts(config.model, "model", "load", trust=config.trust):
        known["load"] = partial(trained_model, engine="scan", trust=config.trust)

    def shapes(sizes: Mapping[str, int]) -> dict[str, torch.Size]:
        given = {"sizes": sizes} if examples else sizes
        with torch.device("meta"):
            model = build(config.model, "model", trust=config.trust, engine="scan", **given, **known)
        return {name: tensor.shape for name, tensor in checkpoint.weights_of(model).items()}

    usual, axes = shapes(sizes), dict[str, list[tuple[int, Matched]]]()
    for size, one in matched.items():
        larger = shapes({**sizes, size: sizes[size] + 1})
        for name, shape in usual.items():
            grown = [dim for dim, pair in enumerate(zip(shape, larger[name], strict=True)) if pair[0] != pair[1]]
            axes.setdefault(name, []).extend((dim, one) for dim in grown)
    return axes


def _place(own: Tensor, stored: Tensor, axes: Axes) -> bool:
    """Copy `stored` into `own`, rows of a vocabulary to where the same item is; returns whether the shapes fit."""
    expected, fits = list(own.shape), True
    for dim, one in axes:
        fits = fits and own.shape[dim] == one.new_size
        expected[dim] = one.old_size
    if not fits or list(stored.shape) != expected:
        return False
    _copy(own, stored.to(own.device, own.dtype), axes)
    return True


def _copy(own: Tensor, stored: Tensor, axes: Axes) -> None:
    if not axes:
        own.copy_(stored)
        return
    (dim, one), *rest = axes
    old, new = one.old.to(own.device), one.new.to(own.device)
    rows = own.index_select(dim, new)
    _copy(rows, stored.index_select(dim, old), rest)
    own.index_copy_(dim, new, rows)


def _load_optimizer(
    state: dict[int, dict[str, Any]],
    theirs: Config,
    config: Config,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    axes: Mapping[str, Axes],
) -> None:
    """Give a new optimizer the state of another one of its kind; learning rate and options stay its own."""
    old, new, refused = theirs.optim["_target_"], config.optim["_target_"], "init_from.optimizer=true cannot be"
    if old != new:
        raise ConfigError(f"{refused}: that run has optim._target_={old}, and this one {new}; leave it out")
    kept = {name for one in state.values() for name, value in one.items() if value is not None}
    if state and (missing := _state_names(config) - kept):
        raise ConfigError(
            f"{refused}: the optimizer of that run keeps no {', '.join(sorted(missing))}, which these optim.* keys "
            "need; use those of that run, or leave it out"
        )
    for index, (name, parameter) in enumerate(model.named_parameters()):
        for key, value in state.get(index, {}).items():
            if isinstance(value, Tensor) and value.dim() and axes.get(name):
                state[index][key] = torch.zeros_like(parameter.detach(), dtype=value.dtype)
                if not _place(state[index][key], value, axes[name]):
                    raise ConfigError(f"{refused}: {key} of {name} has no rows for words; leave it out")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _state_names(config: Config) -> set[str]:
    """The names of what the optimizer of a config keeps of a parameter."""
    parameter = nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.zeros_like(parameter)
    trial: torch.optim.Optimizer = build(config.optim, "optim", trust=config.trust, params=[parameter])
    trial.step()
    return {name for name, value in trial.state[parameter].items() if value is not None}
