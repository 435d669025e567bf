"""Time, depth and dropout around cells."""

from ..engines.scan import scan
from .dropout import DropoutKind, LockedDropout, StandardDropout, WordEmbedding, make_dropout, require_probability
from .recurrent import Bidirectional, Layer, Recurrent, Stack

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
