"""Whether a run diverges: its training loss is above where it began, or has grown tenfold."""

from __future__ import annotations

import math

SMOOTHING = 0.3  # share of the newest value in the mean that is watched: one odd interval is no divergence
ABOVE = 0.05  # so much of the first loss must it be above it, or a model that learns nothing would seem to diverge
GROWTH = 10.0


class Divergence:
    """Watches the loss of each log interval; `reason` says why a run diverges, and is empty while it does not."""

    def __init__(self) -> None:
        self.first = self.recent = self.lowest = math.nan
        self.reason = ""

    def begin(self, loss: float) -> None:
        """Take the loss before anything was learned."""
        self.first = self.recent = self.lowest = loss

    def observe(self, loss: float, warming_up: bool) -> None:
        """Take the mean loss of the next log interval; in a warm-up a loss may rise above where it began."""
        if math.isnan(self.first):
            self.begin(loss)
        self.recent += SMOOTHING * (loss - self.recent)
        self.lowest = min(self.lowest, self.recent)
        high = min(loss, self.recent)
        above = high > self.first + ABOVE * abs(self.first)
        # Of a loss that is almost 0, as in a task that is solved, ten times as much is still almost 0.
        grown = high > GROWTH * self.lowest > 0 and high > self.first / GROWTH
        if above and not warming_up:
            self.reason = f"the training loss is {loss:.3g}, above the {self.first:.3g} that it began with"
        elif grown:
            self.reason = f"the training loss is {loss:.3g}, and was {self.lowest:.3g}"
        else:
            self.reason = ""
