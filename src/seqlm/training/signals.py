"""Ctrl-C and SIGTERM: the first asks to stop at the next good moment, the second leaves at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopSignal:
    """Context manager; `number` becomes the signal's number once one has arrived, else stays 0."""

    HANDLED = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            self._before = {number: signal.signal(number, self._handle) for number in self.HANDLED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number:  # the second one: as before, so that an interrupt is an exception and a notebook lives on
            signal.signal(number, self._before[number] or signal.SIG_DFL)
            signal.raise_signal(number)
        self.number = number
