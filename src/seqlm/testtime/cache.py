"""The continuous cache: words read lately, at places like this one, are likely again."""

from __future__ import annotations

import torch
from torch import Tensor


class Cache:
    """Mixes the model's probability of the next word with that of a memory of the last `size` words.

    p(w) = (1 - share) p_model(w) + share p_cache(w),  p_cache(w) ~ sum_{i: w_i = w} exp(flatness h_t . h_i)

    h_i is what the last layer said before w_i came (H), for one stream. There is no training in it. While nothing has
    been read p is p_model. E. Grave, A. Joulin and N. Usunier, arXiv 1612.04426 (2016): their theta is `flatness`,
    their lambda `share`.
    """

    def __init__(self, *, size: int, flatness: float, share: float) -> None:
        if size < 1:
            raise ValueError(f"size={size} must be at least 1")
        if not 0 <= share < 1:
            raise ValueError(f"share={share} must be at least 0 and less than 1")
        if flatness < 0:
            raise ValueError(f"flatness={flatness} must be at least 0")
        self.size, self.flatness, self.share = size, flatness, share
        self.states, self.words = torch.empty(0, 0), torch.empty(0, dtype=torch.int64)

    def log_cache(self, states: Tensor, words: Tensor) -> Tensor:
        """ln p_cache of each of `words` (N), met in states (N, H), -inf where it has none; then they are remembered."""
        if not len(self.states):
            self.states, self.words = states[:0], words[:0]
        known = len(self.states)
        states, words = torch.cat([self.states, states]), torch.cat([self.words, words])
        place = torch.arange(len(words), device=words.device)
        now = place[known:, None]
        likeness = self.flatness * (states[known:] @ states.t())
        likeness = likeness.masked_fill((place >= now) | (place < now - self.size), -torch.inf)  # what came before
        same = words[known:, None] == words
        total, found = likeness.logsumexp(1), likeness.masked_fill(~same, -torch.inf).logsumexp(1)
        self.states, self.words = states[-self.size :], words[-self.size :]
        return torch.where(total.isfinite(), found - total, -torch.inf)

    def mix(self, log_model: Tensor, log_cache: Tensor, first: bool) -> Tensor:
        """ln p of words with these ln p_model and ln p_cache (N); `first`: the first of them found the memory empty."""
        share = torch.full_like(log_model, self.share)
        if first:
            share[0] = 0
        return torch.logaddexp((1 - share).log() + log_model, share.log() + log_cache)
