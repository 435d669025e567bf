"""The continuous cache: words read lately, at places like this one, are likely again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Memory(NamedTuple):
    """The last words of a stream (N), and the states they came in (N, H)."""

    states: Tensor
    words: Tensor


@dataclass(frozen=True)
class Cache:
    """Mixes the model's probability of the next word with that of a memory of the last `size` words.

    p(w) = (1 - share) p_model(w) + share p_cache(w),  p_cache(w) ~ sum_{i: w_i = w} exp(flatness h_t . h_i)

    h_i (H) is the output of the last layer before w_i, for one stream. Nothing of it is trained. While nothing has
    been read p is p_model. E. Grave, A. Joulin and N. Usunier, arXiv 1612.04426 (2016): their theta is `flatness`,
    their lambda `share`.
    """

    size: int
    flatness: float
    share: float

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size} must be at least 1")
        if not 0 <= self.share < 1:
            raise ValueError(f"share={self.share} must be at least 0 and less than 1")
        if self.flatness < 0:
            raise ValueError(f"flatness={self.flatness} must be at least 0")

    def look_up(self, memory: Memory | None, states: Tensor, words: Tensor) -> tuple[Memory, Tensor]:
        """ln p_cache of each of `words` (N), met in states (N, H), and the memory that has them too.

        -inf for a word that is not remembered, nan for one that is met when nothing is.
        """
        memory, likeness = self._likeness(memory, states, words)
        same = words[:, None] == memory.words
        found = likeness.masked_fill(~same, -torch.inf).logsumexp(1) - likeness.logsumexp(1)
        return self._newest(memory), found

    def distribution(
        self, memory: Memory | None, states: Tensor, words: Tensor, vocab_size: int
    ) -> tuple[Memory, Tensor]:
        """ln p_cache of every word (N, V), and the memory; as `look_up`, nan where nothing is remembered."""
        memory, likeness = self._likeness(memory, states, words)
        shares = likeness.softmax(1)
        found = shares.new_zeros(len(words), vocab_size).index_add_(1, memory.words, shares)
        return self._newest(memory), found.log()

    def _likeness(self, memory: Memory | None, states: Tensor, words: Tensor) -> tuple[Memory, Tensor]:
        """The memory with new words in it, and flatness h_t . h_i (N, M) of each of those; -inf where i is later."""
        if memory is None:
            memory = Memory(states[:0], words[:0])
        known = len(memory.words)
        states, words = torch.cat([memory.states, states]), torch.cat([memory.words, words])
        place = torch.arange(len(words), device=words.device)
        now = place[known:, None]
        likeness = self.flatness * (states[known:] @ states.t())
        likeness = likeness.masked_fill((place >= now) | (place < now - self.size), -torch.inf)
        return Memory(states, words), likeness

    def _newest(self, memory: Memory) -> Memory:
        return Memory(memory.states[-self.size :], memory.words[-self.size :])


def mix(log_model: Tensor, log_cache: Tensor, share: float) -> Tensor:
    """ln p of words with these ln p_model and ln p_cache (N)."""
    log_share = math.log(share) if share else -math.inf
    mixed = torch.logaddexp(log_model + math.log1p(-share), log_cache + log_share)
    return torch.where(log_cache.isnan(), log_model, mixed)
