"""Tags and a label at once, as in slot filling with intents."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn

from ..cells import Carry
from ..config.metrics import ACCURACY, F1, Metric
from ..config.schema import Config
from ..data.batching.bucketed import Bucketed, ExampleBatch
from ..data.dataset import Data
from ..data.examples import Example
from ..data.tokenizers.examples import ExampleTokenizer
from ..models.label_head import JointHead
from ..models.sequence_model import SequenceModel
from .base import Score
from .class_weights import ClassWeights, WeightedLoss
from .classification import Classification
from .examples import Encoded, ExampleTask, Prediction
from .tagging import Tagging


class PartWeights(TypedDict, total=False):
    """Class weights of tags and of labels."""

    tags: ClassWeights
    label: ClassWeights


class Joint(ExampleTask):
    """A tag for every word and a label for the whole: loss = -sum_t ln p(tag_t | x) - ln p(label | x).

    Besides the metrics of tagging and classification there is `frame`: the share of examples that have all tags and the
    label right. C.-W. Goo et al., "Slot-Gated Modeling for Joint Slot Filling and Intent Prediction" (2018).

    Args:
        monitor: the metric on valid that chooses weights: frame, f1 of entities, accuracy of labels, or loss.
        label_weight: how many times the loss of labels counts in training.
        scheme, strict: those of Tagging.
        class_weights: "balanced" for tags and labels, or a mapping with those of `tags` and of `label`, each as in
            Tagging and Classification.
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
        class_weights: Literal["balanced"] | PartWeights | None = None,
    ) -> None:
        if not 0 < label_weight < math.inf:
            raise ValueError(f"label_weight={label_weight} must be greater than 0")
        self.monitor, self.label_weight = monitor, label_weight
        self.tagging = Tagging(scheme=scheme, strict=strict)
        self.parts: dict[str, ExampleTask] = {"tags": self.tagging, "label": Classification()}
        by_part = {name: "balanced" for name in self.parts} if class_weights == "balanced" else class_weights or {}
        self.weighted = {
            name: WeightedLoss(by_part.get(name), name, f"task.class_weights.{name}")  # type: ignore[arg-type]
            for name in self.parts
        }

    def prepare(self, tokenizer: ExampleTokenizer) -> None:
        self.tagging.prepare(tokenizer)

    def decisions(self) -> list[tuple[str, str]]:
        return self.tagging.decisions() + [row for one in self.weighted.values() for row in one.decisions()]

    def check(self, config: Config, model: nn.Module, data: Data) -> None:
        super().check(config, model, data)
        for name, head in self._heads(model.head).items():
            self.weighted[name].check(head)
        if self.monitor == "f1":
            self.tagging.require_entities(data.tokenizer)

    def training(self, data: Data, config: Config) -> Bucketed:
        for weighted in self.weighted.values():
            weighted.fit(data["train"])
        return super().training(data, config)

    def objective(self, model: SequenceModel, batch: ExampleBatch, carry: Carry) -> tuple[Carry, Tensor, Tensor | None]:
        encoded, heads, weight = model.encode(batch), self._heads(model.head), self.label_weight
        (tags, more_of_tags), (labels, more_of_labels) = (
            self.weighted[name](head, encoded, batch) for name, head in heads.items()
        )
        more = [] if more_of_tags is None else [more_of_tags]
        if weight != 1:
            more.append((weight - 1) * labels)
        if more_of_labels is not None:
            more.append(weight * more_of_labels)
        return carry, tags + labels, torch.stack(more).sum() if len(more) > 1 else more[0] if more else None

    @staticmethod
    def _heads(head: Any) -> dict[str, nn.Module]:
        return {"tags": head.tag_head, "label": head.label_head}

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
