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


class Found(NamedTuple):
    """Entities: those that are `correct`, among those that were `found`, among those that were `wanted`."""

    correct: int
    found: int
    wanted: int

    def rates(self) -> dict[str, float]:
        """precision P = correct / found, recall R = correct / wanted, f1 = 2 P R / (P + R); 0 / 0 is 0."""
        return {
            "precision": self.correct / self.found if self.found else 0.0,
            "recall": self.correct / self.wanted if self.wanted else 0.0,
            "f1": 2 * self.correct / (self.found + self.wanted) if self.correct else 0.0,
        }


class Tagging(ExampleTask):
    """A tag for every word: loss = -sum_t ln p(tag_t | x), and F1 of whole entities.

    `monitor`: what weights are chosen by on valid: f1, accuracy or loss. E. F. Tjong Kim Sang and S. Buchholz,
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

    def count(self, said: Prediction, wanted: Example) -> Counter[Any]:
        counts: Counter[Any] = Counter()
        mine, theirs = entities(said["tags"]), entities(wanted["tags"])
        for name, group in (("found", mine), ("wanted", theirs), ("correct", mine & theirs)):
            counts.update((name, kind) for kind, _, _ in group)
        counts.update(("tag", a, b) for a, b in zip(wanted["tags"], said["tags"], strict=True))
        return counts

    def compute_metrics(self, score: Score, data: Data, split: str) -> dict[str, float]:
        """loss (nats per tag), precision, recall and f1 of entities, accuracy of tags."""
        right = sum(number for key, number in score.counts.items() if key[0] == "tag" and key[1] == key[2])
        tags = sum(number for key, number in score.counts.items() if key[0] == "tag")
        return {"loss": score.loss, **_found(score).rates(), "accuracy": right / tags}

    def report(self, score: Score) -> dict[str, Any]:
        """`types`: rates and number (`support`) of each type of entity; `confusions`: of tags, most frequent first."""
        kinds = sorted({key[1] for key in score.counts if key[0] != "tag"})
        rows = {kind: _found(score, kind) for kind in kinds}
        wrong = [(number, *key[1:]) for key, number in score.counts.items() if key[0] == "tag" and key[1] != key[2]]
        wrong.sort(key=lambda item: (-item[0], item[1:]))
        return {
            "types": {kind: {**row.rates(), "support": row.wanted} for kind, row in rows.items()},
            "confusions": [{"wanted": a, "said": b, "count": number} for number, a, b in wrong[:CONFUSIONS]],
        }


def require_entities(data: Data) -> None:
    """Raise ConfigError if nothing can be judged by the F1 of entities."""
    if not any(entities([tag]) for tag in data.tokenizer.vocabularies["tags"]):
        raise ConfigError(
            "task.monitor=f1 counts entities, but no tag of this data begins one (B-...); use task.monitor=accuracy"
        )


def _found(score: Score, kind: str | None = None) -> Found:
    """The entities of a type, or of all."""
    sums = {name: 0 for name in Found._fields}
    for key, number in score.counts.items():
        if key[0] in sums and kind in (None, key[1]):
            sums[key[0]] += number
    return Found(**sums)
