"""Attention: averages of a sequence, weighted by queries."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..cells import padding_mask, require_positive

AttentionScore = Literal["dot", "general", "additive"]


class Memory(NamedTuple):
    """A batch of sequences to attend to."""

    keys: Tensor  # (B, S, K): what queries are compared with
    values: Tensor  # (B, S, O): what is averaged
    padding: Tensor  # (B, 1, S): True after the end of a sequence


class Attention(nn.Module):
    """An average of the values m_1 .. m_S of a sequence for each query h; padding has no weight.

    a = softmax_s(score(h, m_s)),  context = sum_s a_s m_s

    `score`: "dot" h.m, for which both have one width; "general" h.(W m) (both of M.-T. Luong, H. Pham and
    C. D. Manning, arXiv 1508.04025); "additive" v.tanh(W_q h + W_m m), with a hidden layer of `attention_size` units,
    that of the query unless given (D. Bahdanau, K. Cho and Y. Bengio, arXiv 1409.0473). No score has a bias.
    """

    def __init__(
        self, query_size: int, memory_size: int, score: AttentionScore = "general", attention_size: int | None = None
    ) -> None:
        super().__init__()
        if score not in ("dot", "general", "additive"):
            raise ValueError(f"attention={score} is unknown; allowed: dot, general, additive")
        if score != "additive" and attention_size is not None:
            raise ValueError(f"attention_size={attention_size} does nothing with attention={score}; use null")
        if score == "dot" and query_size != memory_size:
            raise ValueError(
                f"attention=dot compares vectors of one width, but the memory has {memory_size} and the query "
                f"{query_size}; make them equal, or use attention=general"
            )
        size = query_size if attention_size is None else attention_size
        require_positive(attention_size=size)
        self.score = score
        self.key = None if score == "dot" else nn.Linear(memory_size, size, bias=False)
        self.query = nn.Linear(query_size, size, bias=False) if score == "additive" else None
        self.weight = nn.Linear(size, 1, bias=False) if score == "additive" else None

    def remember(self, ys: Tensor, lengths: Tensor) -> Memory:
        """Keys, values and padding of sequences ys (S, B, O) of `lengths` (B,), computed once for all queries."""
        values = ys.transpose(0, 1)
        padding = padding_mask(len(ys), lengths).t().unsqueeze(1)
        return Memory(values if self.key is None else self.key(values), values, padding)

    def forward(self, queries: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """queries (T, B, H) -> contexts (T, B, O), weights (T, B, S)."""
        asked = queries.transpose(0, 1)  # (B, T, H)
        if self.query is None or self.weight is None:
            scores = asked @ memory.keys.transpose(1, 2)  # (B, T, S)
        else:
            hidden = (self.query(asked).unsqueeze(2) + memory.keys.unsqueeze(1)).tanh()  # (B, T, S, A)
            scores = self.weight(hidden).squeeze(-1)
        weights = scores.masked_fill(memory.padding, -torch.inf).softmax(-1)
        contexts = weights.to(memory.values.dtype) @ memory.values
        return contexts.transpose(0, 1), weights.transpose(0, 1)
