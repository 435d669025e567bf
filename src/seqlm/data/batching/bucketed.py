"""Batches of whole sequences: padded to the longest, of lengths that are alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ConfigError
from ...terminal import track
from ..examples import Example
from ..fields import FIELDS
from ..tokenizers.examples import ExampleTokenizer
from .batches import Batches, require_positive

POOL = 50  # batches whose sequences are sorted by length together


@dataclass(frozen=True)
class EncodedExamples:
    """One split as examples: `encoded` holds their numbers, or what reads them, `originals` the examples themselves."""

    encoded: Sequence[dict[str, Any]]
    originals: Sequence[Example]
    tokenizer: ExampleTokenizer
    fingerprint: str = ""

    @classmethod
    def of(cls, originals: Iterable[Example], tokenizer: ExampleTokenizer, fingerprint: str = "") -> EncodedExamples:
        """Examples, encoded."""
        kept = list(originals)
        encoded = [tokenizer.encode(example) for example in track(kept, "encoding", " examples")]
        return cls(encoded, kept, tokenizer, fingerprint)

    def __len__(self) -> int:
        return len(self.encoded)

    @cached_property
    def sizes(self) -> list[int]:
        """The length of the longest sequence of each example."""
        names = [name for name in self.encoded[0] if self.tokenizer.fields[name].sequence]
        return [max(len(example[name]) for name in names) for example in self.encoded]

    def batch(self, indices: Sequence[int], targets: Sequence[str] = ()) -> ExampleBatch:
        """Some of the examples, all of which have the same fields, as one batch."""
        fields: dict[str, Tensor] = {}
        lengths: dict[str, Tensor] = {}
        for name in self.encoded[indices[0]]:
            field, values = self.tokenizer.fields[name], [self.encoded[index][name] for index in indices]
            fields.update(field.pad(values))
            if field.sequence:
                lengths[name] = torch.tensor([len(value) for value in values])
        return ExampleBatch(fields, lengths, targets, list(indices))

    def examples(self, batch: ExampleBatch) -> list[Example]:
        """The examples of a batch."""
        return [self.originals[index] for index in batch.indices]


@dataclass(frozen=True)
class ExampleBatch:
    """Fields by name, padded: sequences (T, B, ...) with `lengths` (B,), others (B,); see fields.py.

    Fields that are targets are filled up with IGNORE_INDEX, others with 0; models mask what is beyond a length, so that
    padding changes no result. `indices` are the places of its examples in the split.
    """

    fields: Mapping[str, Tensor]
    lengths: Mapping[str, Tensor]
    targets: Sequence[str]  # the fields that are predicted
    indices: Sequence[int]

    def __getitem__(self, name: str) -> Tensor:
        """The field `name`; raises ConfigError if this split has none."""
        if name not in self.fields:
            raise ConfigError(f"this split has no {name}, which the model reads or is scored by")
        return self.fields[name]

    @property
    def tokens(self) -> int:
        """Targets that count."""
        return sum(FIELDS[name].targets(self[name]) for name in self.targets)

    @property
    def batch_size(self) -> int:
        """Sequences read side by side."""
        return len(self.indices)

    def to(self, device: torch.device) -> ExampleBatch:
        """The batch on the device that computes."""
        return self._with(lambda tensor, _: tensor.to(device))

    def parts(self, count: int) -> list[ExampleBatch]:
        """Its sequences in `count` groups."""
        if count == 1:
            return [self]
        return [self._part(group) for group in torch.arange(self.batch_size).chunk(count)]

    def _part(self, group: Tensor) -> ExampleBatch:
        batch = self._with(lambda tensor, axis: tensor.index_select(axis, group.to(tensor.device)))
        return replace(batch, indices=[self.indices[k] for k in group.tolist()])

    def _with(self, change: Callable[[Tensor, int], Tensor]) -> ExampleBatch:
        """Every tensor changed; `change` is called with the axis of the sequences."""
        fields = {name: change(tensor, min(tensor.dim() - 1, 1)) for name, tensor in self.fields.items()}
        return replace(self, fields=fields, lengths={name: change(one, 0) for name, one in self.lengths.items()})


class Bucketed(Batches):
    """Batches of `batch_size` examples of like length; every example in one of them.

    With a `seed` the order is drawn anew in every epoch, from the seed and the epoch's number alone: examples are
    shuffled, sorted by length within pools of 50 batches, and the batches shuffled. Without one they are sorted once
    and for all. Raises ConfigError, naming the keys under `where`, if there are fewer examples than `batch_size`.
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
        require_positive(where, batch_size=batch_size)
        if batch_size > len(split) and seed is not None:
            raise ConfigError(
                f"{where}batch_size={batch_size} is more than there are examples; "
                f"use {where}batch_size={len(split)} at most"
            )
        self.split, self.batch_size, self.target_names, self.seed = split, batch_size, targets, seed
        self.sizes = np.array(split.sizes)
        self.start_epoch(0)

    @cached_property
    def targets(self) -> int:
        """Targets of an epoch."""
        return sum(self[index].tokens for index in range(len(self)))

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
        return self.split.batch(self.batches[index].tolist(), self.target_names)
