"""How many threads a loop takes whose threads wait for each other at every step.

compiled_loop -> [pace]
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

LEAST_TIMED = 64  # steps of a chunk that are worth timing
RETRY = 48  # chunks after which the other number of threads is tried again


class Pace:
    """How many threads meet at every step: all, or one while others use the machine, whichever was faster of late.

    Beside a busy process, threads that wait for each other every few microseconds are slower than one of them. The
    results are the same to the bit.
    """

    def __init__(self, most: int) -> None:
        self.most, self.calls = most, 0
        self.seconds: dict[int, float] = {}  # a step, by threads

    @contextmanager
    def threads(self, steps: int) -> Iterator[int]:
        """The number of threads for so many steps, which are timed."""
        if self.most == 1 or steps < LEAST_TIMED:
            yield self.most
            return
        self.calls += 1
        best = min(self.seconds, key=self.seconds.__getitem__, default=self.most)
        count = (1 if best > 1 else self.most) if self.calls % RETRY == 0 else best
        started = time.perf_counter()
        yield count
        spent = (time.perf_counter() - started) / steps
        known = self.seconds.get(count, spent) if count == best else spent
        self.seconds[count] = 0.7 * known + 0.3 * spent
