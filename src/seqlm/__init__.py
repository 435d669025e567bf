"""seqlm: recurrent language models, trained, resumed, evaluated and sampled from Hydra configs.

Names are loaded when first used, so that the command line answers before torch is imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import evaluate, generate, load_scorer, resume, train
    from .cells import Cell, ElmanCell, GatedCell, GRUCell, JordanCell, LinearCell, LSTMCell, detach
    from .errors import ConfigError, SeqlmError
    from .layers import Bidirectional, LockedDropout, Recurrent, Stack, scan
    from .models.language_model import LanguageModel
    from .runs.load import LoadedRun, load_run
    from .training.callbacks import Callback, StopTraining
    from .training.loggers.base import Logger

_HOME = {
    "api": ("evaluate", "generate", "load_scorer", "resume", "train"),
    "runs.load": ("LoadedRun", "load_run"),
    "cells": ("Cell", "ElmanCell", "GRUCell", "GatedCell", "JordanCell", "LSTMCell", "LinearCell", "detach"),
    "errors": ("ConfigError", "SeqlmError"),
    "layers": ("Bidirectional", "LockedDropout", "Logger", "Recurrent", "Stack", "scan"),
    "models.language_model": ("LanguageModel",),
    "training.callbacks": ("Callback", "StopTraining"),
    "training.loggers.base": ("Logger",),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Bidirectional", "Callback", "Cell", "ConfigError", "ElmanCell", "GRUCell", "GatedCell", "JordanCell", "LSTMCell",
    "LanguageModel", "LinearCell", "LoadedRun", "LockedDropout", "Logger", "Recurrent", "SeqlmError", "Stack",
    "StopTraining", "detach", "evaluate", "generate", "load_run", "load_scorer", "resume", "scan", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'seqlm' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
