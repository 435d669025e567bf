"""One to many: texts for a label, for a vector, or for nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..cells import Carry
from ..config.metrics import PERPLEXITY
from ..config.schema import Config, SamplingConfig
from ..config.verb_schema import SampleConfig
from ..data.batching.bucketed import Bucketed, EncodedExamples, ExampleBatch
from ..data.dataset import Data
from ..data.examples import Example
from ..data.fields import END, UNKNOWN
from ..data.tokenizers.examples import ExampleTokenizer
from ..errors import ConfigError
from ..models.conditional import ConditionalModel, one_vector
from ..models.decoder import Decoder
from .base import Score, evaluating
from .examples import Encoded, ExampleTask, Prediction
from .generation import draw
from .text import perplexity

SHOWN = 4  # texts at each evaluation


class Conditional(ExampleTask):
    """Writes a text under a condition: loss = -sum_t ln p(w_t | w_<t, c), the end of each text included.

    The text is the field `target`; `data.rename={words: target}` makes it of what is read elsewhere. Where the model
    has learned the empty condition, `empty_ppl` is the perplexity without a condition. `seqlm predict` writes
    the most probable text, word by word, of `max_length` words at most; `seqlm sample` draws.
    """

    model, writes = ConditionalModel, True
    head = Decoder
    targets = ("target",)
    metrics = (PERPLEXITY,)
    reported = ("ppl",)
    sample_options = ("condition",)
    inference_options = ("max_length",)

    def __init__(self, *, max_length: int = 100) -> None:
        if max_length < 1:
            raise ValueError(f"max_length={max_length} must be at least 1")
        self.max_length = max_length

    def check(self, config: Config, model: nn.Module, data: Data) -> None:
        super().check(config, model, data)
        prompt_units(data.tokenizer, config.sample.prompt, "sample.prompt")
        for split in ("train", "valid") if model.condition == "features" else ():
            for one in data[split].originals:
                one_vector(one["features"])

    def score(self, model: Any, batch: ExampleBatch, carry: Carry, batches: Bucketed) -> tuple[Carry, Score]:
        for one in batches.split.examples(batch) if model.condition == "features" else ():
            one_vector(one["features"])
        counts: Counter[str] = Counter()
        if model.empty:
            empty: Any = model.head.loss_sum(*model.encode(batch, empty=True), batch).item()
            counts["empty"] = empty
        return carry, Score(model.loss_sum(batch).item(), batch.tokens, counts)

    def compute_metrics(self, score: Score, data: Data, split: str) -> dict[str, float]:
        """loss (nats per word, ends included), ppl, and empty_ppl, under the empty condition, if it was learned."""
        metrics = {"loss": score.loss, "ppl": perplexity(score.loss_sum, score.tokens)}
        empty = {"empty_ppl": perplexity(score.counts["empty"], score.tokens)} if "empty" in score.counts else {}
        return {**metrics, **empty}

    def training_metrics(self, loss_sum: float, tokens: int, data: Data) -> dict[str, float]:
        """Perplexity."""
        return {"ppl": perplexity(loss_sum, tokens)}

    def predict(self, model: Any, encoded: Encoded, tokenizer: ExampleTokenizer) -> list[Prediction]:
        names = tokenizer.vocabularies["target"]
        written = model.head.write(*encoded, max_length=self.max_length)
        return [{"target": tokenizer.join(names[word] for word in row)} for row in written]

    def reads(self, model: Any, tokenizer: ExampleTokenizer) -> tuple[str, ...]:
        return () if model.condition == "nothing" else (model.condition,)

    def display(self, model: Any, data: Data, options: SamplingConfig) -> str:
        """A text for each of the first labels, or for the first vectors of valid."""
        given: list[Example | None] = [None]
        if model.condition == "label":
            given = [{"label": label} for label in data.tokenizer.vocabularies["label"][:SHOWN]]
        elif model.condition == "features":
            given = [*data["valid"].originals[:SHOWN]]
        lines = []
        for index, example in enumerate(given if options.tokens else ()):
            text = options.prompt + "".join(
                sampled(model, data.tokenizer, example, replace(options, seed=options.seed + index))
            )
            lines.append(f"{example['label']}: {text}" if example and model.condition == "label" else text)
        return "\n".join(lines)

    def write(self, model: Any, tokenizer: ExampleTokenizer, options: SampleConfig) -> Iterator[str]:  # type: ignore[override]
        return sampled(model, tokenizer, conditioned(model, tokenizer, options.condition), options)


@torch.no_grad()
def sampled(
    model: ConditionalModel, tokenizer: ExampleTokenizer, example: Example | None, options: SamplingConfig
) -> Iterator[str]:
    """Yield the text after `options.prompt` word by word, for what an example gives, None for the empty condition.

    Up to its end, `options.tokens` words at most. Raises ConfigError for a prompt that the vocabulary lacks.
    """
    names, prompt = tokenizer.vocabularies["target"], prompt_units(tokenizer, options.prompt)
    given: Example = {} if example is None else {model.condition: example[model.condition]}
    generator, separator = torch.Generator().manual_seed(options.seed), "" if tokenizer.unit == "char" else " "
    batch = EncodedExamples.of([given], tokenizer).batch([0])
    with evaluating(model):
        batch = batch.to(next(model.parameters()).device)
        memory, state = model.head.start(*model.encode(batch, empty=example is None))
        step, words = model.head.scores(memory, state), [END, *(names.index(unit) for unit in prompt)]
        for place in range(len(prompt) + options.tokens):
            state, logs = step(state, torch.tensor([words[place]], device=state.fed.device))
            if place + 1 < len(words):
                continue
            last = logs[0].float().cpu()
            if not options.allow_unk:
                last[UNKNOWN] = -torch.inf
            words.append(draw(last, options, generator))
            if words[-1] == END:
                return
            yield (separator if place else "") + names[words[-1]]


def prompt_units(tokenizer: ExampleTokenizer, prompt: str, key: str = "prompt") -> list[str]:
    """The words of a prompt. Raises ConfigError, naming `key`, if the vocabulary of texts lacks one."""
    units = tokenizer.units(prompt)
    if missing := [unit for unit in units if unit not in tokenizer.vocabularies["target"]]:
        raise ConfigError(f"{key}={prompt!r} has what the vocabulary lacks: {', '.join(missing)}; leave it out")
    return units


def conditioned(model: ConditionalModel, tokenizer: ExampleTokenizer, condition: Any) -> Example | None:
    """The example that a condition makes, as people type it: a label, or the numbers of a vector."""
    if condition is None:
        if model.nothing is None:
            raise ConfigError(
                "condition is not set, and this run has not learned texts without one (model.empty=0); "
                f"set condition={_choices(model, tokenizer)}"
            )
        return None
    if model.condition == "label" and str(condition) in tokenizer.vocabularies["label"]:
        return {"label": str(condition)}
    if model.condition == "features":
        try:
            return {"features": np.asarray(condition, dtype=np.float32).reshape(1, tokenizer.num_features)}
        except (TypeError, ValueError):
            pass
    if model.condition == "nothing":
        raise ConfigError(f"condition={condition} does nothing: this run writes texts without one; leave it out")
    raise ConfigError(f"condition={condition} is unknown; set condition={_choices(model, tokenizer)}")


def _choices(model: ConditionalModel, tokenizer: ExampleTokenizer) -> str:
    """The values of a condition, for people."""
    if model.condition == "features":
        return f"[x, y, ...], {tokenizer.sizes()['num_features']} numbers"
    labels = tokenizer.vocabularies["label"]
    return " | ".join(labels[:20]) + (f" | ... ({len(labels)} of them)" if len(labels) > 20 else "")
