"""Tagging: a tag for every word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from ..data import Data, Example, ExampleBatch
from ..errors import ConfigError
from ..models import SequenceModel, TagHead
from ..schema import Config
from .base import Score
from .examples import ExampleTask, Prediction


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """(type, first, last + 1) of every entity in tags B-type, I-type and O, as conlleval reads them.

    An entity begins at B-, and at an I- that follows O or another type; so IOB and IOB2 are both read.
    """
    found, start, kind = set(), 0, ""
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        if kind and (prefix != "I" or name != kind):
            found.add((kind, start, place))
            kind = ""
        if prefix in ("B", "I") and not kind:
            start, kind = place, name
    return found


def f1(correct: int, found: int, wanted: int) -> float:
    """2 P R / (P + R) with P = correct / found, R = correct / wanted; 0 where there is nothing."""
    return 2 * correct / (found + wanted) if correct else 0.0


class Tagging(ExampleTask):
    """A tag for every word: loss = -sum_t ln p(tag_t | x), and F1 of whole entities.

    `judged_by`: what weights are chosen by on valid: f1, accuracy or loss. E. F. Tjong Kim Sang and S. Buchholz,
    "Introduction to the CoNLL-2000 Shared Task: Chunking" (2000), whose conlleval counts entities.
    """

    head = TagHead
    targets = ("tags",)

    def __init__(self, *, judged_by: Literal["f1", "accuracy", "loss"] = "f1") -> None:
        self.judged_by = judged_by

    def check(self, config: Config, model: nn.Module, data: Data) -> None:
        super().check(config, model, data)
        if self.judged_by == "f1" and not any(entities([tag]) for tag in data.tokenizer.vocabularies["tags"]):
            raise ConfigError(
                "task.judged_by=f1 counts entities, but no tag of this data begins one (B-...); "
                "use task.judged_by=accuracy"
            )

    def predict(self, model: SequenceModel, ys: Tensor, lengths: Tensor, batch: ExampleBatch) -> list[Prediction]:
        names = batch.tokenizer.vocabularies["tags"]
        return [{"tags": [names[tag] for tag in row]} for row in model.head.tags(ys, lengths)]

    def count(self, said: Prediction, wanted: Example) -> Counter[Any]:
        counts: Counter[Any] = Counter()
        mine, theirs = entities(said["tags"]), entities(wanted["tags"])
        for name, group in (("found", mine), ("wanted", theirs), ("correct", mine & theirs)):
            counts.update((name, kind) for kind, _, _ in group)
        counts.update(("tag", a, b) for a, b in zip(wanted["tags"], said["tags"], strict=True))
        return counts

    def metrics(self, score: Score, data: Data, split: str) -> dict[str, float]:
        """loss (nats per tag), f1 of entities, accuracy of tags."""
        total: Counter[str] = Counter()
        for key, number in score.counts.items():
            total["right" if key[0] == "tag" and key[1] == key[2] else key[0]] += number
        tags = total["right"] + total["tag"]
        return {
            "loss": score.loss,
            "f1": f1(total["correct"], total["found"], total["wanted"]),
            "accuracy": total["right"] / tags,
        }
