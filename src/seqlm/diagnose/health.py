"""How a training went, from what it has logged and saved."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..runs import checkpoint, finding
from ..runs.folder import RunFolder


def clipping(records: Sequence[dict[str, Any]], clip_norm: float | None) -> dict[str, Any]:
    """The norm of the gradient before it was clipped, at the steps that were logged, and the share above the limit."""
    norms = [one["train/grad_norm"] for one in records if isinstance(one.get("train/grad_norm"), float)]
    if not norms:
        return {}
    found: dict[str, Any] = {"logged": len(norms), "median": statistics.median(norms), "largest": max(norms)}
    if clip_norm is not None:
        found |= {"clip_norm": clip_norm, "clipped": sum(norm > clip_norm for norm in norms) / len(norms)}
    return found


def update_ratios(run: RunFolder) -> dict[str, float]:
    """|| w_b - w_a || / (|| w_a || steps) of each weight between the two newest checkpoints that are whole.

    Empty if there are fewer than two. Weights that began with zeros have no ratio yet where the first of the two is
    that of the beginning.
    """
    found = finding.while_it_is_there(partial(_newest_two, run.checkpoints), lambda text: None)
    if len(found) < 2:
        return {}
    (first, before), (second, after) = found
    steps = second.step - first.step
    return {
        name: float((after[name] - weight).norm() / weight.norm()) / steps
        for name, weight in before.items()
        if name in after and weight.any()
    }


def _newest_two(folder: Path) -> list[tuple[checkpoint.Checkpoint, dict[str, Tensor]]]:
    """The two newest checkpoints that are whole, oldest first, with their weights in float64."""
    found = list(islice(finding.whole(folder, lambda text: None), 2))[::-1]
    return [(one, {name: tensor.double() for name, tensor in one.weights().items()}) for one in found]


def rare_words(tokens: Any, vocab_size: int) -> dict[str, int]:
    """Words whose vectors hardly learn: how many are never read in train, and how many at most five times."""
    counts = torch.bincount(torch.as_tensor(tokens.astype("int64")), minlength=vocab_size)
    return {"vocabulary": vocab_size, "never_read": int((counts == 0).sum()), "five_times": int((counts <= 5).sum())}
