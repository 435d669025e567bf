"""The interface of a field of examples: one kind of input or target."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .batching.batches import IGNORE_INDEX

if TYPE_CHECKING:
    from .tokenizers.examples import ExampleTokenizer


class Field(ABC):
    """One kind of input or target: `name` in batches, made of the entry `source` of an example.

    A field is fitted on train (`see` each value, then `fit`), encodes one value after the other, and pads a batch of
    them. It is saved with the tokenizer, whose settings say how texts are split.
    """

    name: str
    source: str
    title: str = ""  # in the header of a run; empty: not shown
    renames: ClassVar[tuple[str, ...]] = ()  # the other fields that data.rename may make of it
    sequence: bool = False  # (T, B, ...) with lengths; else one entry for each example
    aligned: bool = False  # one entry for each step that is read: lengths must agree
    fill: ClassVar[float] = 0  # what follows the end of a sequence
    dtype: ClassVar[type] = np.int64

    def __init__(self, tokenizer: ExampleTokenizer) -> None:
        self.tokenizer = tokenizer

    def see(self, value: Any) -> None:
        """Take notice of a value in train."""
        return None

    def fit(self) -> None:
        """Decide on ids, once all of train was seen."""
        return None

    @property
    def sizes(self) -> dict[str, int]:
        """The numbers that a model must know of it; the first one is shown in the header of a run."""
        return {}

    def save(self, data: dict[str, Any]) -> None:
        """Add what was fitted to what is saved of a tokenizer."""
        return None

    def load(self, data: Mapping[str, Any]) -> bool:
        """Read what `save` wrote; returns whether there was something."""
        return False

    @abstractmethod
    def encode(self, value: Any) -> Any:
        """The numbers of one value. Raises ConfigError for what it cannot be."""

    def lacks(self, encoded: Any) -> str:
        """Why nothing of an encoded target can be scored; empty if something can."""
        return ""

    def pad(self, values: Sequence[Any]) -> dict[str, Tensor]:
        """Encoded values as tensors of a batch, by name."""
        if not self.sequence:
            return {self.name: torch.tensor(values)}
        return {self.name: torch.from_numpy(padded(values, self.fill, self.dtype))}

    @staticmethod
    def targets(tensor: Tensor) -> int:
        """How many targets that count there are in what `pad` made."""
        return int((tensor != IGNORE_INDEX).sum())

    @staticmethod
    def digest(value: Any) -> bytes:
        """Bytes that change whenever a value does."""
        return json.dumps(value).encode("utf-8", "surrogatepass")


def padded(values: Sequence[Any], fill: float, dtype: type) -> NDArray[Any]:
    """Sequences (T, ...) side by side (T, B, ...), filled up to the longest."""
    table = np.full((max(map(len, values)), len(values), *np.shape(values[0])[1:]), fill, dtype)
    for index, value in enumerate(values):
        table[: len(value), index] = value
    return table
