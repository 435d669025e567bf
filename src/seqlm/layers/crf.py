"""The linear-chain conditional random field: probabilities of whole tag sequences, exactly."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..cells import padding_mask

TINY = 1e-300  # e^-690: sums below it are taken for it, so that their logarithm is finite


class LinearChainCRF(nn.Module):
    """p(y | x) = exp(s(x, y)) / sum_y' exp(s(x, y')),  s = b_{y_1} + c_{y_n} + sum_t e_{t, y_t} + sum_t A_{y_t-1, y_t}.

    Emissions e (T, B, K) for sequences of `lengths` n (B,), at least 1; start b (K,), transitions A (K, K) and end
    c (K,) are 0 at first: a softmax for each word. Everything is computed in float64, in which e^-690 is a number, so
    that the sum over the tag before is a matrix product, and still a sum of logarithms to the last digits.
    J. Lafferty, A. McCallum and F. Pereira (ICML 2001); G. Lample et al., arXiv 1603.01360.
    """

    def __init__(self, num_tags: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(num_tags))
        self.transitions = nn.Parameter(torch.zeros(num_tags, num_tags))  # (from, to)
        self.end = nn.Parameter(torch.zeros(num_tags))

    def log_sum(self, emissions: Tensor, lengths: Tensor) -> Tensor:
        """ln sum_y exp(s(x, y)) (B,), by the forward algorithm; tags of emission -inf are left out."""
        most = self.transitions.detach().double().amax(0)  # (K,)
        weights = (self.transitions.double() - most).exp()
        inside = self._inside(emissions, lengths)
        logs = self.start.double() + emissions[0]  # (B, K): of all sequences that end in a tag
        for t in range(1, len(emissions)):
            top = logs.detach().amax(1, keepdim=True)
            sums = (logs - top).exp() @ weights
            logs = torch.where(inside[t], sums.clamp(min=TINY).log() + top + most + emissions[t], logs)
        return (logs + self.end.double()).logsumexp(1)

    def nll(self, emissions: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
        """-ln p (B,) of tags (T, B); a tag below 0 is not known: the sum is over all that could be there."""
        emissions = emissions.double()
        known = F.one_hot(tags.clamp(min=0), emissions.shape[2]).bool() | (tags < 0).unsqueeze(-1)
        # Side by side: all sequences, and those that agree with the tags.
        both = torch.cat([emissions, emissions.masked_fill(~known, -torch.inf)], 1)
        every, agreeing = self.log_sum(both, lengths.repeat(2)).chunk(2)
        return every - agreeing

    @torch.no_grad()
    def best(self, emissions: Tensor, lengths: Tensor) -> Tensor:
        """The most probable tags (T, B), by the Viterbi algorithm; beyond a length the last tag goes on."""
        emissions, inside = emissions.double(), self._inside(emissions, lengths)
        scores, before = self.start.double() + emissions[0], []  # (B, K): of the best sequence that ends in a tag
        for t in range(1, len(emissions)):
            best, origin = (scores.unsqueeze(2) + self.transitions.double()).max(1)
            scores = torch.where(inside[t], best + emissions[t], scores)
            before.append(torch.where(inside[t], origin, torch.arange(scores.shape[1], device=scores.device)))
        path = [(scores + self.end.double()).argmax(1)]
        for origin in reversed(before):
            path.append(origin.gather(1, path[-1].unsqueeze(1)).squeeze(1))
        return torch.stack(path[::-1])

    def _inside(self, emissions: Tensor, lengths: Tensor) -> Tensor:
        """Which steps of which row count (T, B, 1)."""
        return ~padding_mask(len(emissions), lengths).unsqueeze(-1)
