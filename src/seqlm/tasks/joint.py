"""Tags and a label at once, as in slot filling with intents."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Literal

from torch import Tensor, nn

from ..cells import Carry
from ..config.metrics import ACCURACY, F1, Metric
from ..config.schema import Config
from ..data.batching.bucketed import ExampleBatch
from ..data.dataset import Data
from ..data.examples import Example
from ..data.tokenizers.examples import ExampleTokenizer
from ..models.label_head import JointHead
from ..models.sequence_model import SequenceModel
from .base import Score
from .classification import Classification
from .examples import Encoded, ExampleTask, Prediction
from .tagging import Tagging


class Joint(ExampleTask):
    """A tag for every word and a label for the whole: loss = -sum_t ln p(tag_t | x) - ln p(label | x).

    In training the loss of labels counts `label_weight` times. Besides the metrics of tagging and classification there
    is `frame`: the share of examples that have all tags and the label right. `monitor`: the metric on valid that
    chooses weights: frame, f1 of entities, accuracy of labels, or loss. `scheme` and `strict` are those of Tagging.
    C.-W. Goo et al., "Slot-Gated Modeling for Joint Slot Filling and Intent Prediction" (2018).
    """

    head = JointHead
    targets = ("tags", "label")
    metrics = (F1, ACCURACY, Metric("frame", percent=True))
    reported = ("f1", "accuracy")
    inference_options = ("scheme", "strict")

    def __init__(
        self,
        *,
        monitor: Literal["frame", "f1", "accuracy", "loss"] = "frame",
        label_weight: float = 1.0,
        scheme: str | None = None,
        strict: bool = False,
    ) -> None:
        if not 0 < label_weight < math.inf:
            raise ValueError(f"label_weight={label_weight} must be greater than 0")
        self.monitor, self.label_weight = monitor, label_weight
        self.tagging = Tagging(scheme=scheme, strict=strict)
        self.parts: dict[str, ExampleTask] = {"tags": self.tagging, "label": Classification()}

    def prepare(self, tokenizer: ExampleTokenizer) -> None:
        self.tagging.prepare(tokenizer)

    def decisions(self) -> list[tuple[str, str]]:
        return self.tagging.decisions()

    def check(self, config: Config, model: nn.Module, data: Data) -> None:
        super().check(config, model, data)
        if self.monitor == "f1":
            self.tagging.require_entities(data.tokenizer)

    def objective(self, model: SequenceModel, batch: ExampleBatch, carry: Carry) -> tuple[Carry, Tensor, Tensor | None]:
        if self.label_weight == 1:
            return super().objective(model, batch, carry)
        encoded, head = model.encode(batch), model.head
        labels = head.label_head.loss_sum(*encoded, batch)
        return carry, head.tag_head.loss_sum(*encoded, batch) + labels, (self.label_weight - 1) * labels

    def predict(self, model: SequenceModel, encoded: Encoded, tokenizer: ExampleTokenizer) -> list[Prediction]:
        predictions = [part.predict(model, encoded, tokenizer) for part in self.parts.values()]
        return [{**tags, **label} for tags, label in zip(*predictions, strict=True)]

    def count(self, prediction: Prediction, target: Example) -> Counter[Any]:
        counts: Counter[Any] = Counter()
        for name, part in self.parts.items():
            counts.update({(name, key): number for key, number in part.count(prediction, target).items()})
        counts["frame", all(prediction[name] == target[name] for name in self.parts)] += 1
        return counts

    def compute_metrics(self, score: Score, data: Data, split: str) -> dict[str, float]:
        """loss (nats per tag or label), f1 of entities if the tags have a scheme, accuracy of labels, frame."""
        parts = {name: part.compute_metrics(self._of(name, score), data, split) for name, part in self.parts.items()}
        frames = self._of("frame", score).counts
        return {
            "loss": score.loss,
            **{name: value for name, value in parts["tags"].items() if name == "f1"},
            "accuracy": parts["label"]["accuracy"],
            "frame": frames[True] / frames.total(),
        }

    def report(self, score: Score) -> dict[str, Any]:
        """The tables of tagging and of classification."""
        return {
            table: rows
            for name, part in self.parts.items()
            for table, rows in part.report(self._of(name, score)).items()
        }

    def _of(self, name: str, score: Score) -> Score:
        """The counts of one part."""
        counts = Counter({key: number for (part, key), number in score.counts.items() if part == name})
        return Score(score.loss_sum, score.tokens, counts)
