"""A language model read token by token, with every carry at hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..cells import Carry, Cell
from ..layers import exact
from ..models.language_model import LanguageModel
from ..models.stack import cells_of

SIGMOIDS = {torch.Tensor.sigmoid, torch.sigmoid, nn.functional.sigmoid}


class Unrolled(NamedTuple):
    """Carries after each of T steps, and the outputs (B, H) of the last layer."""

    carries: list[Carry]
    tops: list[Tensor]


def unroll(model: LanguageModel, tokens: Tensor) -> Unrolled:
    """Read tokens (T, B) one step at a time from the zero carry; no mask is drawn in eval mode."""
    carry = model.init_carry(tokens.shape[1])
    step, carries, tops = model.stack.bind(carry), [], []
    for words in tokens:
        carry, top = step(carry, model.embed(words, None))
        carries.append(carry)
        tops.append(top)
    return Unrolled(carries, tops)


def named_states(model: LanguageModel) -> list[tuple[int, str, Cell]]:
    """Layer, name and cell of each tensor of the carry, in the order of `carry_tensors`."""
    return [
        (layer, state, cell)
        for layer, cell in enumerate(cells_of(model))
        for state in getattr(cell.init_carry(1), "_fields", ("h",))
    ]


def nll_of_each(model: LanguageModel, top: Tensor, targets: Tensor) -> Tensor:
    """Nats of each of targets (B), behind outputs (B, H) of the last layer."""
    ys = top if model.projection is None else model.projection(top)
    logits = model.decoder.logits(model.decoder.features(ys.unsqueeze(0)))[0]
    return -exact(logits).log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


class GateRecord(TorchFunctionMode):
    """Keeps what every sigmoid of a step gives, in the order in which a cell computes them.

    A gate is thus seen as the cell computes it, whatever its author wrote: `Cell.gate_names` says which is which.
    """

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in SIGMOIDS:
            self.values.append(result)
        return result


@contextmanager
def recorded(cells: Sequence[Cell]) -> Iterator[list[list[Tensor]]]:
    """While it lasts, the sigmoids of every call of a cell's step are kept: a list for each cell, (B, H) a gate."""
    kept: list[list[Tensor]] = [[] for _ in cells]

    def watched(function: Any, index: int, size: int) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            with GateRecord() as record:
                result = function(*args, **options)
            for value in record.values:
                if value.shape[-1] % size == 0:
                    kept[index] += [part.detach() for part in value.reshape(-1, value.shape[-1]).split(size, -1)]
            return result

        return call

    binds = [cell.bind for cell in cells]
    try:
        for index, (cell, bind) in enumerate(zip(cells, binds, strict=True)):
            size = getattr(cell, "hidden_size", cell.output_size)

            def bound(carry: Carry, bind: Any = bind, index: int = index, size: int = size) -> Any:
                return watched(bind(carry), index, size)

            cell.bind = bound  # type: ignore[method-assign]
        yield kept
    finally:
        for cell in cells:
            del cell.bind
