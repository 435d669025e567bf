"""Diagnoses while a language model trains, for its loggers: `diagnose.every`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..config.values import verb_config
from ..config.verb_schema import DiagnoseConfig
from ..data.dataset import Data
from ..diagnose.diagnosis import check_length, language_model, look, tokens_of
from ..diagnose.figures import PANELS, pixels_of
from ..errors import ConfigError
from ..tasks.base import Task
from ..terminal import status
from .loggers.run_logger import RunLogger

if TYPE_CHECKING:
    from .session import Progress

SMALL = ["times=4", "rows=8", "context=64", "places=128"]  # of what `seqlm diagnose` does: a second or two


class Diagnosing:
    """Looks at the present weights on the beginning of valid every `diagnose.every` steps.

    It draws nothing, so that a run has the same bits with and without it. Raises ConfigError for a task without losses
    of next tokens, and for a text that is too short.

    Args:
        every: so many steps; None: never
        task: of the run
        model: that it trains
        data: whose valid is read
        device: of the model
    """

    def __init__(self, every: int | None, task: Task, model: nn.Module, data: Data, device: torch.device) -> None:
        self.every = every
        if every is None:
            return
        self.options = verb_config("diagnose", DiagnoseConfig, SMALL)
        try:
            self.model = language_model(task, model, "this")
            self.tokens = tokens_of(data, self.options).to(device)
            check_length(self.tokens, self.options)
        except ConfigError as error:
            raise ConfigError(f"diagnose.every={every}: {error}") from error

    def after_step(self, progress: Progress, logger: RunLogger, write: Callable[[str], None]) -> None:
        """Log numbers, and pictures where matplotlib is installed, if they are due; `write` prints a note if not."""
        if self.every is None or progress.step % self.every:
            return
        training = self.model.training
        with status("diagnosing"):
            found = look(self.model, self.tokens, self.options)
        self.model.train(training)
        logger.scalars(progress.step, progress.tokens, progress.seconds, _numbers(found))
        try:
            for name in (name for name in PANELS if found.get(name)):
                logger.picture(f"diagnose/{name}", partial(pixels_of, found, name), progress.step, progress.tokens)
        except ConfigError as error:
            write(f"note: {error}")


def _numbers(found: Mapping[str, Any]) -> dict[str, float]:
    """By tag: the context that is used, shares of the gradient that are left, spectral radii, and stuck gates."""
    values = {"diagnose/context": float(found["context"]["effective"])}
    for one in found["gradients"]:
        left = one["median"][-1] / one["start"] if one["start"] else 0.0
        values[f"diagnose/gradient_left/layer{one['layer']}.{one['state']}"] = left
    for one in found["spectra"]:
        values[f"diagnose/radius/layer{one['layer']}.{one['name']}"] = one["radius"]
    for one in found["gates"]:
        values[f"diagnose/stuck/layer{one['layer']}.{one['name']}"] = one["closed"] + one["open"]
    return values
