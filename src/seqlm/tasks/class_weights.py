"""Class weights: how many times each class counts in the loss that is learned from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..data.batching.bucketed import EncodedExamples, ExampleBatch
from ..errors import ConfigError

ClassWeights = Literal["balanced"] | Mapping[str, float] | None
SHOWN = 6  # in the header of a run


class WeightedLoss:
    """The loss of the classes in a field of examples, of which some may count more than others while training.

    A target of class k counts w_k times: "balanced" w_k = N / (K n_k) for n_k of the N targets of train and K classes
    that it has, as in scikit-learn, so that every class counts as much as any other; or w by class, 1 where none is
    given. The weighted loss is what is learned from; the loss that is logged, on train as on valid, is not weighted, so
    that runs can be compared whatever they have learned from.

    Args:
        given: "balanced", weights by class, or None: all are 1.
        name: the field, tags or label.
        key: the key as typed, for messages.
    """

    def __init__(self, given: ClassWeights, name: str, key: str) -> None:
        self.given, self.name, self.key = given, name, key
        self.weights: Tensor | None = None
        self.names: list[str] = []

    def check(self, head: Any) -> None:
        """Raise ConfigError for a head whose loss is not a sum over classes."""
        if self.given is not None and not getattr(head, "takes_weights", False):
            raise ConfigError(
                f"{self.key} weighs each of the {self.name} by itself, but the loss of a {type(head).__name__} is of a "
                "whole sequence; leave it out, or choose a head that scores each by itself (model/head=tags)"
            )

    def fit(self, split: EncodedExamples) -> None:
        """Take the classes and their numbers from what is learned from. Raises ConfigError for a class it lacks."""
        if self.given is None:
            return
        self.names = split.tokenizer.vocabularies[self.name]
        ids = np.concatenate([np.ravel(example[self.name]) for example in split.encoded])
        counts = np.bincount(ids[ids >= 0], minlength=len(self.names))
        self.weights = balanced(counts) if self.given == "balanced" else self._by_class(self.given)

    def _by_class(self, given: Mapping[str, float]) -> Tensor:
        for name, value in given.items():
            if name not in self.names:
                there = ", ".join(self.names[:20]) + " ..." * (len(self.names) > 20)
                raise ConfigError(f"{self.key}: train has no {self.name} {name}; there are: {there}")
            if not 0 <= value < math.inf:
                raise ConfigError(f"{self.key}.{name}={value:g} must be at least 0, and finite")
        weights = torch.tensor([float(given.get(name, 1.0)) for name in self.names])
        if not weights.any():
            raise ConfigError(f"{self.key}: all weights are 0, so that nothing is learned; give one of them more")
        return weights

    def __call__(self, head: Any, encoded: tuple[Tensor, Tensor], batch: ExampleBatch) -> tuple[Tensor, Tensor | None]:
        """(summed loss, what the weighted one adds to it) of a batch that the model has encoded."""
        loss = head.loss_sum(*encoded, batch)
        if self.weights is None:
            return loss, None
        return loss, head.loss_sum(*encoded, batch, self.weights.to(loss.device)) - loss

    def decisions(self) -> list[tuple[str, str]]:
        """A row in the header of a run, the largest weights first."""
        if self.weights is None:
            return []
        ranked = sorted(zip(self.weights.tolist(), self.names, strict=True), key=lambda pair: -pair[0])
        shown = ", ".join(f"{name} {weight:.3g}" for weight, name in ranked[:SHOWN])
        return [("class weights", shown + ", ..." * (len(ranked) > SHOWN))]


def balanced(counts: Any) -> Tensor:
    """N / (K n_k) for each of the counts n_k; 1 for a class that train lacks."""
    present = counts > 0
    weights = counts.sum() / (present.sum() * np.where(present, counts, 1))
    return torch.tensor(np.where(present, weights, 1.0), dtype=torch.float32)
