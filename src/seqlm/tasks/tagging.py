"""Tagging: a tag for every word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from torch import nn

from ..config.metrics import ACCURACY, F1
from ..config.schema import Config
from ..data.dataset import Data
from ..data.examples import Example
from ..data.tokenizers.examples import ExampleTokenizer
from ..errors import ConfigError
from ..models.heads import TagHead
from ..models.sequence_model import SequenceModel
from .base import Score
from .examples import Encoded, ExampleTask, Prediction

CONFUSIONS = 20  # of tags, in a report


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """(type, first, last + 1) of every entity in tags `prefix-type` and O, as conlleval reads them.

    An entity goes on at I- or E- of its type, after B- or I-; it begins anew at every B- and S-, and wherever else a
    tag is not O. So IOB, IOB2, IOBES and BILOU are all read, broken sequences too.
    """
    found, kind, start, before = set(), None, 0, "O"
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        prefix = {"L": "E", "U": "S"}.get(prefix, prefix)  # last and unit of BILOU are end and single of IOBES
        if not (prefix in ("I", "E") and before in ("B", "I") and name == kind):
            if kind is not None:
                found.add((kind, start, place))
            kind, start = name if prefix in ("B", "I", "E", "S") else None, place
        before = prefix
    return found


class EntityCounts(NamedTuple):
    """Numbers of entities: those of the prediction, those of the target (gold), and those that are in both."""

    correct: int
    predicted: int
    gold: int

    def rates(self) -> dict[str, float]:
        """precision P = correct / predicted, recall R = correct / gold, f1 = 2 P R / (P + R); 0 / 0 is 0."""
        return {
            "precision": self.correct / self.predicted if self.predicted else 0.0,
            "recall": self.correct / self.gold if self.gold else 0.0,
            "f1": 2 * self.correct / (self.predicted + self.gold) if self.correct else 0.0,
        }


class Tagging(ExampleTask):
    """A tag for every word: loss = -sum_t ln p(tag_t | x), and F1 of whole entities.

    `monitor`: the metric on valid that chooses weights: f1, accuracy or loss. E. F. Tjong Kim Sang and S. Buchholz,
    "Introduction to the CoNLL-2000 Shared Task: Chunking" (2000), whose conlleval counts entities.
    """

    head = TagHead
    targets = ("tags",)
    metrics = (F1, ACCURACY)

    def __init__(self, *, monitor: Literal["f1", "accuracy", "loss"] = "f1") -> None:
        self.monitor = monitor

    def check(self, config: Config, model: nn.Module, data: Data) -> None:
        super().check(config, model, data)
        if self.monitor == "f1":
            require_entities(data)

    def predict(self, model: SequenceModel, encoded: Encoded, tokenizer: ExampleTokenizer) -> list[Prediction]:
        names = tokenizer.vocabularies["tags"]
        return [{"tags": [names[tag] for tag in row]} for row in model.head.tags(*encoded)]

    def count(self, prediction: Prediction, target: Example) -> Counter[Any]:
        counts: Counter[Any] = Counter()
        predicted, gold = entities(prediction["tags"]), entities(target["tags"])
        for name, group in (("predicted", predicted), ("gold", gold), ("correct", predicted & gold)):
            counts.update((name, kind) for kind, _, _ in group)
        counts.update(("tag", a, b) for a, b in zip(target["tags"], prediction["tags"], strict=True))
        return counts

    def compute_metrics(self, score: Score, data: Data, split: str) -> dict[str, float]:
        """loss (nats per tag), precision, recall and f1 of entities, accuracy of tags."""
        right = sum(number for key, number in score.counts.items() if key[0] == "tag" and key[1] == key[2])
        tags = sum(number for key, number in score.counts.items() if key[0] == "tag")
        return {"loss": score.loss, **_entity_counts(score).rates(), "accuracy": right / tags}

    def report(self, score: Score) -> dict[str, Any]:
        """`types`: rates and number (`support`) of each type of entity; `confusions`: of tags, most frequent first."""
        kinds = sorted({key[1] for key in score.counts if key[0] != "tag"})
        rows = {kind: _entity_counts(score, kind) for kind in kinds}
        wrong = [(number, *key[1:]) for key, number in score.counts.items() if key[0] == "tag" and key[1] != key[2]]
        wrong.sort(key=lambda item: (-item[0], item[1:]))
        return {
            "types": {kind: {**row.rates(), "support": row.gold} for kind, row in rows.items()},
            "confusions": [{"target": a, "prediction": b, "count": number} for number, a, b in wrong[:CONFUSIONS]],
        }


def require_entities(data: Data) -> None:
    """Raise ConfigError if nothing can be judged by the F1 of entities."""
    if not any(entities([tag]) for tag in data.tokenizer.vocabularies["tags"]):
        raise ConfigError(
            "task.monitor=f1 counts entities, but no tag of this data begins one (B-...); use task.monitor=accuracy"
        )


def _entity_counts(score: Score, kind: str | None = None) -> EntityCounts:
    """The entities of a type, or of all."""
    sums = {name: 0 for name in EntityCounts._fields}
    for key, number in score.counts.items():
        if key[0] in sums and kind in (None, key[1]):
            sums[key[0]] += number
    return EntityCounts(**sums)
