"""Dropout by place and by paper. Masks come from torch's global generator, once per window."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DropoutKind = Literal["locked", "standard"]


def require_probability(name: str, p: float) -> None:
    if not 0 <= p < 1:
        raise ValueError(f"{name}={p} must be at least 0 and less than 1")


class LockedDropout(nn.Module):
    """Variational dropout: one mask per sequence, the same at every time step.

    y_t = x_t * m / (1 - p),  m ~ Bernoulli(1 - p) of shape (1, B, F), for x (T, B, F). The identity in
    eval mode. Y. Gal and Z. Ghahramani, arXiv 1512.05287 (2016).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        require_probability("p", p)
        self.p = p

    def forward(self, xs: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return xs
        return xs * F.dropout(xs.new_ones(1, *xs.shape[1:]), self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def make_dropout(kind: DropoutKind, p: float) -> nn.Module:
    """Dropout on sequences: `locked` (one mask per sequence) or `standard` (a fresh one at every step)."""
    if kind not in ("locked", "standard"):
        raise ValueError(f"kind={kind!r} is unknown; allowed: locked, standard")
    return LockedDropout(p) if kind == "locked" else nn.Dropout(p)


class WordEmbedding(nn.Embedding):
    """Embedding with dropout of whole word types: a dropped word is dropped wherever it stands in the window.

    e(w) = E_w * m_w / (1 - p),  m_w ~ Bernoulli(1 - p), one mask per window. tokens (...) -> (..., E).
    Tied output weights are not masked. Y. Gal and Z. Ghahramani, arXiv 1512.05287 (2016).
    """

    def __init__(self, vocab_size: int, embedding_size: int, *, dropout: float = 0.0) -> None:
        super().__init__(vocab_size, embedding_size)
        require_probability("dropout", dropout)
        self.dropout = dropout

    def forward(self, tokens: Tensor) -> Tensor:
        vectors = super().forward(tokens)
        if not self.training or self.dropout == 0:
            return vectors
        # Masking the gathered rows equals masking the table, without touching all of it.
        mask = F.dropout(torch.ones(self.num_embeddings, device=tokens.device, dtype=vectors.dtype), self.dropout)
        return vectors * mask[tokens].unsqueeze(-1)
