"""A logger behind a queue: the training never waits for a network, and never ends because of one."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Full, Queue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...config.metrics import Metric
from .base import Logger, Opening

MOST_WAITING = 10_000  # calls that a logger may be behind
LEAVE_SECONDS = 30.0  # that the end of a run waits for what is left
LONGEST = 120  # characters of an error that are shown
CREDENTIALS = re.compile(r"//[^/\s@]+@")  # in the address of a server


class Background(Logger):
    """Calls a logger in a thread, in order. One that fails is named once, in a line, and gets nothing more.

    Args:
        name: of the logger in messages.
        logger: that is called.
        write: prints where the run can be seen.
        warn: prints why it can be seen there no more.
    """

    def __init__(self, name: str, logger: Logger, write: Callable[[str], None], warn: Callable[[str], None]) -> None:
        self._name, self._logger, self._write, self._warn = name, logger, write, warn
        self._calls: Queue[tuple[Callable[..., Any], tuple[Any, ...]]] = Queue(MOST_WAITING)
        self.x_axis = logger.x_axis
        self._left = False  # whether nothing more is sent: it has failed, or the run has ended
        # A daemon: a call that never returns does not keep the process.
        self._thread = threading.Thread(target=self._work, name=f"logger {name}", daemon=True)

    def open(self, opening: Opening) -> str | None:
        """Start the thread, which opens the logger first of all."""
        self._later(self._logger.open, opening)
        self._thread.start()
        return None

    def watch(self, folder: Path) -> str | None:
        """The command of the logger, which is not called for it while it works."""
        return self._logger.watch(folder)

    def metrics(self, metrics: Mapping[str, Metric]) -> None:
        """Pass on."""
        self._later(self._logger.metrics, metrics)

    def hparams(self, values: Mapping[str, Any]) -> None:
        """Pass on."""
        self._later(self._logger.hparams, values)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Pass on."""
        self._later(self._logger.scalars, step, dict(values))

    def text(self, tag: str, text: str, step: int) -> None:
        """Pass on."""
        self._later(self._logger.text, tag, text, step)

    def picture(self, tag: str, pixels: NDArray[np.uint8], step: int) -> None:
        """Pass on."""
        self._later(self._logger.picture, tag, pixels, step)

    def histogram(self, tag: str, values: NDArray[np.float32], step: int) -> None:
        """Pass on."""
        self._later(self._logger.histogram, tag, values, step)

    def back_to(self, step: int) -> None:
        """Pass on."""
        self._later(self._logger.back_to, step)

    def flush(self) -> None:
        """Pass on; a checkpoint does not wait for it."""
        self._later(self._logger.flush)

    def close(self, status: str) -> None:
        """Pass on, and wait a while until all is sent."""
        self._later(self._close, status)
        self._thread.join(LEAVE_SECONDS)
        if self._thread.is_alive() and not self._left:
            self._left = True
            self._warn(f"logger {self._name}: not everything was taken within {LEAVE_SECONDS:g} s; the rest is left")

    def _close(self, status: str) -> None:
        self._logger.close(status)
        self._left = True

    def _later(self, method: Callable[..., Any], *arguments: Any) -> None:
        if not self._left:
            try:
                self._calls.put_nowait((method, arguments))
            except Full:
                self._leave(f"is {MOST_WAITING:,} calls behind")

    def _work(self) -> None:
        while not self._left:
            method, arguments = self._calls.get()
            try:
                seen = method(*arguments)
            except (Exception, SystemExit) as error:
                if not self._left:
                    lines = str(error).strip().splitlines()
                    self._leave(": ".join([type(error).__name__, *lines[:1]]))
                return
            if seen is not None:
                self._write(f"{self._name}  {seen}")

    def _leave(self, why: str) -> None:
        """Send nothing more, and say why."""
        self._left = True
        why = CREDENTIALS.sub("//***@", why)
        self._warn(f"logger {self._name}: {why[:LONGEST]}; nothing more is sent to it, the training continues")
