"""Time, depth and dropout around cells."""

from ..engines.scan import scan
from .dropout import DropoutKind, LockedDropout, StandardDropout, WordEmbedding, drop_state, make_dropout
from .recurrent import Bidirectional, Layer, Recurrent, Stack
from .softmax import linear_cross_entropy

__all__ = [
    "Bidirectional",
    "DropoutKind",
    "Layer",
    "LockedDropout",
    "Recurrent",
    "Stack",
    "StandardDropout",
    "WordEmbedding",
    "drop_state",
    "linear_cross_entropy",
    "make_dropout",
    "scan",
]
