"""Layers around cells: time, depth, dropout, attention, the CRF, and output layers."""

from ..engines.scan import scan
from .adaptive import AdaptiveSoftmax
from .attention import Attention, Memory
from .crf import LinearChainCRF
from .dropout import DropoutKind, LockedDropout, StandardDropout, WordEmbedding, make_dropout, scale_dropout
from .mixture import Mixture, mixture_cross_entropy, mixture_log_probabilities
from .recurrent import Bidirectional, Layer, Recurrent, Stack, flip_sequences
from .softmax import Features, OutputLayer, Softmax, exact, linear_cross_entropy, target_log_probabilities

__all__ = [
    "AdaptiveSoftmax", "Attention", "Bidirectional", "DropoutKind", "Features", "Layer", "LinearChainCRF",
    "LockedDropout", "Memory", "Mixture", "OutputLayer", "Recurrent", "Softmax", "Stack", "StandardDropout",
    "WordEmbedding", "exact", "flip_sequences", "linear_cross_entropy", "make_dropout", "mixture_cross_entropy",
    "mixture_log_probabilities", "scale_dropout", "scan", "target_log_probabilities",
]  # fmt: skip
