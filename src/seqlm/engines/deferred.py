"""The engine for cells that are more than gates: autograd in the loop, weight gradients in one product after it.

layer -> pick -> scan | native | [deferred] | fused
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..cells import Carry, Cell
from .scan import scan


def refusal(cell: Cell) -> str | None:
    """None: it serves every cell; a product that it cannot defer is done as in `scan`."""
    return None


def run(
    cell: Cell, xs: Tensor, carry: Carry, *, reverse: bool = False, lengths: Tensor | None = None
) -> tuple[Carry, Tensor]:
    """`scan` with deferred weight gradients: xs (T, B, I), carry -> (carry, ys), ys (T, B, O) in the order of xs.

    Every F.linear(x, W, b) in the loop is computed from a transposed copy of W, made once, and its backward is
    dx = dy W alone; after the last one, dW = sum_t dy_t^T x_t and db = sum_t dy_t are one product and one sum. That is
    done for parameters, and for other weights from their second use on. Keeps what autograd keeps, and dy of every
    step during backward. Differentiable once.
    """
    with _Deferring():
        return scan(cell, xs, carry, reverse=reverse, lengths=lengths)


def differentiable_once(engine: str) -> None:
    """Raise RuntimeError in a backward pass with create_graph=True: a gradient by hand has no gradient."""
    if torch.is_grad_enabled():
        raise RuntimeError(f"engine={engine} is differentiable once; for second derivatives use engine=scan")


class _Deferring(TorchFunctionMode):
    """Replaces F.linear; leaves every other function as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: dict[int, _Weight | Tensor] = {}  # by id; holding on to the tensor keeps the id its own

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.linear or not 2 <= len(args) <= 3 or kwargs:
            return func(*args, **kwargs)
        x, weight, bias = (*args, None)[:3]
        if x.dim() != 2 or torch.is_autocast_enabled(x.device.type):
            return func(*args)
        known = self.weights.get(id(weight))
        if known is None and not isinstance(weight, nn.Parameter):
            self.weights[id(weight)] = weight  # perhaps made anew at every step
            return func(*args)
        if not isinstance(known, _Weight) or (known.token is None and torch.is_grad_enabled()):
            known = self.weights[id(weight)] = _Weight(weight, bias)
        return known(x) if known.bias is bias else func(*args)


class _Weight:
    """One weight of a chunk, its transposed copy, and the inputs and output gradients that its gradient is made of."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self.transposed = weight.detach().t().contiguous()
        self.uses: dict[int, tuple[Tensor, Tensor]] = {}  # of one backward pass: x and dy of each use
        self.token = _Gather.apply(weight, bias, self) if torch.is_grad_enabled() else None  # type: ignore[no-untyped-call]

    def __call__(self, x: Tensor) -> Tensor:
        if self.token is None or not torch.is_grad_enabled():
            return self.product(x)
        return _Use.apply(x, self.token, self)  # type: ignore[no-any-return,no-untyped-call]

    def product(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return x @ self.transposed
        return torch.addmm(self.bias.detach(), x, self.transposed)


class _Use(torch.autograd.Function):
    """y = x W^T + b. The token makes it wait for, and be waited for by, `_Gather`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor, weight: _Weight) -> Tensor:
        ctx.save_for_backward(x, weight.weight)
        ctx.weight = weight
        return weight.product(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor, None]:
        differentiable_once("deferred")
        x, weight = ctx.saved_tensors
        ctx.weight.uses[id(ctx)] = (x, dy)
        return dy @ weight if ctx.needs_input_grad[0] else None, dy.new_zeros(()), None


class _Gather(torch.autograd.Function):
    """A node of the graph that backward reaches when it has passed every use of the weight."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, gathered: _Weight) -> Tensor:
        ctx.gathered, ctx.biased = gathered, bias is not None
        return weight.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, Tensor | None, None]:
        xs, dys = (torch.cat(parts) for parts in zip(*ctx.gathered.uses.values(), strict=True))
        ctx.gathered.uses.clear()
        return dys.t() @ xs, dys.sum(0) if ctx.biased else None, None
