"""Time, depth and dropout around cells."""

from .dropout import DropoutKind, LockedDropout, StandardDropout, WordEmbedding, make_dropout, require_probability
from .recurrent import Bidirectional, Layer, Recurrent, Stack
from .scan import scan

__all__ = [
    "Bidirectional",
    "DropoutKind",
    "Layer",
    "LockedDropout",
    "Recurrent",
    "Stack",
    "StandardDropout",
    "WordEmbedding",
    "make_dropout",
    "require_probability",
    "scan",
]
