"""Models: what turns tokens into predictions."""

from .decoder import Decoder
from .heads import CRFHead, TagHead
from .label_head import JointHead, LabelHead
from .language_model import LanguageModel, build_language_model, build_stack, cells_of
from .sequence_model import SequenceModel, build_sequence_model

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
