"""Recurrent cells: one file each, all with the interface of `Cell`."""

from .base import Carry, Cell, GatedCell, Hidden, carry_tensors, detach, map_carry, require_positive
from .elman import ElmanCell
from .gru import GRUCell
from .jordan import JordanCarry, JordanCell
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
    "carry_tensors",
    "detach",
    "map_carry",
    "require_positive",
]
