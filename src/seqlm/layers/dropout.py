"""Dropout by place and by paper. Masks come from torch's global generator, once per window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

DropoutKind = Literal["locked", "standard"]


def require_probability(name: str, p: float) -> None:
    """Raise ValueError, naming the argument, unless 0 <= p < 1."""
    if not 0 <= p < 1:
        raise ValueError(f"{name}={p} must be at least 0 and less than 1")


def dropout_mask(shape: Sequence[int], p: float, like: Tensor) -> Tensor:
    """A mask of zeros and 1 / (1 - p), zero with probability p, of the dtype and on the device of `like`.

    On the CPU every decision takes 16 bits of a 64-bit draw: bernoulli_ takes a draw each, and was a
    twentieth of a training step. p is rounded to a multiple of 2^-16 and the scale is that of the rounded p.
    """
    if like.device.type != "cpu":
        return torch.empty(shape, device=like.device, dtype=like.dtype).bernoulli_(1 - p).div_(1 - p)
    dropped = min(round(p * 65536), 65535)
    count = math.prod(shape)
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
    kept = draws.view(torch.int16)[:count].view(*shape) >= dropped - 32768
    return kept.to(like.dtype).mul_(65536 / (65536 - dropped))


class StandardDropout(nn.Module):
    """Dropout as first published: a fresh mask at every time step.

    y_t = x_t * m_t / (1 - p),  m_t ~ Bernoulli(1 - p), for x (T, B, F). The identity in eval mode.
    N. Srivastava et al., JMLR 15 (2014); on what is not recurrent: W. Zaremba et al., arXiv 1409.2329 (2014).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        require_probability("p", p)
        self.p = p

    def mask_shape(self, xs: Tensor) -> Sequence[int]:
        """The shape of the mask of a window; where it is 1 the mask is shared."""
        return xs.shape

    def forward(self, xs: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return xs
        return xs * dropout_mask(self.mask_shape(xs), self.p, xs)


class LockedDropout(StandardDropout):
    """Variational dropout: one mask per sequence, the same at every time step.

    y_t = x_t * m / (1 - p),  m ~ Bernoulli(1 - p) of shape (1, B, F), for x (T, B, F). The identity in
    eval mode. Y. Gal and Z. Ghahramani, arXiv 1512.05287 (2016).
    """

    def mask_shape(self, xs: Tensor) -> Sequence[int]:
        return (1, *xs.shape[1:])


def make_dropout(kind: DropoutKind, p: float) -> nn.Module:
    """Dropout on sequences: `locked` (one mask per sequence) or `standard` (a fresh one at every step)."""
    if kind not in ("locked", "standard"):
        raise ValueError(f"kind={kind!r} is unknown; allowed: locked, standard")
    return LockedDropout(p) if kind == "locked" else StandardDropout(p)


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
        mask = dropout_mask((self.num_embeddings, 1), self.dropout, vectors)
        return vectors * mask[tokens]
