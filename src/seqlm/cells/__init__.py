"""Recurrent cells: one file each, all with the interface of `Cell`."""

import inspect
import pkgutil
from importlib import import_module

from .base import (
    Carry,
    Cell,
    GatedCell,
    Hidden,
    Recurrence,
    Step,
    carry_tensors,
    detach,
    drop_state,
    map_carry,
    require_positive,
)
from .dropout import RecurrentDropout, dropout_mask, require_probability
from .elman import ElmanCell
from .gru import GRUCell
from .jordan import JordanCarry, JordanCell
from .linear import LinearCell
from .lstm import LSTMCarry, LSTMCell

__all__ = [
    "Carry",
    "Cell",
    "ElmanCell",
    "GRUCell",
    "GatedCell",
    "Hidden",
    "JordanCarry",
    "JordanCell",
    "LSTMCarry",
    "LSTMCell",
    "LinearCell",
    "Recurrence",
    "RecurrentDropout",
    "Step",
    "carry_tensors",
    "detach",
    "drop_state",
    "dropout_mask",
    "map_carry",
    "require_positive",
    "require_probability",
]

# The cells of every other file in this folder: a new one needs no line here.
for _file in pkgutil.iter_modules(__path__):
    for _name, _class in inspect.getmembers(import_module(f"{__name__}.{_file.name}"), inspect.isclass):
        if issubclass(_class, Cell) and _class.__module__ == f"{__name__}.{_file.name}" and _name not in __all__:
            globals()[_name] = _class
            __all__ += [_name]
