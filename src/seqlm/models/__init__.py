"""Models: from tokens to predictions."""

from .cloze_model import ClozeModel
from .conditional import ConditionalModel, build_conditional_model, one_vector
from .decoder import Decoder
from .heads import CRFHead, TagHead
from .label_head import JointHead, LabelHead
from .language_model import BidirectionalLanguageModel, LanguageModel
from .presets import build_bidirectional_language_model, build_cloze_model, build_language_model
from .sequence_model import SequenceModel, build_sequence_model
from .stack import build_stack, cells_of

__all__ = [
    "BidirectionalLanguageModel",
    "CRFHead",
    "ClozeModel",
    "ConditionalModel",
    "Decoder",
    "JointHead",
    "LabelHead",
    "LanguageModel",
    "SequenceModel",
    "TagHead",
    "build_bidirectional_language_model",
    "build_cloze_model",
    "build_conditional_model",
    "build_language_model",
    "build_sequence_model",
    "build_stack",
    "cells_of",
    "one_vector",
]
