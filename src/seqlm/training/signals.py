"""Signals that ask a run to stop: it saves at the next good moment and leaves."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """A signal ended a command where it stood, as Ctrl-C does: all that it held is cleared on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopSignal:
    """Context manager; `number` becomes the signal's number once one has arrived, else stays 0.

    Asked to stop by Ctrl-C, `kill`, a terminal that is closed, and what batch systems send before time is up. A second
    one from the keyboard leaves at once; any other second one changes nothing: SIGXCPU comes every second, and
    `timeout` sends its signal twice.
    """

    HANDLED: tuple[signal.Signals, ...] = (
        signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU,
    )  # fmt: skip
    KEYBOARD = (signal.SIGINT, signal.SIGQUIT)

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            for number in self.HANDLED:
                if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:  # nohup
                    continue
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not installed by Python

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.number:
            self.number = number
        elif number in self.KEYBOARD:  # as before: an interrupt is an exception, and a notebook lives on
            signal.signal(number, self._before[number] or signal.SIG_DFL)
            signal.raise_signal(number)


class LeaveOnSignal(StopSignal):
    """Context manager of a whole command: a signal that would kill it raises Interrupted instead.

    So locks are released and files written aside are deleted in every phase: loading, compiling, encoding, scoring.
    Training puts StopSignal in its place, from before its first step to after its last line.
    """

    HANDLED = tuple(number for number in StopSignal.HANDLED if number != signal.SIGINT)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.number:
            self.number = number
            raise Interrupted(number)
        super()._handle(number, frame)
