"""The clock and the signals that all ranks go by, so that they decide alike what comes next."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .signals import StopSignal

if TYPE_CHECKING:
    from .session import Progress, Session


class Agreement:
    """The time on rank 0's clock, the highest signal that any rank was sent, and whether a callback has ended the run.

    Nothing of it changes but in `update`, which all ranks call at the same moments of the loop: between two of them
    every rank comes to the same decisions, and none waits for one that has left. In one process it is what it reads.

    Attributes: `signal`, the number of a signal to stop, or 0; `save_is_late`: `checkpoint.minutes` have passed since
    the last checkpoint. The time is in `progress.seconds`, the end by a callback in `session.callbacks.stopped`.
    """

    def __init__(self, session: Session, progress: Progress, stop: StopSignal) -> None:
        self.session, self.progress, self.stop = session, progress, stop
        self.signal, self.save_is_late = 0, False
        self._started, self._seconds_before = time.perf_counter(), progress.seconds
        self._saved = time.monotonic()

    def update(self) -> None:
        """Read clock and signals, and agree on them."""
        ranks, progress, callbacks = self.session.ranks, self.progress, self.session.callbacks
        clock = [self.elapsed(), progress.evaluation_seconds, self._save_is_late()] if ranks.leads else [0.0, 0.0, 0.0]
        numbers = ranks.highest([*clock, self.stop.number, callbacks.stopped is not None])
        progress.seconds, progress.evaluation_seconds, late, signal, ended = numbers
        self.save_is_late, self.signal = bool(late), int(signal)
        if ended and callbacks.stopped is None:
            callbacks.stopped = "a callback on another rank"
        if not ranks.leads:
            self._started, self._seconds_before = time.perf_counter(), progress.seconds

    def elapsed(self) -> float:
        """Seconds of training, those before this process included."""
        return self._seconds_before + time.perf_counter() - self._started

    def time_is_up(self) -> bool:
        """Whether train.minutes have passed by now."""
        minutes = self.session.config.train.minutes
        return minutes is not None and self.elapsed() >= 60 * minutes

    def saved(self) -> None:
        """A checkpoint was written now."""
        self._saved = time.monotonic()

    def _save_is_late(self) -> bool:
        minutes = self.session.config.checkpoint.minutes
        return minutes is not None and time.monotonic() - self._saved >= 60 * minutes
