"""Activations by name, for cells that let the user choose one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Activation = Literal["tanh", "relu", "sigmoid", "identity"]


def _identity(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": _identity,
}


def activation_named(argument: str, name: str) -> Callable[[Tensor], Tensor]:
    """The function called `name`; raises ValueError naming the `argument` it was given for."""
    if name not in ACTIVATIONS:
        raise ValueError(f"{argument}={name!r} is unknown; allowed: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
