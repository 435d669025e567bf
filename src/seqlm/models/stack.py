"""Stacks of layers from sizes, cells and dropout probabilities."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypedDict, TypeVar, get_type_hints

from torch import nn

from ..cells import Cell, RecurrentDropout, RecurrentOptions, require_positive, require_probability
from ..engines import Engine
from ..errors import ConfigError
from ..layers import Bidirectional, DropoutKind, Layer, Recurrent, Stack, make_dropout

F = TypeVar("F", bound=Callable[..., Any])


class Dropouts(RecurrentOptions, total=False):
    """Dropout probabilities by place, and their kind; what is left out is 0, and locked.

    `embedding_tied`: words dropped from the embedding are dropped from tied softmax weights as well. With `per_gate`
    locked masks of `input` and `hidden` differ from gate to gate as well. What acts inside the recurrence is inherited.
    """

    kind: DropoutKind
    embedding: float
    embedding_tied: bool
    input: float
    hidden: float
    output: float


class LayerSpec(TypedDict, total=False):
    """Options of one layer; those left out are the model's."""

    cell: Callable[..., Cell]
    hidden_size: int
    engine: Engine


def cells_of(model: nn.Module) -> list[Cell]:
    """Every cell inside `model`, lowest layer first."""
    return [module for module in model.modules() if isinstance(module, Cell)]


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Parameters, each counted once: in total, in embeddings, in the recurrent cells."""
    embeddings = {p for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    return {
        "total": sum(p.numel() for p in model.parameters()),
        "embedding": sum(p.numel() for p in embeddings),
        "recurrent": sum(p.numel() for cell in cells_of(model) for p in cell.parameters()),
    }


def parameters_in_words(model: nn.Module) -> str:
    """The same in a line."""
    counts = count_parameters(model)
    return f"{counts['total']:,} (embedding {counts['embedding']:,}, recurrent {counts['recurrent']:,})"


def delegates(to: Callable[..., Any]) -> Callable[[F], F]:
    """Decorate a function whose ** arguments go to `to`: its signature shows the keyword-only arguments of `to`.

    So help() lists them, and a config node that names the function is checked against them.
    """

    def extended(function: F) -> F:
        signature, hints = inspect.signature(function), get_type_hints(to)
        own = {name: one for name, one in signature.parameters.items() if one.kind is not one.VAR_KEYWORD}
        passed = {
            name: one
            for name, one in inspect.signature(to).parameters.items()
            if one.kind is one.KEYWORD_ONLY and name not in own
        }
        function.__signature__ = signature.replace(parameters=[*own.values(), *passed.values()])  # type: ignore[attr-defined]
        function.__annotations__ |= {name: hints[name] for name in passed}
        return function

    return extended


def build_stack(
    input_size: int,
    dropout: Dropouts,
    where: str = "model.",
    *,
    cell: Callable[..., Cell],
    hidden_size: int,
    num_layers: int = 1,
    layers: list[LayerSpec] | None = None,
    bidirectional: bool = False,
    residual: bool = False,
    skip_sum: bool = False,
    engine: Engine = "auto",
) -> Stack:
    """Build `num_layers` equal layers, or one for each entry of `layers`. Messages speak of keys below `where`.

    Args:
        dropout: `hidden` between layers, and everything inside the recurrence; other places are the model's
        cell: class or factory, called with its sizes
        bidirectional: two cells of `hidden_size` in each layer
        residual: every layer but the first adds its input to its output
        skip_sum: the output is the sum of those of all layers
    """
    require_positive(num_layers=num_layers)
    require_probability("dropout.hidden", dropout.get("hidden", 0.0))
    kind, between, gatewise = dropout.get("kind", "locked"), dropout.get("hidden", 0.0), drops_gatewise(dropout)
    inside = {key: value for key, value in dropout.items() if key in RecurrentOptions.__annotations__}
    specs: Sequence[LayerSpec] = [{} for _ in range(num_layers)] if layers is None else layers
    for key, value in {"dropout.hidden": between, "residual": residual, "skip_sum": skip_sum}.items():
        if value and len(specs) == 1:
            raise ConfigError(f"{where}{key}={str(value).lower()} does nothing with one layer; leave it out")
    built: list[Layer] = []
    for index, spec in enumerate(specs):
        make = spec.get("cell", cell)
        sizes = {"input_size": input_size, "hidden_size": spec.get("hidden_size", hidden_size)}
        cells = [make(**sizes) for _ in range(1 + bidirectional)]
        drop = RecurrentDropout(**inside)  # type: ignore[arg-type]
        if gatewise:
            entering = between if index else dropout.get("input", 0.0)
            drop = drop._replace(input=entering, per_gate=bool(drop.state or entering))
        for one in cells:
            try:
                one.regularise(drop)
            except ValueError as error:
                raise ConfigError(f"layer {index}: {where}dropout.{error}") from error
        try:
            directions = [
                Recurrent(one, reverse, spec.get("engine", engine))
                for one, reverse in zip(cells, (False, True), strict=False)
            ]
        except ValueError as error:
            raise ConfigError(f"layer {index}: {error}") from error
        built.append(Bidirectional(*directions) if bidirectional else directions[0])
        input_size = built[-1].output_size
    outside = make_dropout(kind, 0.0 if gatewise else between)
    return Stack(built, dropout=outside, residual=residual, skip_sum=skip_sum)


def drops_gatewise(dropout: Dropouts) -> bool:
    """Whether what enters a layer is dropped inside its cells, by a locked mask for each gate. Raises ConfigError."""
    if not dropout.get("per_gate"):
        return False
    locked = dropout.get("kind", "locked") == "locked"
    if not dropout.get("state") and not (locked and (dropout.get("input") or dropout.get("hidden"))):
        raise ConfigError("model.dropout.per_gate=true does nothing without state, or input or hidden with kind=locked")
    return locked
