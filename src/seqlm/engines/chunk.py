"""A chunk under autograd: the two loops over time, each a product with the recurrent weight and a loop body a step.

gates -> trace -> program -> reverse | kernels -> torch_body | kernel_body -> [chunk]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .buffers import Buffers, Saved, put_saved
from .code import Block, block_of
from .column_sums import column_sums
from .deferred import differentiable_once
from .program import Program
from .recurrent_product import to_gates, to_state, to_weight
from .trace import cut

Gradients = list[Tensor | None]
Step = Callable[[int], None]
Reverse = Callable[[int, int], None]  # the steps last - 1, ..., first


class Recurrence(NamedTuple):
    """r = (mask * h) W^T, and how its products are computed."""

    weight: Tensor  # rounded already
    mask: Tensor | None
    dtype: torch.dtype  # of the factors

    def forward(self, buffers: Buffers, starts: Sequence[Tensor | None], step: Step) -> None:
        """r = starts[t] + (mask * h_{t-1}) W^T, then step(t), for all steps."""
        times, r = to_gates(*self, buffers.steps, buffers.rows), buffers["r"].tensor[0]
        for t, h in enumerate(buffers.rows_of("carry0_bf16" if "carry0_bf16" in buffers else "carry0")):
            times(h, starts[t], r)
            step(t)

    def backward(self, buffers: Buffers, starts: Sequence[Tensor], step: Step) -> Reverse:
        """step(t), then dh_{t-1} = starts[t] + mask * (dr_t W)."""
        times = to_state(*self, buffers.steps, buffers.rows)
        drs, dh = buffers.rows_of("dr"), buffers.rows_of("next0")

        def reverse(first: int, last: int) -> None:
            for t in reversed(range(first, last)):
                step(t)
                times(drs[t], starts[t], dh[t])

        return reverse


class Backward(NamedTuple):
    """The backward pass of a chunk."""

    run: Reverse
    gradients: Callable[
        [], tuple[Gradients, Gradients]
    ]  # after the first step: of each z that needs one, of parameters


class Body(Protocol):
    """Both loops: around one kernel a step (kernel_body.py) or torch's operations (torch_body.py)."""

    program: Program
    description: str
    any_shape: bool  # whether it serves chunks of any shape

    @property
    def reads_bf16(self) -> bool:
        """Whether z, r, dr and dz may be in bfloat16, and what is put as NAME_bf16 is NAME rounded to it."""

    @property
    def keeps_dcarry(self) -> bool:
        """Whether the gradients of the carry at all steps are needed after the reverse loop."""

    def forward(self, buffers: Buffers, recurrence: Recurrence, bias: Tensor | None) -> None:
        """Run the loop over all steps of a chunk."""

    def backward(self, buffers: Buffers, recurrence: Recurrence, saved: Saved, dys: Tensor) -> Backward: ...


class Chunk(torch.autograd.Function):
    """(ys, the tensors of the last carry) of a chunk; see `run` in fused.py.

    Args of `apply`:
        body: the compiled gates
        counts: how many of `tensors` are z (T, B, ...), carry, extras (B, ...) and parameters that gates read
        grad: whether a gradient may be asked for
        dtype: of the factors of the products with `weight`
        lengths: (B,), the number of steps after which the last carry of each row is wanted; None: all
        weight, bias, mask, tensors: of the recurrence, and the inputs of gates
    """

    @staticmethod
    def forward(
        ctx: Any,
        body: Body,
        counts: tuple[int, ...],
        grad: bool,
        dtype: torch.dtype,
        lengths: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        mask: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        z, state, extras, parameters = cut(tensors, counts)
        program, steps, rows = body.program, *z[0].shape[:2]
        buffers = Buffers(program, steps, rows, state[0])
        # If no gradients and no ends are wanted, only the outputs are kept: all else alternates between two rows.
        whole = grad or lengths is not None
        carries = [
            buffers.empty(steps + 1 if whole or i == 0 else 2, Block(start.shape[1:], start.dtype))
            for i, start in enumerate(state)
        ]
        for carry, start in zip(carries, state, strict=True):
            carry[0] = start
        stored = [buffers.empty(steps if grad else 1, block_of(node)) for node in program.stored]
        constant = [part for part, needed in zip(z, program.bulk.needs, strict=True) if not needed]
        saved = Saved(constant, carries, extras, parameters, stored)
        narrow = body.reads_bf16 and dtype is torch.bfloat16
        r = state[0].new_empty(rows, weight.shape[0], dtype=dtype if narrow else None)
        put_saved(buffers, saved)
        rounded = None
        if narrow and mask is None:  # the kernel rounds the state for the product as it stores it
            rounded = torch.empty_like(carries[0], dtype=dtype)
            rounded[0] = state[0]
            buffers.put("carry0_bf16", rounded)
            buffers.put("new0_bf16", rounded, 1)
        buffers.put_all("z", z)
        buffers.put("r", r.unsqueeze(0))
        factors = weight.to(dtype)
        with _without_autocast(r.device.type):
            body.forward(buffers, Recurrence(factors, mask, dtype), None if bias is None else bias.to(state[0].dtype))
        if lengths is None:
            last = [buffers.row(f"new{i}", -1).clone() for i in range(len(state))]
        else:
            last = [carry[lengths, torch.arange(rows, device=lengths.device)] for carry in carries]
        if grad:
            ctx.set_materialize_grads(False)  # nothing is added for a carry that nobody uses
            ctx.lengths = lengths
            ctx.body, ctx.dtype, ctx.biased, ctx.narrow, ctx.exact = body, dtype, bias is not None, narrow, weight.dtype
            ctx.counts, ctx.types = tuple(map(len, saved)), [part.dtype for part in z]
            ctx.save_for_backward(factors, mask, rounded, *(tensor for group in saved for tensor in group))
        return carries[0][1:], *last

    @staticmethod
    def backward(ctx: Any, dys: Tensor | None, *dlast: Tensor | None) -> tuple[Tensor | None, ...]:
        differentiable_once("fused")
        body: Body = ctx.body
        factors, mask, rounded, *tensors = ctx.saved_tensors
        saved = Saved(*cut(tensors, ctx.counts))
        dys = torch.zeros_like(saved.carries[0][1:]) if dys is None else dys
        steps, rows = dys.shape[:2]
        buffers = Buffers(body.program, steps, rows, dys)
        dcarries = []
        for i, carry in enumerate(saved.carries):
            buffer = torch.empty_like(carry) if body.keeps_dcarry else carry.new_empty(2, *carry.shape[1:])
            buffers.put(f"d{i}", buffer, 1)
            buffers.put(f"next{i}", buffer)
            buffer[steps % buffer.shape[0]] = 0 if i else dys[-1]
            dcarries.append(buffer)
        dr = buffers.empty(steps, Block(factors.shape[:1], ctx.dtype if ctx.narrow else dys.dtype))
        buffers.put("dr", dr)
        ends = _ends(ctx.lengths, steps)
        with _without_autocast(dys.device.type):
            reverse, gradients = body.backward(buffers, Recurrence(factors, mask, ctx.dtype), saved, dys)
            for first, last in reversed(list(pairwise(sorted({0, *ends, steps})))):
                _add_ends(ends.get(last), last, dcarries, dlast)
                reverse(first, last)
            _add_ends(ends.get(0), 0, dcarries, dlast)
        dz, dparameters = gradients()
        given, needs = iter(dz), zip(body.program.bulk.needs, ctx.types, strict=True)
        hs = saved.carries[0] if rounded is None else rounded
        return (
            None, None, None, None, None,
            to_weight(dr, hs[:-1], mask, ctx.dtype).to(ctx.exact),
            column_sums(dr.flatten(0, 1)) if ctx.biased else None,
            None,
            *(_typed(next(given), kind) if needed else None for needed, kind in needs),
            *(buffers.row(f"next{i}", 0) for i in range(len(saved.carries))),
            *(None for _ in saved.extras),
            *dparameters,
        )  # fmt: skip


def _without_autocast(kind: str) -> AbstractContextManager[object]:
    """Autocast switched off, for a few microseconds only where it is on."""
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _typed(gradient: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if gradient is None else gradient.to(dtype)


def _ends(lengths: Tensor | None, steps: int) -> dict[int, Any]:
    """The rows of the batch that end after each number of steps."""
    if lengths is None:
        return {steps: slice(None)}
    return {n: (lengths == n).nonzero().squeeze(1) for n in set(lengths.tolist())}


def _add_ends(ended: Any, t: int, dcarries: Sequence[Tensor], dlast: Sequence[Tensor | None]) -> None:
    """Add the gradients of the last carries of rows that end after t steps."""
    for dcarry, end in zip(dcarries, dlast, strict=True):
        if ended is not None and end is not None:
            dcarry[t % len(dcarry)][ended] += end[ended]
