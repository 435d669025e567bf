"""How much of what it has read a model uses: its loss when it may read only the last tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.language_model import LanguageModel
from ..terminal import track
from .unrolled import nll_of_each

SHARE = 0.9  # of the benefit


@dataclass
class ContextCurve:
    """The mean loss, in nats a token, at the same places of a text with so many tokens of context."""

    context: list[int]
    loss: list[float]
    error: list[float]  # standard error of each loss, over places

    @property
    def effective(self) -> int:
        """The fewest tokens that bring 90 % of what the whole context brings over one token."""
        best = min(self.loss)
        pairs = zip(self.context, self.loss, strict=True)
        enough = (size for size, loss in pairs if self.loss[0] - loss >= SHARE * (self.loss[0] - best))
        return next(enough, self.context[-1])

    def record(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {**vars(self), "effective": self.effective}


def loss_by_context(model: LanguageModel, tokens: Tensor, *, most: int, places: int) -> ContextCurve:
    """Read 1, 2, 4 .. `most` tokens from the zero carry, and score the next: at `places` places, evenly over a text.

    loss(k) = -mean_t ln p(w_t | w_{t-k} .. w_{t-1})

    U. Khandelwal et al., "Sharp Nearby, Fuzzy Far Away", arXiv 1805.04623. Raises ValueError for a text that is too
    short.

    Args:
        model: in eval mode
        tokens: (N), N > most
        most: tokens of the longest context
        places: tokens that are scored
    """
    if len(tokens) <= most:
        raise ValueError(f"{len(tokens)} tokens are too few for a context of {most}")
    at = torch.linspace(most, len(tokens) - 1, min(places, len(tokens) - most)).long().unique()
    sizes = [2**power for power in range(most.bit_length()) if 2**power <= most]
    sizes += [most] * (sizes[-1] != most)
    losses, errors = [], []
    with torch.no_grad():
        for index in track(range(len(sizes)), "contexts", " sizes"):
            size = sizes[index]
            context = torch.stack([tokens[at - back] for back in range(size, 0, -1)])  # (size, places)
            _, top = model.stack(model.embed(context, None), model.init_carry(len(at)))
            each = nll_of_each(model, top[-1], tokens[at]).double()
            losses.append(float(each.mean()))
            errors.append(float(each.std() / len(at) ** 0.5))
    return ContextCurve(sizes, losses, errors)
