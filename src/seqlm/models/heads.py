"""Heads of sequence models: what is said of the outputs of an encoder, (T, B, H) with lengths (B,)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from ..data import IGNORE, ExampleBatch
from .sequence_model import size_of


class TagHead(nn.Module):
    """A tag for every word: p(tag_t | x) = softmax(W y_t + b)."""

    targets = ("tags",)

    def __init__(self, input_size: int, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.linear = nn.Linear(input_size, size_of(sizes, "num_tags", "tags"))

    def nats(self, ys: Tensor, lengths: Tensor, batch: ExampleBatch) -> Tensor:
        """Summed nats of the tags of a batch that have an id."""
        logits = self.linear(ys).float()
        return F.cross_entropy(logits.flatten(0, 1), batch["tags"].flatten(), ignore_index=IGNORE, reduction="sum")

    def tags(self, ys: Tensor, lengths: Tensor) -> list[list[int]]:
        """The best tags of every sequence."""
        best = self.linear(ys).argmax(-1).t().tolist()
        return [row[:length] for row, length in zip(best, lengths.tolist(), strict=True)]
