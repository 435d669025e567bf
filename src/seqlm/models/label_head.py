"""Heads that predict the label of a whole sequence, alone or beside a tag for every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..cells import padding_mask, require_probability
from ..data.batching.batches import IGNORE_INDEX
from ..data.batching.bucketed import ExampleBatch
from ..errors import ConfigError
from ..layers import exact
from .heads import TagHead
from .sequence_model import last_outputs, size_of

Pooling = Literal["last", "mean", "max", "attention"]


class PooledHead(nn.Module):
    """One vector p (B, H) for every sequence, pooled from outputs y (T, B, H); steps beyond a length have no part.

    `pooling`: last, where each direction has read everything: forward outputs at the last step, backward ones at the
    first | mean and max over the steps | attention, p = sum_t a_t y_t with a = softmax_t(v . tanh(U y_t + c)) (Z. Yang
    et al., "Hierarchical Attention Networks for Document Classification", 2016).
    """

    def __init__(self, input_size: int, sizes: Mapping[str, int], pooling: Pooling = "last") -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling={pooling} must be one of {', '.join(get_args(Pooling))}")
        self.pooling, self.backward_size = pooling, sizes.get("backward_size", 0)
        self.attention = None
        if pooling == "attention":
            self.attention = nn.Sequential(
                nn.Linear(input_size, input_size), nn.Tanh(), nn.Linear(input_size, 1, bias=False)
            )

    def pool(self, ys: Tensor, lengths: Tensor) -> Tensor:
        """One vector (B, H) for each sequence (T, B, H)."""
        if self.pooling == "last":
            return last_outputs(ys, lengths, self.backward_size)
        beyond = padding_mask(len(ys), lengths).unsqueeze(-1)  # (T, B, 1)
        if self.pooling == "max":
            return ys.masked_fill(beyond, -torch.inf).amax(0)
        if self.attention is None:
            return ys.masked_fill(beyond, 0).sum(0) / lengths.unsqueeze(-1)
        weights: Tensor = self.attention(ys).masked_fill(beyond, -torch.inf).softmax(0)
        return (weights * ys).sum(0)


class LabelHead(PooledHead):
    """A label for every sequence: p(label | x) = softmax(W p + b), with p (B, H) as PooledHead pools it.

    `smoothing` s, in training alone: loss = (1 - s) * -ln p(label) + s * mean over labels of -ln p (label smoothing, C.
    Szegedy et al., arXiv 1512.00567).
    """

    takes_weights: ClassVar[bool] = True  # of classes, in its loss_sum

    def __init__(
        self, input_size: int, sizes: Mapping[str, int], pooling: Pooling = "last", smoothing: float = 0.0
    ) -> None:
        super().__init__(input_size, sizes, pooling)
        require_probability("smoothing", smoothing)
        self.smoothing = smoothing
        self.linear = nn.Linear(input_size, size_of(sizes, "num_labels", "labels"))

    def logits(self, ys: Tensor, lengths: Tensor) -> Tensor:
        """Logits (B, labels)."""
        logits: Tensor = self.linear(self.pool(ys, lengths))
        return logits

    def loss_sum(self, ys: Tensor, lengths: Tensor, batch: ExampleBatch, weights: Tensor | None = None) -> Tensor:
        """Summed loss of the labels of a batch that have an id; smoothed while training.

        `weights` (K,) of classes count as in torch: w_y (1 - s) -ln p(y), and w_k s / K -ln p(k) for every label k.
        """
        smoothing = self.smoothing if self.training else 0.0
        logits, labels = self.logits(ys, lengths), batch["label"]
        if weights is not None:  # which bfloat16 would round
            logits = exact(logits)
            weights = weights.to(logits.dtype)
        return F.cross_entropy(
            logits, labels, weights, ignore_index=IGNORE_INDEX, reduction="sum", label_smoothing=smoothing
        )

    def label(self, ys: Tensor, lengths: Tensor) -> list[int]:
        """The best label of every sequence."""
        best: list[int] = self.logits(ys, lengths).argmax(-1).tolist()
        return best


class JointHead(nn.Module):
    """A tag for every step and a label for the whole, by the heads `tags` and `label` on the same outputs.

    ln p(tags, label | x) = ln p(tags | x) + ln p(label | x). B. Liu and I. Lane, arXiv 1609.01454 (2016).
    """

    def __init__(
        self,
        input_size: int,
        sizes: Mapping[str, int],
        tags: Callable[..., nn.Module],
        label: Callable[..., nn.Module],
    ) -> None:
        super().__init__()
        tag_head, label_head = tags(input_size=input_size, sizes=sizes), label(input_size=input_size, sizes=sizes)
        if not isinstance(tag_head, TagHead) or not isinstance(label_head, LabelHead):
            raise ConfigError(
                "model.head.tags must be a head of tags and model.head.label one of labels, not "
                f"{type(tag_head).__name__} and {type(label_head).__name__}"
            )
        self.tag_head, self.label_head = tag_head, label_head

    def loss_sum(self, ys: Tensor, lengths: Tensor, batch: ExampleBatch) -> Tensor:
        """Summed nats of the tags and labels of a batch that have an id."""
        return self.tag_head.loss_sum(ys, lengths, batch) + self.label_head.loss_sum(ys, lengths, batch)

    def tags(self, ys: Tensor, lengths: Tensor) -> list[list[int]]:
        """The best tags of every sequence."""
        return self.tag_head.tags(ys, lengths)

    def label(self, ys: Tensor, lengths: Tensor) -> list[int]:
        """The best label of every sequence."""
        return self.label_head.label(ys, lengths)
