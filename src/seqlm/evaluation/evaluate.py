"""Scoring a split: every target token exactly once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..data.batching.batches import Batches
from ..device import autocast
from ..tasks.base import Score, Task, evaluating
from ..terminal import track


def evaluate(
    model: Any,
    task: Task,
    batches: Batches,
    device: torch.device,
    precision: str = "float32",
    stopped: Callable[[], bool] = lambda: False,
) -> Score:
    """Add up the scores of all batches, the carry running through; `stopped` may end it early: it is partial then."""
    score, carry = Score(), model.init_carry(batches.batch_size)
    with evaluating(model):
        for index in track(range(len(batches)), "evaluating", " batches"):
            if stopped():
                score.partial = True
                break
            with autocast(device, precision):
                carry, part = task.score(model, batches[index].to(device), carry, batches)
            score.add(part)
    return score
