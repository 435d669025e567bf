"""Dropout of sequences, by place and by paper. Masks come from torch's global generator, once per chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn

from ..cells import Cell, dropout_mask, require_probability

DropoutKind = Literal["locked", "standard"]


class StandardDropout(nn.Module):
    """Dropout as first published: a fresh mask at every time step.

    y_t = x_t * m_t / (1 - p),  m_t ~ Bernoulli(1 - p), for x (T, B, F). The identity in eval mode.
    N. Srivastava et al., JMLR 15 (2014); on what is not recurrent: W. Zaremba et al., arXiv 1409.2329 (2014).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        require_probability("p", p)
        self.p = p

    def extra_repr(self) -> str:
        return f"p={self.p}"

    def mask_shape(self, xs: Tensor) -> Sequence[int]:
        """The shape of the mask of a chunk; where it is 1 the mask is shared."""
        return xs.shape

    def forward(self, xs: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return xs
        return xs * dropout_mask(self.mask_shape(xs), self.p, xs)

    def bind(self) -> Callable[[Tensor], Tensor]:
        """The dropout of ONE chunk that is read step by step, x (B, F)."""
        return self.forward


class LockedDropout(StandardDropout):
    """Variational dropout: one mask per sequence, the same at every time step.

    y_t = x_t * m / (1 - p),  m ~ Bernoulli(1 - p) of shape (1, B, F), for x (T, B, F). The identity in
    eval mode. Y. Gal and Z. Ghahramani, arXiv 1512.05287 (2016).
    """

    def mask_shape(self, xs: Tensor) -> Sequence[int]:
        return (1, *xs.shape[1:])

    def bind(self) -> Callable[[Tensor], Tensor]:
        masks: list[Tensor] = []  # one, from the first step on

        def drop(x: Tensor) -> Tensor:
            if not self.training or self.p == 0:
                return x
            if not masks:
                masks.append(dropout_mask(x.shape, self.p, x))
            return x * masks[0]

        return drop


def make_dropout(kind: DropoutKind, p: float) -> StandardDropout:
    """Dropout on sequences: `locked` (one mask per sequence) or `standard` (a fresh one at every step)."""
    if kind not in ("locked", "standard"):
        raise ValueError(f"kind={kind!r} is unknown; allowed: locked, standard")
    return LockedDropout(p) if kind == "locked" else StandardDropout(p)


class WordEmbedding(nn.Embedding):
    """Embedding with dropout of whole word types: a dropped word is dropped wherever it stands in the chunk.

    e(w) = E_w * m_w / (1 - p),  m_w ~ Bernoulli(1 - p), one mask per chunk. tokens (...) -> (..., E).
    Y. Gal and Z. Ghahramani, arXiv 1512.05287 (2016).
    """

    def __init__(self, vocab_size: int, embedding_size: int, *, dropout: float = 0.0) -> None:
        super().__init__(vocab_size, embedding_size)
        require_probability("dropout", dropout)
        self.dropout = dropout

    def draw_mask(self) -> Tensor | None:
        """The mask on word types (V, 1) of a chunk; None if nothing is dropped."""
        if not self.training or self.dropout == 0:
            return None
        return dropout_mask((self.num_embeddings, 1), self.dropout, self.weight)

    def look_up(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """The vectors of `tokens` under a mask that was drawn."""
        vectors = super().forward(tokens)
        # Masking the gathered rows equals masking the table, without touching all of it.
        return vectors if mask is None else vectors * mask[tokens]

    def forward(self, tokens: Tensor) -> Tensor:
        return self.look_up(tokens, self.draw_mask())


def scale_dropout(model: nn.Module, factor: float) -> None:
    """Multiply every probability of dropping in `model`, wherever it drops; `factor` is at most 1."""
    for module in model.modules():
        if isinstance(module, (StandardDropout, nn.modules.dropout._DropoutNd)):
            module.p *= factor
        elif isinstance(module, WordEmbedding):
            module.dropout *= factor
        elif isinstance(module, Cell):
            module.dropout = module.dropout.scaled(factor)
