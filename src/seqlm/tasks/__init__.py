"""Tasks: loss and metrics of one kind of problem."""

from .lm import LanguageModeling, Score, perplexity

__all__ = ["LanguageModeling", "Score", "perplexity"]
