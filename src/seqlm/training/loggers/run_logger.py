"""All logs of a run: metrics.jsonl, which is ours, and every back end that the config names."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ...config.metrics import Metric
from ...files import to_json, writing
from .background import Background
from .base import Logger, Opening

P = ParamSpec("P")
R = TypeVar("R")


def _names_the_folder(method: Callable[P, R]) -> Callable[P, R]:
    """A method of RunLogger whose error names the folder where the disk is full."""

    @functools.wraps(method)
    def named(*arguments: P.args, **options: P.kwargs) -> R:
        with writing(cast("RunLogger", arguments[0]).folder):
            return method(*arguments, **options)

    return named


class RunLogger:
    """The records, texts and pictures of a run, handed to metrics.jsonl and to each of its loggers.

    Args:
        opening: the run, and where it goes on.
        loggers: back ends by name; those that are not local are called in the background.
        write: prints where the run can be seen.
        warn: prints why one of them shows it no more.
    """

    def __init__(
        self,
        opening: Opening,
        loggers: Mapping[str, Logger],
        write: Callable[[str], None] = print,
        warn: Callable[[str], None] = print,
    ) -> None:
        self.folder = opening.folder
        self._loggers = [one if one.local else Background(name, one, write, warn) for name, one in loggers.items()]
        with writing(self.folder):
            for logger in self._loggers:
                logger.open(opening._replace(step=_x(logger, opening.step, opening.tokens)))
            self._metrics = self._open_metrics()

    @_names_the_folder
    def back_to(self, step: int, tokens: int) -> None:
        """Go on from an earlier step: later points are hidden where that can be, metrics.jsonl may be another file."""
        self._metrics.close()
        for logger in self._loggers:
            logger.back_to(_x(logger, step, tokens))
        self._metrics = self._open_metrics()

    def _open_metrics(self) -> Any:
        return (self.folder / "metrics.jsonl").open("a", encoding="utf-8")

    @_names_the_folder
    def scalars(self, step: int, tokens: int, seconds: float, values: Mapping[str, float]) -> None:
        """One record: a line of metrics.jsonl, and a point for each value elsewhere."""
        record = {"step": step, "tokens": tokens, "seconds": round(seconds, 3), **values}
        self._metrics.write(to_json(record) + "\n")
        self._metrics.flush()
        for logger in self._loggers:
            logger.scalars(_x(logger, step, tokens), values)

    @_names_the_folder
    def best(self, step: int, tokens: int, name: str, value: float) -> None:
        """The best value of valid so far, which tables of runs show first: they show the last of each tag."""
        for logger in self._loggers:
            logger.scalars(_x(logger, step, tokens), {f"best/valid_{name}": value})

    @_names_the_folder
    def metrics(self, metrics: Mapping[str, Metric]) -> None:
        """The metrics of the task, by name."""
        for logger in self._loggers:
            logger.metrics(metrics)

    @_names_the_folder
    def text(self, tag: str, text: str, step: int, tokens: int) -> None:
        """A text: the configuration, a sample."""
        for logger in self._loggers:
            logger.text(tag, text, _x(logger, step, tokens))

    @_names_the_folder
    def picture(self, tag: str, picture: Callable[[], NDArray[np.uint8]], step: int, tokens: int) -> None:
        """A picture (height, width, 3), which is made only if somebody shows it."""
        if self._loggers:
            pixels = picture()
            for logger in self._loggers:
                logger.picture(tag, pixels, _x(logger, step, tokens))

    @_names_the_folder
    def histogram(self, tag: str, values: NDArray[np.float32], step: int, tokens: int) -> None:
        """How values (N) are spread."""
        for logger in self._loggers:
            logger.histogram(tag, values, _x(logger, step, tokens))

    def hparams(self, values: Mapping[str, Any]) -> None:
        """The hyper-parameters of the run."""
        for logger in self._loggers:
            logger.hparams(values)

    @_names_the_folder
    def flush(self) -> None:
        """Bring everything written so far to the disk."""
        for logger in self._loggers:
            logger.flush()
        self._metrics.flush()
        os.fsync(self._metrics.fileno())

    @_names_the_folder
    def close(self, status: str) -> None:
        """Take leave of a run with this status. All are closed, whichever of them fails."""
        with ExitStack() as stack:
            stack.callback(self._metrics.close)
            for logger in reversed(self._loggers):
                stack.callback(logger.close, status)


def _x(logger: Logger, step: int, tokens: int) -> int:
    """Where a logger draws what belongs to this step."""
    return tokens if logger.x_axis == "tokens" else step


class NoLogger(RunLogger):
    """Writes nothing: of the ranks that train a run together, rank 0 logs what all of them do."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Opening(folder), {})

    def _open_metrics(self) -> Any:
        return open(os.devnull, "a", encoding="utf-8")

    def flush(self) -> None:
        """Do nothing."""
