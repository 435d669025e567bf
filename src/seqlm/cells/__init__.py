"""Recurrent cells: one file each, all with the interface of `Cell`.

YAML names a cell by its file, so that a new one needs no line here.
"""

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
    padding_mask,
    require_positive,
    state_after,
)
from .dropout import RecurrentDropout, RecurrentOptions, dropout_mask, require_probability
from .elman import ElmanCell
from .feed_forward import FeedForwardCell
from .gru import GRUCell
from .jordan import JordanCarry, JordanCell
from .layer_norm_gru import LayerNormGRUCell
from .layer_norm_lstm import LayerNormLSTMCell
from .linear import LinearCell
from .lstm import LSTMCarry, LSTMCell
from .min_gru import MinGRUCell
from .min_lstm import MinLSTMCell
from .mogrifier_lstm import MogrifierLSTMCell
from .peephole import PeepholeLSTMCell
from .qrnn import QRNNCell
from .rhn import RHNCell

__all__ = [
    "Carry", "Cell", "ElmanCell", "FeedForwardCell", "GRUCell", "GatedCell", "Hidden", "JordanCarry", "JordanCell",
    "LSTMCarry", "LSTMCell", "LayerNormGRUCell", "LayerNormLSTMCell", "LinearCell", "MinGRUCell", "MinLSTMCell",
    "MogrifierLSTMCell", "PeepholeLSTMCell", "QRNNCell", "RHNCell", "Recurrence", "RecurrentDropout",
    "RecurrentOptions", "Step", "carry_tensors", "detach", "drop_state", "dropout_mask", "map_carry", "padding_mask",
    "require_positive", "require_probability", "state_after",
]  # fmt: skip
