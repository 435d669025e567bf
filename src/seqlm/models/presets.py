"""Builders of the models of texts that `model=` presets describe."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from ..cells import require_positive
from ..errors import ConfigError
from ..layers import OutputLayer, Softmax
from .cloze_model import ClozeModel
from .language_model import BidirectionalLanguageModel, LanguageModel
from .stack import Dropouts, build_stack, delegates
from .text_model import TextModel, projects

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T", bound=TextModel)


@delegates(build_stack)
def text_model(
    kind: type[T],
    *,
    vocab_size: int,
    hidden_size: int,
    embedding_size: int | None = None,
    output: Callable[..., OutputLayer] = Softmax,
    tied: bool = False,
    projection: bool = False,
    dropout: Dropouts | None = None,
    init_range: float | None = None,
    **stack_options: Any,
) -> T:
    """Build a stack, and a model of this kind around it. Messages speak of `model.` keys.

    Args:
        embedding_size: `hidden_size` unless given
        dropout: probabilities by place, of the whole model
        stack_options: those of build_stack
    """
    embedding_size = hidden_size if embedding_size is None else embedding_size
    require_positive(hidden_size=hidden_size, embedding_size=embedding_size)
    if stack_options.get("bidirectional") and kind is not ClozeModel:
        raise ConfigError(
            "model.bidirectional=true cannot be a language model: the backward half sees the token to be predicted; "
            "use model.bidirectional=false, or task=bilm model=bilm (two language models, one in each direction), or "
            "task=cloze model=cloze (masked tokens, seen from both sides)"
        )
    stack = build_stack(embedding_size, dropout or {}, hidden_size=hidden_size, **stack_options)
    return kind(
        vocab_size, stack, output=output, tied=tied, projection=projection, dropout=dropout, init_range=init_range
    )


@delegates(text_model)
def build_language_model(*, num_params: int | str | None = None, **options: Any) -> LanguageModel:
    """Build a LanguageModel, which predicts the next token.

    Args:
        num_params: (24_000_000, "24M", "500k") instead of `hidden_size`, the largest whose model has no more parameters
        options: those of text_model
    """
    return _within(num_params, partial(text_model, LanguageModel), options)


@delegates(build_language_model)
def build_bidirectional_language_model(
    *, num_params: int | str | None = None, **options: Any
) -> BidirectionalLanguageModel:
    """Build a BidirectionalLanguageModel: the next token, and by a second stack the one before."""

    def both(**options: Any) -> BidirectionalLanguageModel:
        forward, backward = (text_model(LanguageModel, **options) for _ in range(2))
        return BidirectionalLanguageModel(forward, backward)

    return _within(num_params, both, options)


@delegates(build_language_model)
def build_cloze_model(*, num_params: int | str | None = None, **options: Any) -> ClozeModel:
    """Build a ClozeModel, which predicts masked tokens from both sides."""
    return _within(num_params, partial(text_model, ClozeModel), options)


def _within(num_params: int | str | None, make: Callable[..., M], options: dict[str, Any]) -> M:
    """make(**options), with the largest hidden size that `num_params` allows, if that is given."""
    if num_params is None:
        return make(**options)
    if options.get("layers") is not None:
        raise ConfigError("model.num_params solves one hidden size for all layers; use model.num_layers, not layers")
    mapped = options.get("projection") or projects(options.get("output", Softmax))
    if options.get("tied") and not mapped and options.get("embedding_size") is not None:
        raise ConfigError(
            "model.num_params solves a hidden size that model.tied=true wants to equal model.embedding_size="
            f"{options['embedding_size']}; use model.embedding_size=null, or model.projection=true to map one to the "
            "other"
        )

    def count(size: int) -> int:
        try:
            with torch.device("meta"):
                model = make(**{**options, "hidden_size": size, "engine": "scan"})
        except (ConfigError, ValueError):
            if size > 2**16:  # not a matter of its size
                raise
            return 0
        return sum(parameter.numel() for parameter in model.parameters())

    return make(**{**options, "hidden_size": solve_size(count, budget(num_params))})


def budget(text: int | str) -> int:
    """A number of parameters as people write it: 24000000, "24M", "1.5M", "500k". Raises ConfigError."""
    units = {"k": 1e3, "M": 1e6, "G": 1e9}
    try:
        number, unit = (text[:-1], units[text[-1]]) if isinstance(text, str) and text[-1:] in units else (text, 1)
        return round(float(number) * unit)
    except ValueError:
        raise ConfigError(f"model.num_params={text} should be a number, as 24M, 500k or 1000000") from None


def solve_size(count: Callable[[int], int], most: int) -> int:
    """The largest size with count(size) <= most, for a count that rises with it and is 0 for sizes that cannot be."""
    low, high = 0, 1
    while count(high) <= most:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= most else (low, middle)
    if low == 0 or count(low) == 0:
        raise ConfigError(
            f"model.num_params={most} is too small: with hidden size {high} there are {count(high):,} parameters"
        )
    return low
