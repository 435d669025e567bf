"""Output layers of language models, each with its loss, which never holds all logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..engines.column_sums import column_sums
from ..engines.cross_entropy import nats_and_slope
from ..engines.product import affine, multiply, outer

CHUNK_BYTES = 2**26  # of logits at once: 64 MiB; large enough for whole matrix products, small against a vocabulary


Features: TypeAlias = Sequence[Tensor]  # (T, B, ...) each


class OutputLayer(Protocol):
    """A distribution over V words for each output of a stack, ys (T, B, I).

    It is constructed with `input_size` I and `vocab_size` V. One that maps to the width of the embedding by itself
    takes `embedding_size` as well. `words` (V, 1), where given, is a mask on rows of weights tied to an embedding.
    """

    num_softmaxes: int  # distributions over the words that are computed for each step

    def initialise(self, scale: float, *, every: bool) -> None:
        """Draw the weights of words from U(-scale, scale), and with `every` all other parameters too."""

    def tie(self, weight: Tensor) -> None:
        """Make the weights (V, E) of an embedding those of the words. Raises ValueError if that cannot be."""

    def features(self, ys: Tensor) -> Features:
        """Everything about ys that `logits` and `nll` read: all masks are drawn, the rest is arithmetic."""

    def logits(self, features: Features, words: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """ln p (T, B, V), up to a constant of each row."""

    def nll(self, features: Features, targets: Tensor, words: Tensor | None = None, ignore_index: int = -100) -> Tensor:
        """Summed nats of targets (T, B) other than `ignore_index`."""


class Softmax(nn.Linear):
    """One softmax over all words: p = softmax(W y + b), W (V, I)."""

    num_softmaxes: int = 1

    def __init__(self, input_size: int, vocab_size: int) -> None:
        super().__init__(input_size, vocab_size)

    def initialise(self, scale: float, *, every: bool) -> None:
        nn.init.uniform_(self.weight, -scale, scale)
        if every:
            nn.init.uniform_(self.bias, -scale, scale)
        else:
            nn.init.zeros_(self.bias)

    def tie(self, weight: Tensor) -> None:
        embedding_size, width = weight.shape[1], self.weight.shape[1]
        if embedding_size != width:
            raise ValueError(
                f"tied=true needs equal widths, but model.embedding_size={embedding_size} and the last layer has "
                f"{width}; set model.embedding_size={width}, or model.projection=true to map one to the other"
            )
        self.weight = weight

    def features(self, ys: Tensor) -> Features:
        return (ys,)

    def logits(self, features: Features, words: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        logits = F.linear(features[0], self._masked(words), self.bias)
        return logits if temperature == 1 else logits / temperature

    def nll(self, features: Features, targets: Tensor, words: Tensor | None = None, ignore_index: int = -100) -> Tensor:
        ys, weight = features[0].flatten(0, 1), self._masked(words)
        return linear_cross_entropy(ys, weight, self.bias, targets.flatten(), ignore_index=ignore_index)

    def _masked(self, words: Tensor | None) -> Tensor:
        return self.weight if words is None else self.weight * words


def chunks(rows: int, row_bytes: int) -> list[slice]:
    """Consecutive pieces of `rows` rows, each of CHUNK_BYTES at most, or of one row."""
    step = max(1, CHUNK_BYTES // row_bytes)
    return [slice(start, start + step) for start in range(0, rows, step)]


def exact(xs: Tensor) -> Tensor:
    """In float32 at least: sums of what bfloat16 has rounded would lose most of what they add up."""
    return xs.to(torch.promote_types(xs.dtype, torch.float32))


def target_log_probabilities(
    log_softmax: Callable[[slice], Tensor], targets: Tensor, row_bytes: int, ignore_index: int = -100
) -> Tensor:
    """ln p of each of targets (T, B), 0 for `ignore_index`; `log_softmax` of a piece of T gives (t, B, V)."""
    found = []
    for piece in chunks(len(targets), row_bytes):
        kept = targets[piece] != ignore_index
        logs = log_softmax(piece).gather(-1, torch.where(kept, targets[piece], 0).unsqueeze(-1)).squeeze(-1)
        found.append(torch.where(kept, logs, 0.0))
    return torch.cat(found)


def linear_cross_entropy(
    xs: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, ignore_index: int = -100
) -> Tensor:
    """Summed nats of `targets` under softmax(W x + b), a scalar in float32 (float64 for float64 inputs).

    loss = sum_n log sum_v exp(w_v x_n + b_v) - (w_{t_n} x_n + b_{t_n}), over all n with t_n != ignore_index

    xs (N, K), weight (V, K), bias (V) or None, targets (N) int64. Logits live for a chunk of N at a time, of
    64 MiB at most: where a gradient is needed it is computed with them, in the forward pass, so that nothing of size
    (N, V) is kept or computed twice. Under autocast products are in its type, the softmax in float32. Differentiable
    once. Raises IndexError if a target is not in the vocabulary.
    """
    if targets.numel() and targets.device.type == "cpu":
        low, high = torch.aminmax(targets)
        outside = (targets < 0) | (targets >= len(weight))
        if (low < 0 or high >= len(weight)) and (outside & (targets != ignore_index)).any():
            raise IndexError(f"targets {int(low)}..{int(high)} leave the vocabulary of {len(weight)}")
    kind = xs.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else xs.dtype
    grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (xs, weight, bias))
    return _LinearCrossEntropy.apply(xs, weight, bias, targets, ignore_index, dtype, grad)  # type: ignore[no-any-return,no-untyped-call]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        xs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        ignore_index: int,
        dtype: torch.dtype,
        grad: bool,
    ) -> Tensor:
        kind = torch.float64 if xs.dtype is torch.float64 else torch.float32
        kept = targets != ignore_index
        picked = torch.where(kept, targets, 0)
        nll = xs.new_zeros((), dtype=kind)
        with torch.autocast(xs.device.type, enabled=False):
            inputs, matrix, offset = xs.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)

            def slope_of(chunk: slice) -> Tensor:
                """The gradient of the logits of a chunk, softmax - one-hot, after adding its nats."""
                nats, slope = nats_and_slope(affine(inputs[chunk], matrix, offset), picked[chunk], grad)
                nll.add_(torch.where(kept[chunk], nats, 0.0).sum())
                return slope.mul_(kept[chunk].unsqueeze(1)) if grad and ignored else slope

            ignored = kept.device.type != "cpu" or not bool(kept.all())  # elsewhere it would wait for the answer
            pieces = chunks(len(xs), len(weight) * kind.itemsize)
            ctx.sums = len(pieces) != 1
            if not grad:
                for chunk in pieces:
                    slope_of(chunk)
            elif len(pieces) == 1:  # the products wait for backward
                ctx.save_for_backward(slope_of(pieces[0]), inputs, matrix)
            else:
                dxs, dweight, dbias = torch.empty_like(inputs), torch.zeros_like(weight), weight.new_zeros(len(weight))
                for chunk in pieces:
                    slope = slope_of(chunk)
                    dxs[chunk] = multiply(slope, matrix)
                    dweight += outer(slope, inputs[chunk])
                    dbias += column_sums(slope)
                ctx.save_for_backward(dxs, dweight, dbias)
        ctx.biased, ctx.types = bias is not None, (xs.dtype, weight.dtype)
        return nll

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("linear_cross_entropy is differentiable once")
        if ctx.sums:
            dxs, dweight, dbias = (
                gradient * scale for gradient in ctx.saved_tensors
            )  # not in place: it may come again
        else:
            slope, inputs, matrix = ctx.saved_tensors
            dxs, dweight = multiply(slope, matrix).mul_(scale), outer(slope, (inputs * scale).to(inputs.dtype))
            dbias = column_sums(slope).to(ctx.types[1]) * scale if ctx.biased else None
        gradients = (dxs.to(ctx.types[0]), dweight.to(ctx.types[1]), dbias if ctx.biased else None)
        return (*gradients, None, None, None, None)
