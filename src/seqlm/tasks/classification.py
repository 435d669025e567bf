"""Classification: a label for every sequence."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from torch import Tensor, nn

from ..cells import Carry
from ..config.metrics import ACCURACY, MACRO_F1
from ..config.schema import Config
from ..data.batching.bucketed import Bucketed, ExampleBatch
from ..data.dataset import Data
from ..data.examples import Example
from ..data.tokenizers.examples import ExampleTokenizer
from ..models.label_head import LabelHead
from ..models.sequence_model import SequenceModel
from .base import Score
from .class_weights import ClassWeights, WeightedLoss
from .examples import Encoded, ExampleTask, Prediction
from .tagging import EntityCounts


class Classification(ExampleTask):
    """A label for every sequence: loss = -ln p(label | x), accuracy, and F1 averaged over labels.

    A label that train lacks counts as wrong.

    Args:
        monitor: the metric on valid that chooses weights: accuracy, macro_f1 or loss.
        class_weights: how many times each label counts in training: "balanced", or weights by label; see WeightedLoss.
    """

    head = LabelHead
    targets = ("label",)
    metrics = (ACCURACY, MACRO_F1)
    reported = ("accuracy",)

    def __init__(
        self,
        *,
        monitor: Literal["accuracy", "macro_f1", "loss"] = "accuracy",
        class_weights: ClassWeights = None,
    ) -> None:
        self.monitor = monitor
        self.weighted = WeightedLoss(class_weights, "label", "task.class_weights")

    def check(self, config: Config, model: nn.Module, data: Data) -> None:
        super().check(config, model, data)
        self.weighted.check(model.head)

    def training(self, data: Data, config: Config) -> Bucketed:
        self.weighted.fit(data["train"])
        return super().training(data, config)

    def objective(self, model: SequenceModel, batch: ExampleBatch, carry: Carry) -> tuple[Carry, Tensor, Tensor | None]:
        return carry, *self.weighted(model.head, model.encode(batch), batch)

    def decisions(self) -> list[tuple[str, str]]:
        return self.weighted.decisions()

    def predict(self, model: SequenceModel, encoded: Encoded, tokenizer: ExampleTokenizer) -> list[Prediction]:
        names = tokenizer.vocabularies["label"]
        return [{"label": names[label]} for label in model.head.label(*encoded)]

    def count(self, prediction: Prediction, target: Example) -> Counter[Any]:
        return Counter([(target["label"], prediction["label"])])

    def compute_metrics(self, score: Score, data: Data, split: str) -> dict[str, float]:
        """loss (nats per label), accuracy, macro_f1: the mean over labels that are target or prediction anywhere."""
        rates = rates_by_label(score.counts)
        return {
            "loss": score.loss,
            "accuracy": sum(n for (target, prediction), n in score.counts.items() if target == prediction)
            / score.counts.total(),
            "macro_f1": sum(row["f1"] for row in rates) / len(rates),
        }

    def report(self, score: Score) -> dict[str, Any]:
        """`labels`: rates and number (`support`) of each; `confusion`: how often which was predicted for which."""
        cells = sorted((target, -number, prediction) for (target, prediction), number in score.counts.items())
        return {
            "labels": rates_by_label(score.counts),
            "confusion": [
                {"target": target, "prediction": prediction, "count": -number} for target, number, prediction in cells
            ],
        }


def rates_by_label(counts: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
    """Precision, recall, f1 and number (`support`) of every label, given how often each (target, prediction) occurs."""
    targets, predictions = Counter[str](), Counter[str]()
    for (a, b), number in counts.items():
        targets[a] += number
        predictions[b] += number
    rows = {
        label: EntityCounts(counts[label, label], predictions[label], targets[label])
        for label in sorted(targets | predictions)
    }
    return [{"label": label, **row.rates(), "support": row.gold} for label, row in rows.items()]
