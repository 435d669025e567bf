"""The models that `model=` presets describe for texts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch

from ..cells import Cell, require_positive, require_probability
from ..engines import Engine
from ..errors import ConfigError
from .cloze_model import ClozeModel
from .language_model import BidirectionalLanguageModel, LanguageModel
from .stack import Dropouts, LayerSpec, build_stack, drops_gatewise


def build_language_model(
    *,
    vocab_size: int,
    cell: Callable[..., Cell],
    hidden_size: int,
    num_layers: int = 1,
    embedding_size: int | None = None,
    layers: list[LayerSpec] | None = None,
    predicts: Literal["next", "both", "masked"] = "next",
    bidirectional: bool = False,
    residual: bool = False,
    skip_sum: bool = False,
    tied: bool = False,
    projection: bool = False,
    softmaxes: int = 1,
    cutoffs: list[int] | None = None,
    div_value: float = 4.0,
    dropout: Dropouts | None = None,
    init_range: float | None = None,
    num_params: int | str | None = None,
    engine: Engine = "auto",
) -> LanguageModel | BidirectionalLanguageModel | ClozeModel:
    """The model of texts that a `model=` preset describes; `cell` is a class or factory called with its sizes.

    `predicts` next: a LanguageModel, the next token | both: a BidirectionalLanguageModel, the next one and by a second
    stack the one before | masked: a ClozeModel, masked tokens from both sides.
    `embedding_size` is `hidden_size` unless given. With `num_params` (24_000_000, "24M", "500k") the hidden size is the
    largest whose model has no more parameters than that. Messages speak of `model.` keys.
    """
    if num_params is not None:
        given = dict(locals())
        given |= {"num_params": None, "engine": "scan"}
        if layers is not None:
            raise ConfigError(
                "model.num_params solves one hidden size for all layers; use model.num_layers, not layers"
            )
        if tied and not projection and softmaxes == 1 and embedding_size is not None:
            raise ConfigError(
                f"model.num_params solves a hidden size that model.tied=true wants to equal model.embedding_size="
                f"{embedding_size}; use model.embedding_size=null, or model.projection=true to map one to the other"
            )

        def count(size: int) -> int:
            with torch.device("meta"):
                sized = build_language_model(**{**given, "hidden_size": size})
            return sum(parameter.numel() for parameter in sized.parameters())

        # A cluster of an adaptive softmax has 1 feature at least.
        least = (
            1 if cutoffs is None or (projection and embedding_size) else math.ceil(max(1, div_value) ** len(cutoffs))
        )
        hidden_size = solve_size(count, budget(num_params), least)
    embedding_size = hidden_size if embedding_size is None else embedding_size
    require_positive(hidden_size=hidden_size, embedding_size=embedding_size, num_layers=num_layers, softmaxes=softmaxes)
    if bidirectional and predicts != "masked":
        raise ConfigError(
            "model.bidirectional=true cannot be a language model: the backward half sees the token to be predicted; "
            "use model.bidirectional=false, or task=bilm model=bilm (two language models, one in each direction), or "
            "task=cloze model=cloze (masked tokens, seen from both sides)"
        )
    drop: Dropouts = {"kind": "locked", **(dropout or {})}
    for place in ("embedding", "input", "hidden", "output", "latent"):
        require_probability(f"dropout.{place}", drop.get(place, 0.0))  # type: ignore[arg-type]
    stacked = partial(
        build_stack,
        input_size=embedding_size,
        cell=cell,
        hidden_size=hidden_size,
        num_layers=num_layers,
        layers=layers,
        bidirectional=bidirectional,
        residual=residual,
        skip_sum=skip_sum,
        dropout=drop,
        engine=engine,
    )
    stack = stacked()
    if tied and not projection and softmaxes == 1 and cutoffs is None and stack.output_size != embedding_size:
        raise ConfigError(
            f"model.tied=true needs equal widths, but model.embedding_size={embedding_size} and the last layer has "
            f"{stack.output_size}; set model.embedding_size={stack.output_size}, or model.projection=true to map one "
            "to the other"
        )
    options: dict[str, Any] = {
        "tied": tied,
        "projection": projection,
        "softmaxes": softmaxes,
        "latent_dropout": drop.get("latent", 0.0),
        "cutoffs": cutoffs,
        "div_value": div_value,
        "embedding_dropout": drop.get("embedding", 0.0),
        "embedding_tied": drop.get("embedding_tied", False),
        "input_dropout": 0.0 if drops_gatewise(drop) else drop.get("input", 0.0),
        "output_dropout": drop.get("output", 0.0),
        "dropout_kind": drop["kind"],
        "init_range": init_range,
    }
    if predicts == "masked":
        return ClozeModel(vocab_size, stack, **options)
    forward = LanguageModel(vocab_size, stack, **options)
    if predicts == "next":
        return forward
    return BidirectionalLanguageModel(forward, LanguageModel(vocab_size, stacked(), **options))


def budget(text: int | str) -> int:
    """A number of parameters as people write it: 24000000, "24M", "1.5M", "500k". Raises ConfigError."""
    units = {"k": 1e3, "M": 1e6, "G": 1e9}
    try:
        number, unit = (text[:-1], units[text[-1]]) if isinstance(text, str) and text[-1:] in units else (text, 1)
        return round(float(number) * unit)
    except ValueError:
        raise ConfigError(f"model.num_params={text} should be a number, as 24M, 500k or 1000000") from None


def solve_size(count: Callable[[int], int], most: int, least: int = 1) -> int:
    """The largest size >= least with count(size) <= most, for a count that rises with it."""
    if count(least) > most:
        raise ConfigError(
            f"model.num_params={most} is too small: with hidden size {least} there are {count(least):,} parameters"
        )
    low, high = least, 2 * least
    while count(high) <= most:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= most else (low, middle)
    return low
