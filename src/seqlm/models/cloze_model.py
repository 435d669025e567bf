"""A model of masked tokens, which sees both sides of each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..cells import Carry
from ..layers import Layer
from .text_model import Reading, TextModel


class ClozeModel(TextModel):
    """Predict masked tokens from both sides: p(w_t | the tokens that are not masked) = softmax(W_o P y_t + b_o).

    A token `vocab_size` is a masked one, with a vector of its own below the stack, which may run in any direction;
    only masked tokens are scored. A piece of text is read by itself: there is no carry. Options are those of TextModel.
    W. L. Taylor, "Cloze procedure" (1953); J. Devlin et al., arXiv 1810.04805, for masks on a bidirectional model.
    """

    def __init__(self, vocab_size: int, stack: Layer, *, init_range: float | None = None, **options: Any) -> None:
        super().__init__(vocab_size, stack, init_range=init_range, **options)
        scale = 0.1 if init_range is None else init_range
        self.mask = nn.Parameter(torch.empty(stack.input_size).uniform_(-scale, scale))

    def init_carry(self, batch_size: int) -> Carry:
        """Nothing: no state goes on from piece to piece."""
        return ()

    def embed(self, tokens: Tensor, words: Tensor | None) -> Tensor:
        masked = tokens == self.vocab_size
        embedded = super().embed(tokens.masked_fill(masked, 0), words)
        return torch.where(masked.unsqueeze(-1), self.mask.to(embedded.dtype), embedded)

    def read(self, tokens: Tensor, carry: Carry) -> Reading:
        return super().read(tokens, self.stack.init_carry(tokens.shape[1]))._replace(carry=())

    def at(self, reading: Reading, places: Tensor) -> Reading:
        """The same at some places (T, B), for the output layer alone: features (N, 1, ...)."""
        return reading._replace(features=[feature[places].unsqueeze(1) for feature in reading.features])

    def score(self, reading: Reading, targets: Tensor, ignore_index: int = -100) -> Tensor:
        places = targets != ignore_index
        return super().score(self.at(reading, places), targets[places].unsqueeze(1), ignore_index)
