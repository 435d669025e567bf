"""The loop of a linear recurrence, h_t = a_t * h_{t-1} + b_t, and its gradient.

    coefficients -> [linear] -> one kernel a chunk: compiled | linear_triton

One kernel does all steps of a chunk: in C on the CPU (compiled.py), in Triton on CUDA (linear_triton.py). Where
neither can be had, a step is one operation of torch.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cells import Carry, LinearCell, map_carry
from . import compiled
from .affine import FastAffine
from .deferred import differentiable_once
from .passes import Unsupported, kernels_allowed, require_kernels


class Loops(NamedTuple):
    """Forwards and backwards in time; tensors are contiguous (T, B, H), starts (B, H), the last ones are written."""

    forward: Callable[[Tensor, Tensor, Tensor, Tensor], None]  # a, b, h_0; h
    backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None]  # a, h_0, h, dh; da, db, dh_0


def describe(cell: LinearCell) -> str:
    """The loop in words: one kernel a chunk, or torch's operations and why."""
    return _loops(cell.weight_ih)[1]


def run(
    cell: LinearCell, xs: Tensor, carry: Carry, *, reverse: bool = False, lengths: Tensor | None = None
) -> tuple[Carry, Tensor]:
    """`scan` with nothing but a product and a sum in the loop: xs (T, B, I), carry -> (carry, ys) in the order of xs.

    Coefficients and outputs are computed for all T at once, under autograd. Differentiable once.
    """
    dtype = carry[0].dtype  # of state and gates, also under autocast: what is added up stays exact
    with FastAffine():
        inputs = cell.inputs(xs.flip(0) if reverse else xs, carry)
    exact = map_carry(lambda part: part.to(dtype) if part.is_floating_point() else part, inputs)
    last, ys = cell.unroll(exact, carry, linear_recurrence, lengths)
    # Copies: a carry lives on, and would hold on to the chunk.
    return map_carry(torch.clone, last), ys.flip(0) if reverse else ys


def linear_recurrence(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """h_t = a_t * h_{t-1} + b_t for all t: a and b (T, B, H), or what is broadcast to that, h_0 (B, H) -> h (T, B, H).

    Backwards in time dh_{t-1} += a_t * dh_t; then da_t = dh_t * h_{t-1}, db_t = dh_t. Keeps a and h. Differentiable
    once. Raises ValueError unless h_0 has a row for each of the batch.
    """
    shape = torch.broadcast_shapes(a.shape, b.shape)
    if shape[1:] != start.shape:
        raise ValueError(f"coefficients {tuple(a.shape)} and {tuple(b.shape)} do not fit a state {tuple(start.shape)}")
    loops, _ = _loops(start)
    a, b = (part.to(start.dtype).expand(shape).contiguous() for part in (a, b))
    return _Recurrence.apply(loops, a, b, start.contiguous())  # type: ignore[no-any-return,no-untyped-call]


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loops: Loops, a: Tensor, b: Tensor, start: Tensor) -> Tensor:
        h = torch.empty_like(b)
        loops.forward(a, b, start, h)
        ctx.loops = loops
        ctx.save_for_backward(a, start, h)
        return h

    @staticmethod
    def backward(ctx: Any, dh: Tensor) -> tuple[None, Tensor, Tensor, Tensor]:
        differentiable_once("fused")
        a, start, h = ctx.saved_tensors
        da, db, dstart = torch.empty_like(a), torch.empty_like(a), torch.empty_like(start)
        ctx.loops.backward(a, start, h, dh.contiguous(), da, db, dstart)
        return None, da, db, dstart


def _forward(a: Tensor, b: Tensor, start: Tensor, h: Tensor) -> None:
    for at, bt, ht in zip(a.unbind(0), b.unbind(0), h.unbind(0), strict=True):
        start = torch.addcmul(bt, at, start, out=ht)


def _backward(a: Tensor, start: Tensor, h: Tensor, dh: Tensor, da: Tensor, db: Tensor, dstart: Tensor) -> None:
    db[-1] = dh[-1]
    rows = (part.unbind(0) for part in (a[1:], db[1:], dh[:-1], db[:-1]))
    for at, after, dht, out in reversed(list(zip(*rows, strict=True))):
        torch.addcmul(dht, at, after, out=out)
    torch.mul(db[1:], h[:-1], out=da[1:])
    torch.mul(db[0], start, out=da[0])
    torch.mul(db[0], a[0], out=dstart)


def _loops(like: Tensor) -> tuple[Loops, str]:
    """The loops for states like this one, and their description."""
    return _found(like.device.type, like.dtype, kernels_allowed(), os.environ.get("CC"))


@functools.cache
def _found(device: str, dtype: torch.dtype, *_settings: object) -> tuple[Loops, str]:
    try:
        return _kernels(device, dtype), "one kernel a chunk"
    except Unsupported as reason:
        return Loops(_forward, _backward), f"torch's operations, for {reason}"


def _kernels(device: str, dtype: torch.dtype) -> Loops:
    """The kernels. Raises Unsupported where there are none."""
    require_kernels()
    if device == "cuda":
        return _triton()
    if device != "cpu" or dtype not in _NAMES:
        raise Unsupported(f"no kernels for {dtype} on {device}")
    library = compiled.library(_SOURCE.replace("REAL", _NAMES[dtype]))
    return Loops(_called(library.forward), _called(library.backward))


def _triton() -> Loops:
    if importlib.util.find_spec("triton") is None:
        raise Unsupported("triton is not installed")
    from . import linear_triton

    return Loops(linear_triton.forward, linear_triton.backward)


def _called(function: compiled.Compiled) -> Callable[..., None]:
    def call(*tensors: Tensor) -> None:
        steps, count = len(tensors[0]), tensors[0][0].numel()
        threads = torch.get_num_threads() if count >= 2048 else 1
        compiled.call(function, tensors, steps, count, threads)

    return call


_NAMES = {torch.float32: "float", torch.float64: "double"}
# Every thread takes a share of the units through all steps, reading contiguous rows.
_SOURCE = """
#include <omp.h>
#define FOR_SHARES \\
    _Pragma("omp parallel for schedule(static) num_threads(threads) if(threads > 1)") \\
    for (long share = 0; share < threads; share++)
#define BEGIN (count * share / threads)
#define END (count * (share + 1) / threads)
typedef REAL real;

void forward(const real *a, const real *b, const real *start, real *h, long steps, long count, long threads) {
    FOR_SHARES {
        const long begin = BEGIN, end = END;
        const real *before = start;
        for (long t = 0; t < steps; t++) {
            const real *at = a + t * count, *bt = b + t * count;
            real *ht = h + t * count;
            #pragma omp simd
            for (long unit = begin; unit < end; unit++) ht[unit] = at[unit] * before[unit] + bt[unit];
            before = ht;
        }
    }
}

void backward(const real *a, const real *start, const real *h, const real *dh, real *da, real *db, real *dstart,
              long steps, long count, long threads) {
    FOR_SHARES {
        const long begin = BEGIN, end = END;
        for (long unit = begin; unit < end; unit++) dstart[unit] = 0;
        for (long t = steps - 1; t >= 0; t--) {
            const long row = t * count;
            const real *before = t > 0 ? h + row - count : start;
            #pragma omp simd
            for (long unit = begin; unit < end; unit++) {  /* dstart: a_{t+1} dh_{t+1} */
                const real all = dh[row + unit] + dstart[unit];
                db[row + unit] = all;
                da[row + unit] = all * before[unit];
                dstart[unit] = all * a[row + unit];
            }
        }
    }
}
"""
