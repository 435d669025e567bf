"""Surprisals: the log-probability of each token of a text, its rank, and the entropy of what could have come."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cells import Carry, detach
from ..data.batching.batches import IGNORE_INDEX
from ..device import autocast
from ..layers.softmax import chunks
from .cache import Cache, Memory, mix
from .dynamic import DynamicWeights
from .scorer import Scorer

PIECES_ON_CPU = 64  # of what elsewhere is one: probabilities are looked at several times, which is faster in its cache


class Found(NamedTuple):
    """Of each target (T, B): ln p in nats, rank (1 is the most probable word), and the entropy of all words in nats.

    Rank and entropy are None where they were not asked for. At a target that is to be ignored all are 0.
    """

    log_p: Tensor
    rank: Tensor | None
    entropy: Tensor | None


class State(NamedTuple):
    """Where a text stands: the carry of the models, and the words that a cache remembers."""

    carry: Carry
    memory: Memory | None = None


class Surprisal:
    """Reads texts chunk by chunk, and tells how probable each token was before it was read.

    log_p_t = ln p(w_t | w_<t),  rank_t = 1 + #{v: p(v) > p(w_t)},  entropy_t = -sum_v p(v) ln p(v)

    Args:
        scorer: the probabilities of words
        ranked: whether rank and entropy are computed, too: they need the probabilities of all words at every step
        dynamic: weights of the scorer's model that go on learning from what was read; for one stream
        cache: words read lately become more likely; for one stream
        precision: of products, as `device.autocast` takes it
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        ranked: bool = True,
        dynamic: DynamicWeights | None = None,
        cache: Cache | None = None,
        precision: str = "float32",
    ) -> None:
        self.scorer, self.ranked, self.dynamic, self.cache, self.precision = scorer, ranked, dynamic, cache, precision

    def start(self, batch_size: int) -> State:
        """Before the first token."""
        return State(self.scorer.init_carry(batch_size))

    def read(self, inputs: Tensor, targets: Tensor, state: State) -> tuple[State, Found]:
        """Score targets (T, B), each behind inputs (T, B) up to it; int64, on any device."""
        device = self.scorer.device
        inputs, targets = inputs.to(device), targets.to(device)
        with torch.set_grad_enabled(self.dynamic is not None), autocast(device, self.precision):
            if self.ranked:
                carry, memory, learned, found = self._ranked(inputs, targets, state)
            else:
                carry, memory, learned, found = self._targets_only(inputs, targets, state)
        if self.dynamic is not None and (kept := targets != IGNORE_INDEX).any():
            self.dynamic.follow(-learned[kept].mean())
        return State(detach(carry), memory), found._replace(log_p=found.log_p.detach())

    def restore(self) -> None:
        """The trained weights again, where they went on learning."""
        if self.dynamic is not None:
            self.dynamic.restore()

    def _targets_only(self, inputs: Tensor, targets: Tensor, state: State) -> tuple[Carry, Any, Tensor, Found]:
        scored, memory = self.scorer.score(inputs, targets, state.carry), state.memory
        log_p = scored.log_p
        if self.cache is not None:
            memory, log_cache = self.cache.look_up(memory, scored.states.detach()[:, 0], targets[:, 0])
            log_p = mix(log_p.detach(), log_cache[:, None], self.cache.share)
        return scored.carry, memory, scored.log_p, Found(log_p, None, None)

    def _ranked(self, inputs: Tensor, targets: Tensor, state: State) -> tuple[Carry, Any, Tensor, Found]:
        carry, states, log_softmax = self.scorer.distributions(inputs, state.carry)
        memory, log_cache = state.memory, None
        if self.cache is not None:
            size = self.scorer.models[0].vocab_size
            memory, log_cache = self.cache.distribution(memory, states.detach()[:, 0], targets[:, 0], size)
        learned, found = [], []
        smaller = PIECES_ON_CPU if targets.device.type == "cpu" else 1
        for piece in chunks(len(targets), smaller * self.scorer.row_bytes(targets.shape[1])):
            logs, kept = log_softmax(piece), targets[piece] != IGNORE_INDEX
            chosen = torch.where(kept, targets[piece], 0).unsqueeze(-1)
            learned.append(logs.gather(-1, chosen).squeeze(-1))
            with torch.no_grad():
                if log_cache is not None and self.cache is not None:
                    logs = mix(logs, log_cache[piece][:, None], self.cache.share)
                log_p = logs.gather(-1, chosen)
                rank = (logs > log_p).sum(-1) + 1
                entropy = -(logs.exp() * logs.clamp_min(-1e4)).sum(-1)  # where p is 0 it adds nothing
                found.append([torch.where(kept, one, 0) for one in (log_p.squeeze(-1), rank, entropy)])
        return carry, memory, torch.cat(learned), Found(*map(torch.cat, zip(*found, strict=True)))
