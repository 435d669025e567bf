"""Tasks on texts: perplexity or bits as units, and predictions for single lines."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from ..config.metrics import PERPLEXITY, Metric
from ..data.dataset import Data
from ..data.examples import Example
from ..data.tokenizers.text import Tokenizer
from .base import Task
from .lines import predicted, read_field


def perplexity(loss_sum: float, num_tokens: int) -> float:
    """exp(loss_sum / num_tokens); infinite, not an error, for a loss that has run away."""
    mean = loss_sum / num_tokens
    return math.exp(mean) if mean < 700 else math.inf


class TextTask(Task):
    """A task on the tokens of a text."""

    metrics: ClassVar[tuple[Metric, ...]] = (PERPLEXITY,)
    reported = ("ppl",)
    eval_options: ClassVar[tuple[str, ...]] = ("bptt",)

    def training_metrics(self, loss_sum: float, tokens: int, data: Data) -> dict[str, float]:
        """Perplexity; of characters and bytes bpc too, with as many characters a token as all of train has."""
        found = {"ppl": perplexity(loss_sum, tokens)}
        if data.tokenizer.kind in ("char", "byte"):
            encoded = data["train"]
            found["bpc"] = loss_sum / math.log(2) / tokens * len(encoded) / encoded.counts.characters
        return found

    @abstractmethod
    def predict_texts(self, model: Any, tokenizer: Tokenizer, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Predictions for lines that stand alone, none of them empty. May raise ConfigError."""

    def reads(self, model: Any, tokenizer: Tokenizer) -> tuple[str, ...]:
        return ("words",)

    def predict_lines(self, model: Any, tokenizer: Tokenizer, lines: Sequence[Example]) -> list[dict[str, Any]]:
        def text(line: Example) -> str | None:
            words = read_field("words", line, tokenizer)
            return None if len(words) == 0 else words if isinstance(words, str) else " ".join(words)

        return predicted(lines, text, partial(self.predict_texts, model, tokenizer))

    def unit(self, data: Data) -> str:
        """Perplexity of words, bits of characters and bytes."""
        return {"char": "bpc", "byte": "bits/byte"}.get(data.tokenizer.kind, "ppl")


def line_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a line; a line of words has its end as well."""
    return tokenizer.encode(text + ("\n" if tokenizer.kind == "word" else ""))
