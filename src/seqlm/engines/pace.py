"""How many threads a loop takes whose threads wait for each other at every step.

compiled_loop, native -> [pace]
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

LEAST_TIMED = 32  # steps of a chunk that are worth timing
SOON, LATE = 2, 128  # chunks after which the other number of threads is tried again: after a change, and at most


class Pace:
    """How many threads meet at every step: all, or one while others use the machine, whichever was faster of late.

    Beside a busy process, threads that wait for each other every few microseconds are slower than one of them. Of use
    where the results are the same to the bit. Once `settled`, it is all of them.
    """

    def __init__(self, most: int, *, settled: bool = False) -> None:
        self.most, self.settled = most, settled or most == 1
        self.best = most
        self.wait = self.left = SOON  # chunks between trials, and until the next one
        self.seconds: dict[int, float] = {}  # a step, by threads

    @contextmanager
    def threads(self, steps: int) -> Iterator[int]:
        """The number of threads for so many steps, which are timed."""
        if self.settled or steps < LEAST_TIMED:
            yield self.most
            return
        self.left -= 1
        tried = (1 if self.best > 1 else self.most) if self.left == 0 else self.best
        started = time.perf_counter()
        yield tried
        self._learn(tried, (time.perf_counter() - started) / steps)

    def _learn(self, tried: int, spent: float) -> None:
        known = self.seconds.get(tried, spent) if tried == self.best else spent
        self.seconds[tried] = 0.7 * known + 0.3 * spent
        best = min(self.seconds, key=self.seconds.__getitem__)
        if best != self.best:
            self.best, self.wait, self.left = best, SOON, SOON
        elif self.left == 0:
            self.wait = self.left = min(4 * self.wait, LATE)
