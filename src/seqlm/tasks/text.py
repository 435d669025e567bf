"""What tasks on texts have in common: the units that people think in, and what is said of one line."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from ..data.dataset import Data
from ..data.tokenizers.text import Tokenizer
from .base import Task


def perplexity(nats: float, units: int) -> float:
    """exp(nats / units); infinite, not an error, for a loss that has run away."""
    mean = nats / units
    return math.exp(mean) if mean < 700 else math.inf


class TextTask(Task):
    """A task on the tokens of a text."""

    @abstractmethod
    def answers(self, model: Any, tokenizer: Tokenizer, texts: Sequence[str]) -> list[dict[str, Any]]:
        """What the model says of lines that stand alone, for `seqlm predict`."""

    def headline(self, loss: float, data: Data) -> str:
        """Words are told in perplexity, characters and bytes in bits."""
        bits = {"char": "bpc", "byte": "bits/byte"}.get(data.tokenizer.kind)
        return f"{bits} {loss / math.log(2):.3f}" if bits else f"ppl {perplexity(loss, 1):.2f}"


def line_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a line; a line of words has its end as well."""
    return tokenizer.encode(text + ("\n" if tokenizer.kind == "word" else ""))
