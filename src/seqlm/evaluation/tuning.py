"""Choosing what a model does while it is tested, on the validation split."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..tasks.base import Score
from .adaptive import Observe
from .cache import mix

SHARES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)


class Setting(NamedTuple):
    """The numbers that can be chosen on valid. Without `lr` weights stay, without `flatness` there is no cache."""

    temperature: float = 1.0
    lr: float | None = None
    decay: float = 0.0
    flatness: float | None = None
    share: float = 0.0


def climb(loss_of: Callable[[float], float], start: float, factor: float, most: int = 8) -> tuple[float, bool]:
    """The best of start * factor^k, walking from k = 0 in the direction that helps until it no longer does.

    And whether it still helped at the last of `most` steps.
    """
    best, found = loss_of(start), start
    for direction in (factor, 1 / factor):
        value = found
        for _ in range(most):
            value *= direction
            loss = loss_of(value)
            if not loss < best:
                break
            best, found = loss, value
        else:
            return found, True
        if found != start:
            break
    return found, False


def search(
    score: Callable[[Setting, Observe], Score],
    start: Setting,
    names: Collection[str],
    log: Callable[[str], None],
) -> tuple[Setting, list[dict[str, Any]], list[str]]:
    """Choose temperature, then lr and decay, then flatness and share: those of them in `names`.

    The temperature is chosen without the other two, lr and decay without the cache. `score` scores valid under a
    setting. Returns what was chosen, the loss of every trial, and what was still getting better where its search ended.
    """
    trials: list[dict[str, Any]] = []
    losses: dict[Setting, float] = {}
    open_ended: list[str] = []

    def keep(note: dict[str, Any], loss: float) -> float:
        trials.append({**note, "loss": round(loss, 6)})
        log("  ".join(f"{key} {value:g}" for key, value in trials[-1].items()))
        return loss

    def best(at: Setting, name: str, shown: Sequence[str], factor: float) -> Setting:
        def loss_of(value: float) -> float:
            trial = at._replace(**{name: value})
            if trial not in losses:  # decay begins where lr has ended
                losses[trial] = score(trial, lambda *_: None).loss
                keep({key: getattr(trial, key) for key in shown}, losses[trial])
            return losses[trial]

        return at._replace(**{name: climbed(name, loss_of, getattr(at, name), factor)})

    def climbed(name: str, loss_of: Callable[[float], float], start: float, factor: float) -> float:
        found, still = climb(loss_of, start, factor)
        open_ended.extend([name] * still)
        return found

    setting = start._replace(lr=None, flatness=None)
    if "temperature" in names:
        setting = best(setting, "temperature", ["temperature"], 1.04)
    if start.lr is not None:
        setting = setting._replace(lr=start.lr)
        for name in ("lr", "decay"):
            if name in names:
                setting = best(setting, name, ["lr", "decay"], 2.0)
    if start.flatness is not None:
        setting = setting._replace(flatness=start.flatness)
        if "flatness" in names:
            shares: dict[float, float] = {}  # the best one for each flatness

            def cached(flatness: float) -> float:
                seen: list[tuple[Tensor, Tensor]] = []
                score(setting._replace(flatness=flatness), lambda *both: seen.append(both))
                shares[flatness], loss = best_share(seen)
                return keep({"flatness": flatness, "share": shares[flatness]}, loss)

            flatness = climbed("flatness", cached, start.flatness or 0.3, 1.5)
            setting = setting._replace(flatness=flatness, share=shares[flatness])
            open_ended.extend(["share"] * (setting.share == max(SHARES)))
    return setting, trials, open_ended


def best_share(seen: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """The best of SHARES for these ln p of model and cache, and its nats per token."""
    log_model, log_cache = (torch.cat(parts) for parts in zip(*seen, strict=True))
    losses = {share: -mix(log_model, log_cache, share).mean().item() for share in SHARES}
    share = min(losses, key=lambda one: losses[one])
    return share, losses[share]
