"""The loggers of a config, and packages that some of them need."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from ...config.build import build, check
from ...config.schema import Config
from ...errors import ConfigError, install_hint, several
from .base import Logger


def make_loggers(config: Config) -> dict[str, Logger]:
    """The loggers that a config names, none of them opened. Raises ConfigError that lists every mistake."""
    problems = []
    for name, node in config.logger.items():
        if isinstance(node, Mapping):
            problems += check(node, f"logger.{name}", trust=config.trust)
        else:
            problems.append(f"logger.{name}={node} is not a part; choose one with logger=[tensorboard,{name}]")
    if problems:
        raise several(problems)
    made = {name: build(node, f"logger.{name}", trust=config.trust) for name, node in config.logger.items()}
    for name, one in made.items():
        if not isinstance(one, Logger):
            kind = type(one).__name__
            problems.append(f"logger.{name}._target_: {kind} is no logger; derive its class from seqlm.Logger")
    if problems:
        raise several(problems)
    return made


def package(name: str) -> Any:
    """A package that an extra of the same name installs. Raises ConfigError, with the command that does."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"logger={name} needs the package {name}: {install_hint(name)}") from error
