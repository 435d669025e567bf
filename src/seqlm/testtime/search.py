"""Choosing what a model does while it is tested, on the validation split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..data import Streams
from .adaptive import Adaptation, adaptive_evaluate
from .cache import Cache
from .dynamic import DynamicWeights

SHARES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)


def climb(loss_of: Callable[[float], float], start: float, factor: float, most: int = 8) -> float:
    """The best of start * factor^k, walking from k = 0 in the direction that helps until it no longer does."""
    best, found = loss_of(start), start
    for direction in (factor, 1 / factor):
        value = found
        for _ in range(most):
            value *= direction
            loss = loss_of(value)
            if not loss < best:
                break
            best, found = loss, value
        if found != start:
            break
    return found


def search(
    model: Any,
    streams: Streams,
    device: torch.device,
    make: Callable[[float, float], DynamicWeights] | None,
    dynamic: tuple[float, float],
    cache: Cache | None,
    temperature: float | None,
    tell: Callable[[str], None],
    fixed: DynamicWeights | None = None,
) -> dict[str, Any]:
    """Choose temperature, then lr and decay of dynamic evaluation, then flatness and share of the cache.

    `make(lr, decay)` builds dynamic weights, tried from `dynamic` on; without it they are `fixed`, or left out, as is a
    `cache` of None. A `temperature` that is given is kept. Returns what was chosen, and the loss of every trial.
    """
    trials: list[dict[str, Any]] = []

    def loss(note: dict[str, Any], adaptation: Adaptation, observe: Any = lambda *_: None) -> float:
        found = adaptive_evaluate(model, streams, device, adaptation, observe).loss
        return keep(note, found)

    def keep(note: dict[str, Any], found: float) -> float:
        trials.append({**note, "loss": round(found, 6)})
        tell("  ".join(f"{key} {value:g}" for key, value in trials[-1].items()))
        return found

    chosen: dict[str, Any] = {}
    if temperature is None:
        temperature = climb(lambda t: loss({"temperature": t}, Adaptation(temperature=t)), 1.0, 1.04)
    chosen["temperature"] = temperature
    weights = fixed
    if make is not None:
        lr, decay = dynamic

        def adapted(lr: float, decay: float) -> float:
            return loss({"lr": lr, "decay": decay}, Adaptation(make(lr, decay), temperature=temperature))

        lr = climb(lambda value: adapted(value, decay), lr, 2.0)
        decay = climb(lambda value: adapted(lr, value), decay, 2.0)
        chosen |= {"lr": lr, "decay": decay}
        weights = make(lr, decay)
    if cache is not None:
        shares: dict[float, float] = {}  # the best one for each flatness

        def cached(flatness: float) -> float:
            trial = Cache(size=cache.size, flatness=flatness, share=0.0)
            seen: list[tuple[Tensor, Tensor | None]] = []
            observe = partial(_collect, seen)
            adaptive_evaluate(model, streams, device, Adaptation(weights, trial, temperature), observe)
            shares[flatness], found = _best_share(trial, seen)
            return keep({"flatness": flatness, "share": shares[flatness]}, found)

        flatness = climb(cached, cache.flatness or 0.3, 1.5)
        chosen |= {"flatness": flatness, "share": shares[flatness]}
    return {"chosen": chosen, "trials": trials}


def _collect(seen: list[tuple[Tensor, Tensor | None]], log_model: Tensor, log_cache: Tensor | None) -> None:
    seen.append((log_model, log_cache))


def _best_share(cache: Cache, seen: Sequence[tuple[Tensor, Tensor | None]]) -> tuple[float, float]:
    """The best of SHARES for these probabilities of model and cache, and its nats per token."""
    log_model = torch.cat([one for one, _ in seen])
    log_cache = torch.cat([two for _, two in seen if two is not None])
    losses = {}
    for share in SHARES:
        mixed = Cache(size=cache.size, flatness=cache.flatness, share=share).mix(log_model, log_cache, True)
        losses[share] = -mixed.mean().item()
    share = min(losses, key=lambda one: losses[one])
    return share, losses[share]
