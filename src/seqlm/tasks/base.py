"""What the loop asks of one kind of problem."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..cells import Carry
from ..config.schema import Config, SamplingConfig
from ..data.batching.batches import Batches
from ..data.dataset import Data
from ..errors import ConfigError
from ..optim.schedules import Moment
from .figures import Heatmap


@dataclass
class Score:
    """Sums over target tokens; every mean is divided once, at the end."""

    nats: float = 0.0
    tokens: int = 0
    counts: Counter[Any] = field(default_factory=Counter)  # whatever else a task counts

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    def add(self, other: Score) -> None:
        """Add the sums of another part of the split."""
        self.nats += other.nats
        self.tokens += other.tokens
        self.counts.update(other.counts)


class Task(ABC):
    """Loss and metrics of one kind of problem: what one loop, one checkpoint and one command line do not know."""

    model: ClassVar[type[nn.Module]]  # what it can train
    carries: ClassVar[bool] = True  # columns go on from batch to batch: their number then changes what is known of each
    writes: ClassVar[bool] = False  # whether `seqlm sample` is for it
    at_test: ClassVar[tuple[str, ...]] = ()  # the options that change what a trained model says, or how it is measured
    reported: ClassVar[tuple[str, ...]] = ("ppl",)  # what tables of results show beside `judged_by`, where it is told
    judged_by: str = "loss"  # the metric that weights are chosen by; every other than the loss is better if higher

    def check(self, config: Config, model: nn.Module, data: Data) -> None:
        """Raise ConfigError for what does not go together."""
        if not isinstance(model, self.model):
            raise ConfigError(
                f"{type(self).__name__} trains a {self.model.__name__}, but this model is a {type(model).__name__}; "
                "choose another task= or model="
            )

    @abstractmethod
    def training(self, data: Data, config: Config) -> Batches:
        """The batches to learn from."""

    @abstractmethod
    def batches(self, data: Data, split: str, batch_size: int, window: int, where: str = "") -> Batches:
        """The batches to score a split with: every target once, in an order that never changes."""

    @abstractmethod
    def objective(self, model: Any, batch: Any, carry: Carry) -> tuple[Carry, Tensor, Tensor | None]:
        """Read a batch to learn from it: (carry, summed nats, penalty to add to them or None)."""

    @abstractmethod
    def score(self, model: Any, batch: Any, carry: Carry, batches: Any) -> tuple[Carry, Score]:
        """Read a batch, one of `batches`, to be tested on it."""

    @abstractmethod
    def metrics(self, score: Score, data: Data, split: str) -> dict[str, float]:
        """What a whole split is told by: the names behind `valid/` and `test/`."""

    def judged(self, metrics: dict[str, float]) -> float:
        """What weights are chosen by; lower is better, and of equals the lower loss."""
        return metrics["loss"] if self.judged_by == "loss" else -metrics[self.judged_by]

    def begin_step(self, at: Moment) -> None:
        """Hear how far the run has come, before each step."""
        return None

    def headline(self, loss: float, data: Data) -> str:
        """Nats per token in the unit people think in; empty if that is nats."""
        return ""

    def best(self, metrics: dict[str, float], data: Data) -> str:
        """The metric that weights are chosen by, with its name."""
        if self.judged_by != "loss":
            return f"{self.judged_by} {metrics[self.judged_by]:.4f}"
        return self.headline(metrics["loss"], data) or f"loss {metrics['loss']:.4f}"

    def show(self, model: Any, data: Data, how: SamplingConfig) -> str:
        """What the model does, in a line or two of text, at an evaluation; or nothing."""
        return ""

    def report(self, score: Score) -> dict[str, Any]:
        """Tables beyond the metrics of a split, for `seqlm eval`."""
        return {}

    def write(self, model: Any, tokenizer: Any, how: SamplingConfig) -> Iterator[str]:
        """Text by the model, piece by piece, for `seqlm sample`. Raises ConfigError if it writes none."""
        raise ConfigError(f"{type(self).__name__} does not write texts; use seqlm predict")

    def figures(self, model: Any, data: Data) -> dict[str, Heatmap]:
        """Pictures of what the model does, by name, at an evaluation."""
        return {}


def whole_sequences(config: Config, name: str, reads: str = "whole sequences") -> None:
    """Raise ConfigError for options of streams, which a task that reads sequences by themselves has no use for."""
    for key in ("window_spread", "window_halved", "drop_state"):
        if getattr(config.train, key):
            raise ConfigError(
                f"train.{key}={getattr(config.train, key)} does nothing: {name} reads {reads}; leave it out"
            )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode and without gradients: nothing is dropped, nothing is drawn."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
