"""The common part of tasks on whole sequences: bucketed batches, no carry, options of streams refused."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from ..cells import Carry
from ..config.schema import Config, SamplingConfig
from ..data.batching.bucketed import Bucketed, EncodedExamples, ExampleBatch
from ..data.dataset import Data
from ..data.examples import Example
from ..data.tokenizers.examples import ExampleTokenizer
from ..errors import ConfigError
from ..models.sequence_model import SequenceModel
from .base import Score, Task, evaluating, whole_sequences
from .lines import predicted, read_field

Prediction = dict[str, Any]  # fields of an example, as the model sees them
Encoded = tuple[Tensor, Tensor]  # outputs (T, B, O) of an encoder, and the lengths (B,) up to which they count


class ExampleTask(Task):
    """A task on examples: each batch is read by itself, and predictions are counted against targets.

    A subclass names its `head`, the fields that are `targets`, predicts, counts, and makes metrics of the counts.
    """

    model: ClassVar[type[nn.Module]] = SequenceModel
    stateful = False
    head: ClassVar[type[nn.Module]]

    @abstractmethod
    def predict(self, model: SequenceModel, encoded: Encoded, tokenizer: ExampleTokenizer) -> list[Prediction]:
        """The prediction for every example of a batch that the model has encoded, in their order."""

    def count(self, prediction: Prediction, target: Example) -> Counter[Any]:
        """One example counted: numbers that add up to those of a split."""
        return Counter()

    def references(self, examples: Sequence[Example], tokenizer: ExampleTokenizer) -> Sequence[Example]:
        """Examples in the form that predictions are counted against."""
        return examples

    def check(self, config: Config, model: nn.Module, data: Data) -> None:
        super().check(config, model, data)
        name = type(self).__name__
        if not isinstance(model.head, self.head):
            raise ConfigError(
                f"task {name} needs a model with a {self.head.__name__}, this one has a {type(model.head).__name__}; "
                "choose another model="
            )
        whole_sequences(config, name)
        needed, there = {*self.targets, *self.reads(model, data.tokenizer)}, data["valid"].encoded[0]
        if missing := sorted(needed - there.keys()):
            raise ConfigError(f"split=valid of this data has no {missing[0]}, which task {name} needs; train has it")

    def training(self, data: Data, config: Config) -> Bucketed:
        return Bucketed(data["train"], config.train.batch_size, self.targets, seed=config.seed, where="train.")

    def batches(self, data: Data, split: str, batch_size: int, bptt: int, where: str = "") -> Bucketed:
        return Bucketed(data[split], batch_size, self.targets, where=where)

    def objective(self, model: SequenceModel, batch: ExampleBatch, carry: Carry) -> tuple[Carry, Tensor, Tensor | None]:
        return carry, model.loss_sum(batch), None

    def score(self, model: SequenceModel, batch: ExampleBatch, carry: Carry, batches: Bucketed) -> tuple[Carry, Score]:
        encoded, tokenizer = model.encode(batch), batches.split.tokenizer
        score = Score(model.head.loss_sum(*encoded, batch).item(), batch.tokens)
        examples = self.references(batches.split.examples(batch), tokenizer)
        for prediction, target in zip(self.predict(model, encoded, tokenizer), examples, strict=True):
            score.counts.update(self.count(prediction, target))
        return carry, score

    def reads(self, model: Any, tokenizer: ExampleTokenizer) -> tuple[str, ...]:
        """The fields of an example that a prediction needs."""
        return tuple(name for name in ("words", "features") if name in tokenizer.fields)

    def answers(
        self, model: SequenceModel, tokenizer: ExampleTokenizer, examples: Iterable[Example]
    ) -> list[Prediction]:
        """The predictions for examples that are read together; they need no targets."""
        split, device = EncodedExamples.of(examples, tokenizer), next(model.parameters()).device
        batch = split.batch(range(len(split))).to(device)
        return self.predict(model, model.encode(batch), tokenizer)

    def predict_lines(
        self, model: SequenceModel, tokenizer: ExampleTokenizer, lines: Sequence[Example]
    ) -> list[dict[str, Any]]:
        names = self.reads(model, tokenizer)

        def fields(line: Example) -> Example | None:
            given = {name: read_field(name, line, tokenizer) for name in names}
            words = {"words": tokenizer.split(given["words"])} if "words" in given else {}  # blanks alone are none
            return given if all(map(len, {**given, **words}.values())) else None

        def predict(given: Sequence[Example]) -> list[Prediction]:
            answers = self.answers(model, tokenizer, given)
            for one, answer in zip(given, answers, strict=True):
                if "tags" in answer and "words" in one:
                    answer["words"] = tokenizer.split(one["words"])
                elif isinstance(answer.get("target"), list) and not isinstance(one.get("words"), list):
                    answer["target"] = tokenizer.join(answer["target"])  # a text for a text, words for words
            return answers

        return predicted(lines, fields, predict)

    def display(self, model: SequenceModel, data: Data, options: SamplingConfig) -> str:
        if not options.tokens:
            return ""
        example = data["valid"].originals[0]
        with evaluating(model):
            prediction = self.answers(model, data.tokenizer, [example])[0]
        return "\n".join(f"{name}: {as_text(value)}" for name, value in {**example, **prediction}.items())


def as_text(value: Any) -> str:
    """A field of an example for people; an array by its shape."""
    if hasattr(value, "shape"):
        return f"{' x '.join(map(str, value.shape))} numbers"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
