"""Probabilities of words: from one model, from several, or from one with dropout on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..cells import Carry
from ..data.batching.batches import IGNORE_INDEX
from ..device import generator_state, set_generator_state
from ..errors import ConfigError
from ..layers import target_log_probabilities

Average = Literal["arithmetic", "geometric"]


class Scored(NamedTuple):
    """A chunk as it was scored."""

    carry: Carry
    log_p: Tensor  # (T, B): ln p of every target, 0 where there is none
    states: Tensor  # (T, B, H): outputs of the last layer in the first reading


class Place(NamedTuple):
    """Where one reading of the text stands."""

    carry: Carry
    random: Tensor  # state of the generator that its masks come from; empty without dropout


class Scorer:
    """The mean of the probabilities that several readings of one text give to a word, each with a carry of its own.

    arithmetic: p(w) = 1/K sum_k p_k(w),   geometric: p(w) ~ exp(1/K sum_k ln p_k(w)), divided by its sum over words

    p_k = softmax(logits_k / temperature). One model is read once, as it is; several are an ensemble. With `samples`
    each is read that many times with dropout on, which is Monte-Carlo dropout: masks are drawn as in training, anew
    for every chunk, from random numbers of the reading's own, which follow from `seed` and its number; torch's
    generator stays where it was. Y. Gal and Z. Ghahramani, arXiv 1512.05287 (2016); on the means G. Melis et al.,
    arXiv 1805.09208 (2018). Raises ConfigError if there are `samples`, but a model draws no mask.
    """

    def __init__(
        self,
        models: Sequence[Any],
        *,
        samples: int | None = None,
        seed: int = 1,
        mean: Average = "arithmetic",
        temperature: float = 1.0,
    ) -> None:
        self.models = [model for model in models for _ in range(samples or 1)]
        self.samples, self.seed, self.mean, self.temperature = samples, seed, mean, temperature
        self.device = next(models[0].parameters()).device

    def at(self, temperature: float) -> Scorer:
        """The same at another temperature."""
        other = copy(self)
        other.temperature = temperature
        return other

    def init_carry(self, batch_size: int) -> Carry:
        """The places of all readings before the first token."""
        seeds = torch.randint(2**63 - 1, (len(self.models),), generator=torch.Generator().manual_seed(self.seed))
        empty = torch.empty(0, dtype=torch.uint8)
        states = [
            torch.Generator(self.device).manual_seed(seed).get_state() if self.samples else empty
            for seed in seeds.tolist()
        ]
        return tuple(
            Place(model.init_carry(batch_size), state) for model, state in zip(self.models, states, strict=True)
        )

    def score(self, tokens: Tensor, targets: Tensor, carry: Carry) -> Scored:
        """Read a chunk of tokens (T, B) and score targets (T, B): ln p of each."""
        if self.mean == "geometric":  # which needs all words to divide by their sum
            carry, states, log_softmax = self.distributions(tokens, carry)
            row = self.row_bytes(targets.shape[1])
            log_p = target_log_probabilities(log_softmax, targets, row, IGNORE_INDEX)
            return Scored(carry, torch.where(targets == IGNORE_INDEX, 0.0, log_p), states)
        places, log_ps = [], []
        tops: list[Tensor] = []
        for model, reading, place in self._readings(tokens, carry):
            places.append(place)
            tops = tops or [reading.top]
            log_ps.append(model.log_probabilities(reading, targets, self.temperature, IGNORE_INDEX))
        log_p = torch.stack(log_ps).logsumexp(0) - math.log(len(log_ps))
        return Scored(tuple(places), torch.where(targets == IGNORE_INDEX, 0.0, log_p), tops[0])

    def distributions(self, tokens: Tensor, carry: Carry) -> tuple[Carry, Tensor, Callable[[slice], Tensor]]:
        """Read a chunk of tokens (T, B): carry, states (T, B, H), and a function of some steps t that gives all words.

        What it gives is ln p (t, B, V): a chunk of a large vocabulary is asked for in pieces.
        """
        places, readings = [], []
        tops: list[Tensor] = []
        for _, reading, place in self._readings(tokens, carry):
            places.append(place)
            tops = tops or [reading.top]
            readings.append(reading._replace(top=None, dropped=None))

        def log_softmax(steps: slice) -> Tensor:
            found: Any = None
            for model, reading in zip(self.models, readings, strict=True):  # one after the other: they are large
                logs = model.log_softmax(reading.part(steps), self.temperature)
                if found is None:
                    found = logs
                else:
                    found = found + logs if self.mean == "geometric" else torch.logaddexp(found, logs)
            count = len(self.models)
            if count > 1:
                found = (found / count).log_softmax(-1) if self.mean == "geometric" else found - math.log(count)
            return found  # type: ignore[no-any-return]

        return tuple(places), tops[0], log_softmax

    def row_bytes(self, batch_size: int) -> int:
        """The size of what is held for all words at one step."""
        return max(int(model.row_bytes(batch_size)) for model in self.models)

    def _readings(self, tokens: Tensor, carry: Carry) -> Iterator[tuple[Any, Any, Place]]:
        """Each model with the chunk as it reads it, and where that reading stands then."""
        for model, place in zip(self.models, carry, strict=True):
            reading, random = self._read(model, tokens, place)
            yield model, reading, Place(reading.carry, random)

    def _read(self, model: Any, tokens: Tensor, place: Place) -> tuple[Any, Tensor]:
        """The chunk as `model` reads it, and the state of its generator after that."""
        was_training = model.training
        model.train(self.samples is not None)
        try:
            if self.samples is None:
                return model.read(tokens, place.carry), place.random
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                set_generator_state(place.random, self.device)
                reading = model.read(tokens, place.carry)
                random = generator_state(self.device)
        finally:
            model.train(was_training)
        if torch.equal(random, place.random):
            raise ConfigError(f"monte_carlo.samples={self.samples} does nothing: a model of this run has no dropout")
        return reading, random
