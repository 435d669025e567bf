"""Sequence to sequence: another sequence for every sequence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from ..cells import Carry, require_probability
from ..config.metrics import ACCURACY, Metric
from ..config.schema import Config, SamplingConfig
from ..data.batching.bucketed import EncodedExamples, ExampleBatch
from ..data.dataset import Data
from ..data.examples import Example
from ..data.fields import END, UNKNOWN
from ..data.tokenizers.examples import ExampleTokenizer
from ..errors import ConfigError
from ..models.decoder import Decoder
from ..models.sequence_model import SequenceModel
from ..optim.schedules import Moment
from .base import Score, evaluating
from .examples import Encoded, ExampleTask, Prediction, as_text
from .figures import Heatmap
from .translation import corpus_scores

SHOWN = 4  # examples of valid at each evaluation


class Seq2Seq(ExampleTask):
    """Writes the target of a source: loss = -sum_t ln p(w_t | w_<t, x), the end of each target included.

    Learns with the true words before (teacher forcing), or with probability `scheduled_sampling` with words that the
    decoder draws (S. Bengio et al., arXiv 1506.03099): that probability from the first step on (`sampling_schedule`
    "constant"), or rising from 0 with the part of the run that is done ("linear"). Writes greedily, or with a `beam`,
    of which the best by ln p / ((5 + length) / 6)^`length_penalty` is taken (Y. Wu et al., arXiv 1609.08144);
    `max_length` words at most, or twice as many as the source has and ten. It never writes `<unk>`; with `replace_unk`
    it does, and the word of the source that has most attention at that place is put there instead, as names and numbers
    need it that are rare in train (M.-T. Luong et al., arXiv 1410.8206, by attention: S. Jean et al., arXiv
    1412.2007). `bleu` adds BLEU and chrF by sacrebleu.
    """

    head = Decoder
    targets = ("target",)
    metrics = (
        Metric("exact", percent=True),
        ACCURACY,
        Metric("bleu", 2, title="BLEU"),
        Metric("chrf", 2, title="chrF"),
    )
    reported = ("exact", "bleu", "chrf")
    inference_options = ("beam", "length_penalty", "max_length", "replace_unk", "bleu")

    def __init__(
        self,
        *,
        beam: int = 1,
        length_penalty: float = 0.0,
        max_length: int | None = None,
        replace_unk: bool = False,
        scheduled_sampling: float = 0.0,
        sampling_schedule: Literal["linear", "constant"] = "linear",
        bleu: bool = False,
        monitor: Literal["exact", "accuracy", "loss", "bleu", "chrf"] = "exact",
    ) -> None:
        if beam < 1:
            raise ValueError(f"beam={beam} must be at least 1")
        if length_penalty < 0:
            raise ValueError(f"length_penalty={length_penalty} must be at least 0")
        if length_penalty and beam == 1:
            raise ValueError(f"length_penalty={length_penalty} does nothing with beam=1; set beam=5, say")
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length={max_length} must be at least 1")
        require_probability("scheduled_sampling", scheduled_sampling)
        if sampling_schedule != "linear" and not scheduled_sampling:
            raise ValueError(f"sampling_schedule={sampling_schedule} does nothing with scheduled_sampling=0")
        if monitor in ("bleu", "chrf") and not bleu:
            raise ValueError(f"monitor={monitor} needs bleu=true")
        self.search_options = {"beam": beam, "length_penalty": length_penalty, "max_length": max_length}
        self.scheduled_sampling, self.sampling_schedule = scheduled_sampling, sampling_schedule
        self.sampled = 0.0 if sampling_schedule == "linear" else scheduled_sampling
        self.bleu, self.monitor, self.replace_unk = bleu, monitor, replace_unk

    def prepare(self, tokenizer: ExampleTokenizer) -> None:
        if self.replace_unk and "words" not in getattr(tokenizer, "fields", {}):
            raise ConfigError("task.replace_unk=true copies words of the source, and this data has none; leave it out")

    def check_inference(self, model: SequenceModel) -> None:
        if self.replace_unk and model.head.attention is None:
            raise ConfigError(
                "task.replace_unk=true copies the word of the source that has most attention, and this model has none "
                "(model.head.attention=none); leave it out"
            )

    def check(self, config: Config, model: nn.Module, data: Data) -> None:
        super().check(config, model, data)
        self.check_inference(model)  # type: ignore[arg-type]
        if self.bleu:
            corpus_scores([], [])

    def begin_step(self, at: Moment) -> None:
        if self.sampling_schedule == "linear":
            self.sampled = self.scheduled_sampling * min(at.fraction, 1.0)

    def objective(self, model: SequenceModel, batch: ExampleBatch, carry: Carry) -> tuple[Carry, Tensor, None]:
        return carry, model.head.loss_sum(*model.encode(batch), batch, self.sampled), None

    def predict(self, model: SequenceModel, encoded: Encoded, tokenizer: ExampleTokenizer) -> list[Prediction]:
        names, written = tokenizer.vocabularies["target"], self._write(model, encoded)
        predictions: list[Prediction] = [{"target": [names[word] for word in row]} for row in written]
        if any(UNKNOWN in row for row in written):
            for prediction, row, weights in zip(
                predictions, written, model.head.attend(*encoded, written), strict=True
            ):
                prediction["copies"] = {
                    place: int(weights[place].argmax()) for place, word in enumerate(row) if word == UNKNOWN
                }
        return predictions

    def _write(self, model: SequenceModel, encoded: Encoded) -> list[list[int]]:
        words: list[list[int]] = model.head.write(*encoded, **self.search_options, unk=self.replace_unk)
        return words

    def answers(
        self, model: SequenceModel, tokenizer: ExampleTokenizer, examples: Iterable[Example]
    ) -> list[Prediction]:
        kept = list(examples)
        predictions = super().answers(model, tokenizer, kept)
        for prediction, example in zip(predictions, kept, strict=True):
            if copies := prediction.pop("copies", None):
                prediction["target"] = with_copies(prediction["target"], copies, tokenizer.split(example["words"]))
        return predictions

    def references(self, examples: Sequence[Example], tokenizer: ExampleTokenizer) -> Sequence[Example]:
        """Targets as units, in the form in which they are looked up, and what is read at each step."""
        return [{"read": steps_read(one, tokenizer), "target": tokenizer.units(one["target"])} for one in examples]

    def count(self, prediction: Prediction, target: Example) -> Counter[Any]:
        reference = target["target"]
        words = with_copies(prediction["target"], prediction.get("copies", {}), target["read"])
        right = sum(a == b for a, b in zip(words, reference, strict=False)) + (len(words) == len(reference))
        counts: Counter[Any] = Counter(right=right, places=max(len(words), len(reference)) + 1)  # with the end
        counts["length", len(target["read"]), "exact" if words == reference else "wrong"] += 1
        if self.bleu:
            counts["pair", tuple(words), tuple(reference)] += 1
        return counts

    def compute_metrics(self, score: Score, data: Data, split: str) -> dict[str, float]:
        """loss (nats per word), exact (share of targets without an error), accuracy (share of places, end included).

        A place is right if the word there is the reference's; where one of the two has ended, it is wrong. With `bleu`
        also bleu and chrf, from 0 to 100, of whole texts.
        """
        outcomes: Counter[str] = Counter()
        pairs = []
        for key, number in score.counts.items():
            if key[0] == "length":
                outcomes[key[2]] += number
            elif key[0] == "pair":
                pairs += [tuple(map(data.tokenizer.join, key[1:]))] * number
        scores = corpus_scores(*zip(*pairs, strict=True)) if pairs else {}
        return {
            "loss": score.loss,
            "exact": outcomes["exact"] / outcomes.total(),
            "accuracy": score.counts["right"] / score.counts["places"],
            **scores,
        }

    def report(self, score: Score) -> dict[str, Any]:
        """For each length of a source, how many there are and the share of targets without an error."""
        rows = []
        for length in sorted({key[1] for key in score.counts if key[0] == "length"}):
            exact, wrong = (score.counts["length", length, outcome] for outcome in ("exact", "wrong"))
            rows.append({"length": length, "examples": exact + wrong, "exact": exact / (exact + wrong)})
        return {"by length of the source": rows}

    def display(self, model: SequenceModel, data: Data, options: SamplingConfig) -> str:
        """Some sources with what is made of them."""
        if not options.tokens:
            return ""
        examples = data["valid"].originals[:SHOWN]
        with evaluating(model):
            predictions = self.answers(model, data.tokenizer, examples)
        lines = []
        for prediction, reference, one in zip(
            predictions, self.references(examples, data.tokenizer), examples, strict=True
        ):
            text, target = map(data.tokenizer.join, (prediction["target"], reference["target"]))
            source = data.tokenizer.join(reference["read"]) if "words" in one else as_text(one["features"])
            lines.append(f"{source} -> {text}" + (f" (target: {target})" if text != target else ""))
        return "\n".join(lines)

    def figures(self, model: SequenceModel, data: Data) -> dict[str, Heatmap]:
        if model.head.attention is None:
            return {}
        return {"attention": self.attention_map(model, data.tokenizer, data["valid"].originals[0])}

    def attention_map(self, model: SequenceModel, tokenizer: ExampleTokenizer, example: Example) -> Heatmap:
        """The attention of the decoder for each word that it writes, and for the end; `example` needs no target."""
        batch = EncodedExamples.of([example], tokenizer).batch([0])
        with evaluating(model):
            ys, lengths = model.encode(batch.to(next(model.parameters()).device))
            words = self._write(model, (ys, lengths))
            weights = model.head.attend(ys, lengths, words)[0].float().cpu().numpy()
        rows = [tokenizer.vocabularies["target"][word] for word in (*words[0], END)]
        return Heatmap(weights, rows, steps_read(example, tokenizer), "written", "read")


def with_copies(words: Sequence[str], copies: Mapping[int, int], source: Sequence[str]) -> list[str]:
    """Words that were written, those at the places in `copies` replaced by the ones of the source that it names."""
    return [source[copies[place]] if place in copies else word for place, word in enumerate(words)]


def steps_read(example: Example, tokenizer: ExampleTokenizer) -> list[str]:
    """The inputs of an encoder, step by step: words as they are looked up, or else the numbers of the vectors."""
    return tokenizer.units(example["words"]) if "words" in example else list(map(str, range(len(example["features"]))))
