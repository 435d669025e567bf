"""Scoring a text with what was read of it so far."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..cells import detach
from ..data.batching.batches import IGNORE_INDEX
from ..data.batching.streams import Streams
from ..device import autocast
from ..tasks.base import Score
from ..terminal import track
from .cache import Cache, mix
from .dynamic import DynamicWeights
from .scorer import Scorer

Observe = Callable[[Tensor, Tensor], None]


def adaptive_evaluate(
    scorer: Scorer,
    streams: Streams,
    *,
    dynamic: DynamicWeights | None = None,
    cache: Cache | None = None,
    precision: str = "float32",
    observe: Observe = lambda *_: None,
    title: str = "evaluating",
) -> Score:
    """Sum the nats of every target, each scored before anything is learned from it.

    `dynamic` are the weights of the scorer's model, `cache` remembers the states of its first reading; `observe` is
    called with ln p of the words of each chunk, by the scorer and by the cache; `title` is that of the bar. The models
    end as they began. Raises ValueError if there are several streams and there is something to adapt.
    """
    if streams.batch_size != 1 and (dynamic is not None or cache is not None):
        raise ValueError(f"batch_size={streams.batch_size}: one stream can be adapted to at a time")
    score, carry, memory = Score(), scorer.init_carry(streams.batch_size), None
    try:
        for index in track(range(len(streams)), title, " chunks"):
            inputs, targets, tokens = streams[index].to(scorer.device)
            with torch.set_grad_enabled(dynamic is not None), autocast(scorer.device, precision):
                scored = scorer.score(inputs, targets, carry)
            kept = targets != IGNORE_INDEX
            log_p = scored.log_p[kept]
            mixed = log_p.detach()
            if cache is not None:
                memory, log_cache = cache.look_up(memory, scored.states.detach()[kept], targets[kept])
                observe(mixed, log_cache)
                mixed = mix(mixed, log_cache, cache.share)
            score.loss_sum -= mixed.sum().item()
            score.tokens += tokens
            carry = detach(scored.carry)
            if dynamic is not None:
                dynamic.follow(-log_p.mean())
    finally:
        if dynamic is not None:
            dynamic.restore()
    return score
