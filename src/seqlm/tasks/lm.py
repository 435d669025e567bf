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

    Wants a causal model (a bidirectional one is refused when it is built). While training two penalties, in nats per
    token, may be added: `activation_penalty` * mean(m * y)^2 on the outputs y of the last layer with their
    dropout mask m, and `temporal_penalty` * mean (y_t - y_{t-1})^2 on the same outputs without it; means over steps,
    columns and units (AR and TAR; S. Merity et al., arXiv 1708.01009).
    """

    def __init__(self, *, activation_penalty: float = 0.0, temporal_penalty: float = 0.0) -> None:
        for name, value in {"activation_penalty": activation_penalty, "temporal_penalty": temporal_penalty}.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value} must be at least 0")
        self.activation_penalty, self.temporal_penalty = activation_penalty, temporal_penalty

    def objective(self, model: LanguageModel, window: Window, carry: Carry) -> tuple[Carry, Tensor, Tensor | None]:
        """Read a window to learn from it: (carry, summed nats, penalty in nats per token or None)."""
        reading = model.read(window.inputs, carry)
        nats, penalty = model.score(reading, window.targets, ignore_index=IGNORE), None
        if self.activation_penalty:
            penalty = self.activation_penalty * reading.dropped.float().pow(2).mean()
        if self.temporal_penalty and len(reading.top) > 1:
            change = self.temporal_penalty * reading.top.float().diff(dim=0).pow(2).mean()
            penalty = change if penalty is None else penalty + change
        return reading.carry, nats, penalty

    def nats(self, model: LanguageModel, window: Window, carry: Carry) -> tuple[Carry, Tensor]:
        """Read a window: (carry, summed nats of its targets, a scalar in float32)."""
        return model.nats(window.inputs, window.targets, carry, ignore_index=IGNORE)

    def metrics(self, score: Score, counts: Counts | None = None) -> dict[str, float]:
        """loss (nats per token), ppl, and for a whole split bpc: bits per character of its text."""
        values = {"loss": score.loss, "ppl": perplexity(score.nats, score.tokens)}
        if counts is not None:
            values["bpc"] = score.nats / math.log(2) / counts.characters
        return values
