"""Models: what turns tokens into predictions."""

from .language_model import LanguageModel, build_language_model, build_stack, cells_of

__all__ = ["LanguageModel", "build_language_model", "build_stack", "cells_of"]
