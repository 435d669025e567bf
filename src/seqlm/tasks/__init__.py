"""Tasks: loss and metrics of one kind of problem."""

from .base import Score, Task
from .classification import Classification
from .examples import ExampleTask
from .generation import check_prompt, draw, generate
from .joint import Joint
from .lm import LanguageModeling, perplexity
from .tagging import Tagging

__all__ = [
    "Classification",
    "ExampleTask",
    "Joint",
    "LanguageModeling",
    "Score",
    "Tagging",
    "Task",
    "check_prompt",
    "draw",
    "generate",
    "perplexity",
]
