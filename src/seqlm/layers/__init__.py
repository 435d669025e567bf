"""Time, depth and dropout around cells."""

from ..engines.scan import scan
from .crf import LinearChainCRF
from .dropout import DropoutKind, LockedDropout, StandardDropout, WordEmbedding, make_dropout
from .mixture import Mixture, mixture_cross_entropy, mixture_log_probabilities
from .recurrent import Bidirectional, Layer, Recurrent, Stack, turned
from .softmax import linear_cross_entropy

__all__ = [
    "Bidirectional",
    "DropoutKind",
    "Layer",
    "LinearChainCRF",
    "LockedDropout",
    "Mixture",
    "Recurrent",
    "Stack",
    "StandardDropout",
    "WordEmbedding",
    "linear_cross_entropy",
    "make_dropout",
    "mixture_cross_entropy",
    "mixture_log_probabilities",
    "scan",
    "turned",
]
