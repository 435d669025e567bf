"""Language modelling: predict the next token."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..cells import Carry
from ..data import IGNORE, Counts, Window
from ..models import LanguageModel


@dataclass
class Score:
    """Sums over target tokens; every mean is divided once, at the end."""

    nats: float = 0.0
    tokens: int = 0

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens


def perplexity(nats: float, units: int) -> float:
    """exp(nats / units); infinite, not an error, for a loss that has run away."""
    mean = nats / units
    return math.exp(mean) if mean < 700 else math.inf


class LanguageModeling:
    """Next-token prediction: loss = -sum_t ln p(w_t | w_1 .. w_{t-1}) over all targets of a window.

    Wants a causal model (a bidirectional one is refused when it is built).
    """

    def nats(self, model: LanguageModel, window: Window, carry: Carry) -> tuple[Carry, Tensor]:
        """Read a window: (carry, summed nats of its targets, a scalar in float32)."""
        return model.nats(window.inputs, window.targets, carry, ignore_index=IGNORE)

    def metrics(self, score: Score, counts: Counts | None = None) -> dict[str, float]:
        """loss (nats per token), ppl, and for a whole split bpc: bits per character of its text."""
        values = {"loss": score.loss, "ppl": perplexity(score.nats, score.tokens)}
        if counts is not None:
            values["bpc"] = score.nats / math.log(2) / counts.characters
        return values
