"""The affine maps of a chunk, all steps at once, by the fastest products.

    cell.inputs -> [affine] -> product

A cell writes F.linear. Under this mode it is computed and differentiated by product.py: under autocast the factors are
narrow, and what is added up is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .column_sums import column_sums
from .deferred import differentiable_once
from .product import affine, multiply, outer


class FastAffine(TorchFunctionMode):
    """Replaces F.linear of float32 on the CPU; leaves every other function as it is. Differentiable once.

    Under autocast y is in its type, as torch's is.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.linear and not kwargs and 2 <= len(args) <= 3:
            x, weight, bias = (*args, None)[:3]
            if x.device.type == "cpu" and x.dtype is weight.dtype is torch.float32 and weight.dim() == 2:
                dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
                return _Affine.apply(x, weight, bias, dtype)  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


class _Affine(torch.autograd.Function):
    """y = x W^T + b: x (..., K), weight (G, K), bias (G) or None; factors of products in `dtype`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        narrow, matrix = x.reshape(-1, x.shape[-1]).to(dtype), weight.to(dtype)
        ctx.save_for_backward(narrow, matrix)
        ctx.biased, ctx.shape = bias is not None, x.shape
        y = affine(narrow, matrix, None if bias is None else bias.to(dtype))
        return y.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        differentiable_once("fused")
        x, matrix = ctx.saved_tensors
        dy = dy.reshape(-1, matrix.shape[0])
        dx = multiply(dy, matrix).float().view(ctx.shape) if ctx.needs_input_grad[0] else None
        dweight = outer(dy, x).float() if ctx.needs_input_grad[1] else None
        return dx, dweight, column_sums(dy) if ctx.biased else None, None
