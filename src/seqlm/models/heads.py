"""Heads of sequence models: predictions from the outputs of an encoder, (T, B, H) with lengths (B,)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from ..data.batching.batches import IGNORE_INDEX
from ..data.batching.bucketed import ExampleBatch
from ..layers import LinearChainCRF, exact
from .sequence_model import size_of


class TagHead(nn.Module):
    """A tag for every word: p(tag_t | x) = softmax(W y_t + b)."""

    takes_weights: ClassVar[bool] = True  # of classes, in its loss_sum

    def __init__(self, input_size: int, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.linear = nn.Linear(input_size, size_of(sizes, "num_tags", "tags"))

    def loss_sum(self, ys: Tensor, lengths: Tensor, batch: ExampleBatch, weights: Tensor | None = None) -> Tensor:
        """Summed nats of the tags of a batch that have an id, each times the weight (K,) of its class."""
        logits, tags = exact(self.linear(ys).flatten(0, 1)), batch["tags"].flatten()
        weights = weights if weights is None else weights.to(logits.dtype)
        return F.cross_entropy(logits, tags, weights, ignore_index=IGNORE_INDEX, reduction="sum")

    def best(self, ys: Tensor, lengths: Tensor) -> Tensor:
        """The best tags (T, B), whatever beyond a length."""
        best: Tensor = self.linear(ys).argmax(-1)
        return best

    def tags(self, ys: Tensor, lengths: Tensor) -> list[list[int]]:
        """The best tags of every sequence."""
        best = self.best(ys, lengths).t().tolist()
        return [row[:length] for row, length in zip(best, lengths.tolist(), strict=True)]


class CRFHead(TagHead):
    """Tags that depend on each other: p(tags | x) of a LinearChainCRF with emissions W y_t + b.

    A tag without an id is summed over: p of the tags that have one.
    """

    takes_weights = False

    def __init__(self, input_size: int, sizes: Mapping[str, int]) -> None:
        super().__init__(input_size, sizes)
        self.crf = LinearChainCRF(self.linear.out_features)

    def loss_sum(self, ys: Tensor, lengths: Tensor, batch: ExampleBatch, weights: Tensor | None = None) -> Tensor:
        """Summed nats of the tags of a batch that have an id; no tag of them has a loss of its own to be weighted."""
        assert weights is None, "refused when the run is checked"
        return self.crf.nll(self.linear(ys), batch["tags"], lengths).sum()

    def best(self, ys: Tensor, lengths: Tensor) -> Tensor:
        """The best tags (T, B) together."""
        return self.crf.best(self.linear(ys), lengths)
