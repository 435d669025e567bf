"""Classification: a label for every sequence."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from ..config.metrics import ACCURACY, MACRO_F1
from ..data.dataset import Data
from ..data.examples import Example
from ..data.tokenizers.examples import ExampleTokenizer
from ..models.label_head import LabelHead
from ..models.sequence_model import SequenceModel
from .base import Score
from .examples import Encoded, ExampleTask, Prediction
from .tagging import EntityCounts


class Classification(ExampleTask):
    """A label for every sequence: loss = -ln p(label | x), accuracy, and F1 averaged over labels.

    `monitor`: the metric on valid that chooses weights: accuracy, macro_f1 or loss. A label that train lacks counts as
    wrong.
    """

    head = LabelHead
    targets = ("label",)
    metrics = (ACCURACY, MACRO_F1)
    reported = ("accuracy",)

    def __init__(self, *, monitor: Literal["accuracy", "macro_f1", "loss"] = "accuracy") -> None:
        self.monitor = monitor

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
