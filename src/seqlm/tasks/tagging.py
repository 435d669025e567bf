"""Tagging: a tag for every word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from ..cells import Carry
from ..config.metrics import ACCURACY, F1
from ..config.schema import Config
from ..data.batching.bucketed import Bucketed, ExampleBatch
from ..data.dataset import Data
from ..data.examples import Example
from ..data.fields import Tags
from ..data.tag_schemes import CONLLEVAL, TagScheme, any_begins, check_name, entities, forced
from ..data.tokenizers.examples import ExampleTokenizer
from ..errors import ConfigError
from ..models.heads import TagHead
from ..models.sequence_model import SequenceModel
from .base import Score
from .class_weights import ClassWeights, WeightedLoss
from .examples import Encoded, ExampleTask, Prediction

CONFUSIONS = 20  # of tags, in a report


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

    The scheme of the tags is recognised from train and saved with the tokenizer; data/tag_schemes.py says how each is
    counted. To name another is an option of the task, not of the data: ids, model and loss are the same under any, and
    a trained run can be counted by another, `seqlm eval RUN task.scheme=IOB2 task.strict=true`. E. F. Tjong Kim Sang
    and S. Buchholz, "Introduction to the CoNLL-2000 Shared Task: Chunking" (2000), whose conlleval counts entities.

    Args:
        monitor: the metric on valid that chooses weights: f1, accuracy or loss.
        scheme: of the tags: IOB1, IOB2, IOE1, IOE2, IOBES, BILOU, BMES or BMEWO; None: recognised.
        strict: entities that break the scheme do not count, in targets and predictions alike; of BMES and BMEWO they
            never do.
        class_weights: how many times each tag counts in training: "balanced", or weights by tag; see WeightedLoss.
    """

    head = TagHead
    targets = ("tags",)
    metrics = (F1, ACCURACY)
    inference_options = ("scheme", "strict")

    def __init__(
        self,
        *,
        monitor: Literal["f1", "accuracy", "loss"] = "f1",
        scheme: str | None = None,
        strict: bool = False,
        class_weights: ClassWeights = None,
    ) -> None:
        self.weighted = WeightedLoss(class_weights, "tags", "task.class_weights")
        self.monitor, self.forced, self.strict = monitor, scheme and check_name(scheme), strict
        self.scheme: TagScheme | None = CONLLEVAL
        self.no_scheme = ""  # the reason why there is none

    def prepare(self, tokenizer: ExampleTokenizer) -> None:
        """Take the scheme that is forced on the tags, or was recognised in them."""
        if (field := getattr(tokenizer, "fields", {}).get("tags")) is None:  # `check` says what is wrong with a text
            return
        assert isinstance(field, Tags)
        self.scheme = forced(self.forced, field.items) if self.forced else field.scheme
        self.no_scheme = field.no_scheme
        if self.scheme is not None:
            self.scheme = replace(self.scheme, strict=self.strict)

    def decisions(self) -> list[tuple[str, str]]:
        older = self.scheme is not None and self.scheme.name == CONLLEVAL.name
        origin = "as when it was begun" if older else "recognised in the tags of train"
        shown = f"{self.scheme}, {'by task.scheme' if self.forced else origin}"
        if self.scheme is None:
            shown = f"none: {self.no_scheme or 'the tags are of no scheme'}"
        return [("entities", shown), *self.weighted.decisions()]

    def check(self, config: Config, model: nn.Module, data: Data) -> None:
        super().check(config, model, data)
        self.weighted.check(model.head)
        if self.monitor == "f1":
            self.require_entities(data.tokenizer)

    def training(self, data: Data, config: Config) -> Bucketed:
        self.weighted.fit(data["train"])
        return super().training(data, config)

    def objective(self, model: SequenceModel, batch: ExampleBatch, carry: Carry) -> tuple[Carry, Tensor, Tensor | None]:
        return carry, *self.weighted(model.head, model.encode(batch), batch)

    def require_entities(self, tokenizer: ExampleTokenizer) -> None:
        """Raise ConfigError if nothing can be judged by the F1 of entities."""
        if self.scheme is None:
            raise ConfigError(
                f"task.monitor=f1 counts entities, but {self.no_scheme}; use task.monitor=accuracy, or name the scheme "
                "with task.scheme=..."
            )
        if not any_begins(tokenizer.vocabularies["tags"], self.scheme):
            raise ConfigError(
                "task.monitor=f1 counts entities, but no tag of this data begins one (B-...); use task.monitor=accuracy"
            )

    def predict(self, model: SequenceModel, encoded: Encoded, tokenizer: ExampleTokenizer) -> list[Prediction]:
        names = tokenizer.vocabularies["tags"]
        return [{"tags": [names[tag] for tag in row]} for row in model.head.tags(*encoded)]

    def count(self, prediction: Prediction, target: Example) -> Counter[Any]:
        counts: Counter[Any] = Counter()
        if self.scheme is not None:
            predicted, gold = (entities(one["tags"], self.scheme) for one in (prediction, target))
            for name, group in (("predicted", predicted), ("gold", gold), ("correct", predicted & gold)):
                counts.update((name, kind) for kind, _, _ in group)
        counts.update(("tag", a, b) for a, b in zip(target["tags"], prediction["tags"], strict=True))
        return counts

    def compute_metrics(self, score: Score, data: Data, split: str) -> dict[str, float]:
        """loss (nats per tag), precision, recall and f1 of entities if the tags have a scheme, accuracy of tags."""
        right = sum(number for key, number in score.counts.items() if key[0] == "tag" and key[1] == key[2])
        tags = sum(number for key, number in score.counts.items() if key[0] == "tag")
        rates = {} if self.scheme is None else _entity_counts(score).rates()
        return {"loss": score.loss, **rates, "accuracy": right / tags}

    def rows(self, measured: Mapping[str, Any]) -> list[tuple[str, str]]:
        return [*super().rows(measured), *([("entities read as", str(self.scheme))] if self.scheme else [])]

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


def _entity_counts(score: Score, kind: str | None = None) -> EntityCounts:
    """The entities of a type, or of all."""
    sums = {name: 0 for name in EntityCounts._fields}
    for key, number in score.counts.items():
        if key[0] in sums and kind in (None, key[1]):
            sums[key[0]] += number
    return EntityCounts(**sums)
