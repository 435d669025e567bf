"""Scoring a stream with a model that adapts to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..cells import detach
from ..data import IGNORE, Streams
from ..tasks import Score
from .cache import Cache
from .dynamic import DynamicWeights


@dataclass
class Adaptation:
    """What is done while a stream is scored; each of them may be left out."""

    dynamic: DynamicWeights | None = None
    cache: Cache | None = None
    temperature: float = 1.0


def adaptive_evaluate(
    model: Any,
    streams: Streams,
    device: torch.device,
    adaptation: Adaptation,
    observe: Callable[[torch.Tensor, torch.Tensor | None], None] = lambda *_: None,
) -> Score:
    """Sum the nats of every target of one stream; each is scored before anything is learned from it.

    `observe` hears of ln p_model and ln p_cache of the words of each window. The model ends as it began. Raises
    ValueError if `streams` has several columns.
    """
    if streams.batch_size != 1:
        raise ValueError(f"batch_size={streams.batch_size}: one stream can be adapted to at a time")
    dynamic, cache = adaptation.dynamic, adaptation.cache
    was_training = model.training
    model.eval()
    score, carry, first = Score(), model.init_carry(1), True
    if cache is not None:
        cache = Cache(size=cache.size, flatness=cache.flatness, share=cache.share)
    try:
        for index in range(len(streams)):
            inputs, targets, tokens = streams[index]
            inputs, targets = inputs.to(device), targets.to(device)
            with torch.set_grad_enabled(dynamic is not None):
                reading = model.read(inputs, carry)
                log_p = model.log_probabilities(reading, targets, adaptation.temperature)[:, 0]
            kept = targets[:, 0] != IGNORE
            with torch.no_grad():
                log_model, log_cache = log_p.detach().float()[kept], None
                mixed = log_model
                if cache is not None:
                    log_cache = cache.log_cache(reading.top.detach()[:, 0][kept].float(), targets[:, 0][kept])
                    mixed = cache.mix(log_model, log_cache, first)
                observe(log_model, log_cache)
            score.nats -= mixed.sum().item()
            score.tokens += tokens
            carry, first = detach(reading.carry), False
            if dynamic is not None:
                for parameter in dynamic.parameters:
                    parameter.grad = None
                (-log_p[kept].mean()).backward()
                dynamic.step()
    finally:
        if dynamic is not None:
            dynamic.restore()
        model.train(was_training)
    return score
