"""All that the body of a cell is made from: equal cells, and equal models, share one.

fused -> [origin]
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from ..cells import GatedCell, RecurrentDropout

PLAIN = (bool, int, float, str, RecurrentDropout)  # attributes that can be compared
INTERNAL = set(vars(nn.Module()))


def origin(cell: GatedCell, compiler: str | None) -> tuple[Any, ...] | None:
    """All that a trace depends on besides its settings: code, and shapes of tensors; None if that is not known."""
    for module in cell.modules():
        for name, value in vars(module).items():
            plain = value is None or isinstance(value, (*PLAIN, tuple, list, dict, Tensor)) or callable(value)
            if name not in INTERNAL and not plain:
                return None  # an object of the author's, whose state may matter
    tensors = (*cell.named_parameters(), *cell.named_buffers())
    shapes = tuple((name, one.shape, one.dtype, one.device, one.requires_grad) for name, one in tensors)
    return (*map(type, cell.modules()), shapes, compiler, *_code(type(cell).gates), *_code(type(cell).transition))


def _code(function: Any) -> tuple[Any, ...]:
    """A function and the plain values that it reads from outside of it."""
    try:
        outside = inspect.getclosurevars(function)
    except TypeError:  # not a function of Python
        return (function,)
    names = {**outside.globals, **outside.nonlocals}
    return (function, *((name, value) for name, value in sorted(names.items()) if isinstance(value, PLAIN)))


def settings(module: nn.Module) -> tuple[Any, ...]:
    """The attributes of a module that are no tensors and may change its gates: numbers, switches, functions."""
    plain = (value for value in vars(module).values() if isinstance(value, PLAIN) or callable(value))
    public = (value for name, value in vars(module).items() if not name.startswith("_"))
    return (*plain, *(repr(value) for value in public if type(value) in (tuple, list, dict)))
