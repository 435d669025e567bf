"""Adaptive softmax: fewer numbers for rarer words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from .softmax import Features, linear_cross_entropy


class AdaptiveSoftmax(nn.AdaptiveLogSoftmaxWithLoss):
    """A softmax over frequent words and clusters of rarer ones, and one inside each cluster.

    p(w) = softmax(H y)_w for w < c_1;  p(w) = softmax(H y)_{c_1 + k - 1} softmax(U_k D_k y)_{w - c_k} in cluster k

    H is (c_1 + clusters, I), D_k (I / `div_value`^k, I), U_k a row a word; there are no biases. Parameters are those of
    torch.nn.AdaptiveLogSoftmaxWithLoss. E. Grave, A. Joulin, M. Cisse, D. Grangier and H. Jegou, arXiv 1609.04309
    (2016).

    Args:
        cutoffs: c_1 < c_2 < .., the first words of clusters 1, 2, ..; words must be in the order of their frequency
        div_value: each cluster has so many times fewer features than the one before
    """

    num_softmaxes = 1

    def __init__(self, input_size: int, vocab_size: int, cutoffs: Sequence[int], *, div_value: float = 4.0) -> None:
        given, most = list(cutoffs), vocab_size - 1
        if not given or given != sorted(set(given)) or not 1 <= given[0] <= given[-1] <= most:
            raise ValueError(
                f"cutoffs={given} must rise from 1 at least to {most} at most: there are {vocab_size} words"
            )
        if div_value < 1:
            raise ValueError(f"div_value={div_value} must be at least 1")
        if input_size < div_value ** len(given):
            raise ValueError(
                f"div_value={div_value} leaves nothing of {input_size} features for cluster {len(given)}; "
                f"use a smaller one, or fewer cutoffs than {given}"
            )
        super().__init__(input_size, vocab_size, given, div_value)

    def initialise(self, scale: float, *, every: bool) -> None:
        nn.init.uniform_(self.head.weight, -scale, scale)
        for down, out in self._clusters():
            nn.init.uniform_(out.weight, -scale, scale)
            if every:
                nn.init.uniform_(down.weight, -scale, scale)

    def tie(self, weight: Tensor) -> None:
        raise ValueError(
            f"tied=true cannot be with cutoffs={self.cutoffs[:-1]}: the weights of rare words are narrower than an "
            "embedding; set tied=false"
        )

    def features(self, ys: Tensor) -> Features:
        return (ys,)

    def logits(self, features: Features, words: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """ln p / temperature of every word."""
        (ys,) = features
        return torch.unflatten(self.log_prob(ys.flatten(0, 1)), 0, ys.shape[:2]) / temperature

    def nll(self, features: Features, targets: Tensor, words: Tensor | None = None, ignore_index: int = -100) -> Tensor:
        xs, targets = features[0].flatten(0, 1), targets.flatten()
        chosen, inside = targets, []  # in the head: the word itself, or its cluster
        for k, (down, out) in enumerate(self._clusters()):
            low, high = self.cutoffs[k : k + 2]
            in_cluster = (targets >= low) & (targets < high)
            chosen = chosen.masked_fill(in_cluster, self.shortlist_size + k)
            rows = in_cluster.nonzero().squeeze(1)  # if there are none the gradient is 0, not missing
            inside.append(linear_cross_entropy(down(xs[rows]), out.weight, None, targets[rows] - low))
        head = linear_cross_entropy(xs, self.head.weight, None, chosen, ignore_index=ignore_index)
        return head + torch.stack(inside).sum()

    def _clusters(self) -> Iterator[tuple[nn.Linear, nn.Linear]]:
        """D_k and U_k of each cluster."""
        for cluster in self.tail:
            down, out = cluster.children()
            assert isinstance(down, nn.Linear) and isinstance(out, nn.Linear)
            yield down, out
