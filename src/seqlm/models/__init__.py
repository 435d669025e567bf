"""Models: what turns tokens into predictions."""

from .decoder import Decoder
from .heads import CRFHead, TagHead
from .label_head import JointHead, LabelHead
from .language_model import LanguageModel
from .presets import build_language_model
from .sequence_model import SequenceModel, build_sequence_model
from .stack import build_stack, cells_of

__all__ = [
    "CRFHead",
    "Decoder",
    "JointHead",
    "LabelHead",
    "LanguageModel",
    "SequenceModel",
    "TagHead",
    "build_language_model",
    "build_sequence_model",
    "build_stack",
    "cells_of",
]
