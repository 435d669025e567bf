"""Numbers that are not finite: in weights and other tensors, and in checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import NonFiniteError
from . import checkpoint, finding

CHECKED = ("optimizer", "averaging", "carry")  # parts of a checkpoint's state that a NaN would spread from


def non_finite(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that holds NaN or infinity; None if all are finite.

    A sum is finite only if all its terms are, and to add them up is the fastest reading of a tensor: a fifth of the
    time of its norm, which the step before took of the gradient. Only where a sum is not finite, or overflows, is every
    number looked at.
    """
    tensors = [(name, one.detach()) for name, one in named if one.is_floating_point() and one.numel()]
    if not tensors or torch.stack([one.sum().float() for _, one in tensors]).isfinite().all():
        return None
    return next((name for name, one in tensors if not one.isfinite().all()), None)


def non_finite_in(weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> str | None:
    """The same of all that a checkpoint keeps and a later step is computed from."""
    parts = (_tensors(state[name], name) for name in CHECKED if name in state)
    return non_finite(chain(weights.items(), *parts))


def last_finite(folder: Path, before: float = math.inf) -> checkpoint.Checkpoint | None:
    """The newest checkpoint in `folder`, of a step below `before`, that is whole and finite; None if there is none."""
    for found in finding.whole(folder, lambda text: None):
        with suppress(checkpoint.Deleted):
            if found.step < before and non_finite_in(found.weights(), found.load_state()) is None:
                return found
    return None


def describe_last_finite(folder: Path) -> str:
    """A sentence that names the newest checkpoint that is whole and finite."""
    found = last_finite(folder)
    if found is not None:
        return f"The last finite checkpoint is of step {found.step:,} in {folder}."
    return f"No checkpoint in {folder} is finite." if checkpoint.steps(folder) else "There is no checkpoint yet."


def check_loaded(model: nn.Module, path: Path) -> None:
    """Raise NonFiniteError, which names a checkpoint that can be used, if the weights from that in `path` cannot."""
    if name := non_finite(model.named_parameters()):
        found = last_finite(path.parent)
        advice = f"use checkpoint={found.step}, the newest that is finite" if found else "no checkpoint of it is"
        raise NonFiniteError(f"the weights in {path} are not finite ({name}); {advice}")


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested mappings and lists, but single numbers such as a count of steps, by its place."""
    if isinstance(value, Tensor):
        yield from [(name, value)] if value.dim() else []
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{name}.{index}")
