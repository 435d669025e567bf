"""Tasks: loss and metrics of one kind of problem."""

from .base import Score, Task
from .classification import Classification
from .examples import ExampleTask
from .generation import check_prompt, draw, generate
from .joint import Joint
from .lm import LanguageModeling, perplexity
from .seq2seq import Seq2Seq
from .tagging import Tagging

__all__ = [
    "Classification",
    "ExampleTask",
    "Joint",
    "LanguageModeling",
    "Score",
    "Seq2Seq",
    "Tagging",
    "Task",
    "check_prompt",
    "draw",
    "generate",
    "perplexity",
]
