"""Scoring a split: every target token exactly once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..data.batching.batches import Batches, share
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
    shared: tuple[int, int] = (0, 1),
) -> Score:
    """Add up the scores of all batches, the carry running through; `stopped` may end it early: it is partial then.

    Where batches are `shared` out over processes, by rows, the scores are those of this one, (rank, count): a score is
    a sum over rows, so those of all processes add up to that of the whole.
    """
    score, carry = Score(), None
    with evaluating(model):
        for index in track(range(len(batches)), "evaluating", " batches"):
            if stopped():
                score.partial = True
                break
            rows = share(batches[index], *shared)
            if rows is None:
                continue
            carry = model.init_carry(rows.batch_size) if carry is None else carry
            with autocast(device, precision):
                carry, part = task.score(model, rows.to(device), carry, batches)
            score.add(part)
    return score
