"""Batches of whole sequences: padded to the longest, of lengths that are alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ConfigError
from ..examples import SEQUENCES, Example
from ..tokenizers.examples import ExampleTokenizer
from .streams import IGNORE

POOL = 50  # batches whose sequences are sorted by length together
FILL = {"tags": IGNORE, "target": IGNORE}  # what follows the end of a sequence; 0 elsewhere


@dataclass(frozen=True)
class EncodedExamples:
    """One split as examples: `encoded` holds their arrays, or what reads them, `originals` what was read."""

    encoded: Sequence[dict[str, Any]]
    originals: Sequence[Example]
    tokenizer: ExampleTokenizer
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.encoded)

    def batch(self, indices: Sequence[int], targets: Sequence[str] = ()) -> ExampleBatch:
        """Some of the examples, all of which have the same fields, as one batch."""
        fields, lengths = _padded([self.encoded[index] for index in indices])
        originals = [self.originals[index] for index in indices]
        return ExampleBatch(fields, lengths, targets, list(indices), originals, self.tokenizer)


@dataclass(frozen=True)
class ExampleBatch:
    """Fields by name, padded: sequences (T, B, ...) with `lengths` (B,), labels (B,); characters of words (T, B, L)
    with `character_lengths` (T, B).

    Fields that are targets are filled up with IGNORE, others with 0; models mask what is beyond a length, so that
    padding changes no result. `indices` are the places of its examples in the split, `originals` the examples.
    """

    fields: Mapping[str, Tensor]
    lengths: Mapping[str, Tensor]
    targets: Sequence[str]  # the fields that are predicted
    indices: Sequence[int]
    originals: Sequence[Example]
    tokenizer: ExampleTokenizer

    def __getitem__(self, name: str) -> Tensor:
        """The field `name`; raises ConfigError if this split has none."""
        if name not in self.fields:
            raise ConfigError(f"this split has no {name}, which the model reads or is scored by")
        return self.fields[name]

    @property
    def tokens(self) -> int:
        """Targets that count: tags, target words and labels that have an id; an end for each target sequence."""
        count = sum(int((self[name] != IGNORE).sum()) for name in self.targets)
        return count + (self.columns if "target" in self.targets else 0)

    @property
    def columns(self) -> int:
        """Sequences read side by side."""
        return len(self.indices)

    def to(self, device: torch.device) -> ExampleBatch:
        """The batch on the device that computes."""
        return self._with(lambda tensor, _: tensor.to(device))

    def parts(self, count: int) -> list[ExampleBatch]:
        """Its columns in `count` groups."""
        if count == 1:
            return [self]
        return [self._columns(group) for group in torch.arange(self.columns).chunk(count)]

    def _columns(self, group: Tensor) -> ExampleBatch:
        kept = group.tolist()
        batch = self._with(lambda tensor, axis: tensor.index_select(axis, group.to(tensor.device)))
        indices, originals = [self.indices[k] for k in kept], [self.originals[k] for k in kept]
        return replace(batch, indices=indices, originals=originals)

    def _with(self, change: Callable[[Tensor, int], Tensor]) -> ExampleBatch:
        """Every tensor changed; `change` is told which axis its columns are on."""
        fields = {name: change(tensor, min(tensor.dim() - 1, 1)) for name, tensor in self.fields.items()}
        return replace(self, fields=fields, lengths={name: change(one, 0) for name, one in self.lengths.items()})


def _padded(examples: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    fields: dict[str, Tensor] = {}
    lengths: dict[str, Tensor] = {}
    for name in examples[0]:
        values = [example[name] for example in examples]
        if name == "characters":
            longest = max((len(word) for words in values for word in words), default=0)
            padded = np.zeros((max(map(len, values)), len(values), max(longest, 1)), dtype=np.int64)
            sizes = np.zeros(padded.shape[:2], dtype=np.int64)
            for column, words in enumerate(values):
                for row, word in enumerate(words):
                    padded[row, column, : len(word)], sizes[row, column] = word, len(word)
            fields["characters"], fields["character_lengths"] = torch.from_numpy(padded), torch.from_numpy(sizes)
        elif name in SEQUENCES:
            sized = [len(value) for value in values]
            dtype = np.float32 if name == "features" else np.int64
            padded = np.full((max(sized), len(values), *values[0].shape[1:]), FILL.get(name, 0), dtype)
            for column, value in enumerate(values):
                padded[: len(value), column] = value
            fields[name], lengths[name] = torch.from_numpy(padded), torch.tensor(sized)
        else:
            fields[name] = torch.tensor(values)
    return fields, lengths


class Bucketed:
    """Batches of `batch_size` examples of like length; every example in one of them.

    With a `seed` the order is drawn anew in every epoch, from the seed and the epoch's number alone: examples are
    shuffled, sorted by length within pools of 50 batches, and the batches shuffled. Without one they are sorted once
    and for all. Raises ConfigError, naming the keys under `where`, if there are fewer examples than columns.
    """

    def __init__(
        self,
        split: EncodedExamples,
        batch_size: int,
        targets: Sequence[str],
        *,
        seed: int | None = None,
        where: str = "",
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"{where}batch_size={batch_size} must be at least 1")
        if batch_size > len(split) and seed is not None:
            raise ConfigError(
                f"{where}batch_size={batch_size} is more than there are examples; "
                f"use {where}batch_size={len(split)} at most"
            )
        self.split, self.batch_size, self.wanted, self.seed = split, batch_size, targets, seed
        self.sizes = np.array([max([len(e[name]) for name in SEQUENCES if name in e]) for e in split.encoded])
        self.start_epoch(0)

    @cached_property
    def targets(self) -> int:
        """Targets of an epoch."""
        return sum(self[index].tokens for index in range(len(self)))

    def count(self, epoch: int) -> int:
        """The number of batches in an epoch: the same in all."""
        return -(-len(self.split) // self.batch_size)

    def scale(self, index: int) -> float:
        """Every batch is a step of the same size."""
        return 1.0

    def start_epoch(self, epoch: int) -> None:
        """Arrange the examples of this epoch."""
        size, count = self.batch_size, len(self.split)
        if self.seed is None:
            order = np.argsort(self.sizes, kind="stable")
            self.batches = [order[start : start + size] for start in range(0, count, size)]
            return
        generator = np.random.default_rng([self.seed, epoch])
        order, batches = generator.permutation(count), []
        for low in range(0, count, POOL * size):
            pool = order[low : low + POOL * size]
            pool = pool[np.argsort(self.sizes[pool], kind="stable")]
            batches += [pool[start : start + size] for start in range(0, len(pool), size)]
        self.batches = [batches[index] for index in generator.permutation(len(batches))]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> ExampleBatch:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.split.batch(self.batches[index].tolist(), self.wanted)
