"""Tasks: loss and metrics of one kind of problem."""

from .base import Score, Task
from .bilm import BidirectionalLanguageModeling
from .classification import Classification
from .cloze import Cloze
from .conditional import Conditional
from .examples import ExampleTask
from .generation import check_prompt, draw, generate
from .joint import Joint
from .lm import LanguageModeling
from .penalties import ActivationPenalty, Penalty, TemporalPenalty
from .seq2seq import Seq2Seq
from .tagging import Tagging
from .text import TextTask, perplexity

__all__ = [
    "ActivationPenalty",
    "BidirectionalLanguageModeling",
    "Classification",
    "Cloze",
    "Conditional",
    "ExampleTask",
    "Joint",
    "LanguageModeling",
    "Penalty",
    "Score",
    "Seq2Seq",
    "Tagging",
    "Task",
    "TemporalPenalty",
    "TextTask",
    "check_prompt",
    "draw",
    "generate",
    "perplexity",
]
