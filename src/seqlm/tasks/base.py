"""The interface of a task: everything that differs from one kind of problem to another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..cells import Carry
from ..config.metrics import LOSS, Metric, Results, by_name
from ..config.schema import Config, SamplingConfig
from ..data.batching.batches import Batches
from ..data.dataset import Data
from ..data.examples import Example
from ..errors import ConfigError
from ..optim.schedules import Moment
from .figures import Heatmap

EVALUATED_AT_ONCE = 1024  # tokens: products of so many rows are as fast as they become


@dataclass
class Score:
    """Sums over target tokens; every mean is divided once, at the end."""

    loss_sum: float = 0.0
    tokens: int = 0
    counts: Counter[Any] = field(default_factory=Counter)  # whatever else a task counts
    partial: bool = False  # of a split that was not read to its end

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.loss_sum / self.tokens

    def add(self, other: Score) -> None:
        """Add the sums of another part of the split."""
        self.loss_sum += other.loss_sum
        self.tokens += other.tokens
        self.counts.update(other.counts)


class Task(ABC):
    """One kind of problem: its batches, loss, metrics, and all that a verb does in its own way for it.

    The loop, the checkpoints, evaluation and every verb call a task; they never ask which one it is.
    """

    model: ClassVar[type[nn.Module]]  # the models that it trains
    stateful: ClassVar[bool] = True  # the carry goes on from batch to batch, so that results depend on the batch size
    cuda_graphs: ClassVar[bool] = False  # batches are Chunks of few shapes, so that engine=graph can replay a step
    targets: ClassVar[tuple[str, ...]] = ()  # fields of an example that it predicts
    metrics: ClassVar[tuple[Metric, ...]] = ()  # those that tables of runs show, in this order; the loss is known
    reported: ClassVar[tuple[str, ...]] = ()  # metrics that published results are compared by, beside the monitor
    monitor: str = "loss"  # the metric that weights are chosen by on valid
    inference_options: ClassVar[tuple[str, ...]] = ()  # its own options that a trained model may be used with
    eval_options: ClassVar[tuple[str, ...]] = ()  # keys of `seqlm eval` that do something for it, beyond those of all
    sample_options: ClassVar[tuple[str, ...]] = ()  # the same of `seqlm sample`
    writes: ClassVar[bool] = False  # whether `seqlm sample` is for it

    def check(self, config: Config, model: nn.Module, data: Data) -> None:
        """Raise ConfigError for what does not go together."""
        if not isinstance(model, self.model):
            raise ConfigError(
                f"{type(self).__name__} trains a {self.model.__name__}, but this model is a {type(model).__name__}; "
                "choose another task= or model="
            )
        if self.monitor not in (known := by_name(self.metrics)):
            raise ConfigError(f"task.monitor={self.monitor} is no metric of this task; there are: {', '.join(known)}")

    def prepare(self, tokenizer: Any) -> None:
        """Called once with the tokenizer of a run, before it is trained or used: what depends on its vocabularies.

        Raises ConfigError.
        """
        return None

    def decisions(self) -> list[tuple[str, str]]:
        """Rows in the header of a run: what was decided from its data."""
        return []

    def check_inference(self, model: Any) -> None:
        """Raise ConfigError for an inference option that this model has no use for."""
        return None

    @abstractmethod
    def training(self, data: Data, config: Config) -> Batches:
        """The batches to learn from."""

    @abstractmethod
    def batches(self, data: Data, split: str, batch_size: int, bptt: int, where: str = "") -> Batches:
        """The batches to score a split with: every target once, in an order that never changes.

        Messages name keys that begin with `where`.
        """

    @abstractmethod
    def objective(self, model: Any, batch: Any, carry: Carry) -> tuple[Carry, Tensor, Tensor | None]:
        """The loss of a batch: (carry, summed loss, penalty to add to it or None)."""

    @abstractmethod
    def score(self, model: Any, batch: Any, carry: Carry, batches: Any) -> tuple[Carry, Score]:
        """Score one of `batches`: (carry, sums)."""

    @abstractmethod
    def compute_metrics(self, score: Score, data: Data, split: str) -> dict[str, float]:
        """Metrics of a whole split by the names behind `valid/` and `test/`, the loss among them."""

    def monitored(self, metrics: dict[str, float]) -> float:
        """The monitored metric as a number that is better when lower."""
        return by_name(self.metrics)[self.monitor].rank(metrics[self.monitor])

    def begin_step(self, at: Moment) -> None:
        """Called before each step with the progress of the run."""
        return None

    def unit(self, data: Data) -> str:
        """The unit of a loss that people think in: ppl, bpc, bits/byte; empty if that is nats per token."""
        return ""

    def results(self, data: Data) -> Results:
        """How numbers of this task are shown."""
        return Results(self.metrics, self.monitor, self.unit(data))

    def headlines(self, metrics: Container[str]) -> list[str]:
        """Those of the metrics that results are told by, the monitored one first; the loss if there is no other."""
        names = [name for name in dict.fromkeys([self.monitor, *self.reported]) if name in metrics]
        return [name for name in names if name != "loss"] or ["loss"]

    def training_metrics(self, loss_sum: float, tokens: int, data: Data) -> dict[str, float]:
        """Metrics of the task that follow from the training loss alone, by the names behind `train/`."""
        return {}

    def describe(self, metrics: Mapping[str, float]) -> str:
        """Metrics in a line, each with its digits."""
        known = by_name(self.metrics)
        return "  ".join(f"{name} {known.get(name, LOSS).text(value)}" for name, value in metrics.items())

    def display(self, model: Any, data: Data, options: SamplingConfig) -> str:
        """A line or two of text at an evaluation that show what the model does; or nothing."""
        return ""

    def figures(self, model: Any, data: Data) -> dict[str, Heatmap]:
        """Pictures of what the model does, by name, at an evaluation."""
        return {}

    def eval_batch_size(self, config: Config) -> int:
        """Rows of a batch when a run is scored: one stream of a text, as published numbers are counted."""
        return 1 if self.stateful else config.train.eval_batch_size

    def eval_bptt(self, config: Config, batch_size: int) -> int:
        """Steps of a chunk when a run is scored: of a text that is read on and on as many as are fast."""
        bptt = config.train.bptt
        return max(bptt, EVALUATED_AT_ONCE // batch_size) if self.stateful else bptt

    def facts(self, score: Score, data: Data, split: str) -> dict[str, float]:
        """Numbers beyond the metrics in the result of `seqlm eval`."""
        return {}

    def rows(self, measured: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Names and values in the table of `seqlm eval`, made of tokens, loss_sum, metrics, facts and speed."""
        known = by_name(self.metrics)

        def text(name: str, value: Any) -> str:
            return f"{value:,.{known.get(name, LOSS).digits}f}" if isinstance(value, float) else f"{value:,}"

        return [(name, text(name, value)) for name, value in measured.items()]

    def report(self, score: Score) -> dict[str, Any]:
        """Tables beyond the metrics of a split, for `seqlm eval`."""
        return {}

    def language_models(self, model: Any) -> dict[str, Any]:
        """The models in it that tell how probable a token is, by the direction that they read in; none if none does.

        forward is the one that reads from the beginning, backward the one that reads from the end.
        """
        return {}

    def reads(self, model: Any, tokenizer: Any) -> tuple[str, ...]:
        """The fields of an example that a prediction needs; none if it makes none, which `seqlm predict` refuses."""
        return ()

    def predict_lines(self, model: Any, tokenizer: Any, lines: Sequence[Example]) -> list[dict[str, Any]]:
        """Predictions for what stands in lines, in order; {"error": ...} for one that cannot be read."""
        raise NotImplementedError(f"{type(self).__name__} does not implement predict_lines")

    def write(self, model: Any, tokenizer: Any, options: SamplingConfig) -> Iterator[str]:
        """Text by the model, piece by piece, for `seqlm sample`. Raises ConfigError if it writes none."""
        raise ConfigError(f"{type(self).__name__} does not write texts; use seqlm predict")


def whole_sequences(config: Config, name: str, reads: str = "whole sequences") -> None:
    """Raise ConfigError for options of streams, which a task that reads sequences by themselves has no use for."""
    for key in ("bptt_std", "bptt_half_prob", "drop_state"):
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
