"""The two loops of linear.py for CUDA: a program does a block of units, through all steps.

coefficients -> linear -> one kernel a chunk: compiled | [linear_triton]
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128


def forward(a: Tensor, b: Tensor, start: Tensor, h: Tensor) -> None:
    """h_t = a_t * h_{t-1} + b_t."""
    _launch(_forward, a, b, start, h)


def backward(a: Tensor, start: Tensor, h: Tensor, dh: Tensor, da: Tensor, db: Tensor, dstart: Tensor) -> None:
    """Gradients of a, b and h_0 from those of h."""
    _launch(_backward, a, start, h, dh, da, db, dstart)


def _launch(kernel: Any, *tensors: Tensor) -> None:
    steps, count = len(tensors[0]), tensors[0][0].numel()
    kernel[(triton.cdiv(count, BLOCK),)](*tensors, steps, count, BLOCK)


@triton.jit(do_not_specialize=["steps"])
def _forward(a, b, start, h, steps, count, BLOCK: tl.constexpr):
    unit = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = unit < count
    state = tl.load(start + unit, mask=inside)
    for _ in range(steps):
        state = tl.load(a + unit, mask=inside) * state + tl.load(b + unit, mask=inside)
        tl.store(h + unit, state, mask=inside)
        a += count
        b += count
        h += count


@triton.jit(do_not_specialize=["steps"])
def _backward(a, start, h, dh, da, db, dstart, steps, count, BLOCK: tl.constexpr):
    unit = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = unit < count
    at = tl.cast(steps - 1, tl.int64) * count + unit
    returned = tl.zeros((BLOCK,), start.dtype.element_ty)  # a_{t+1} dh_{t+1}
    for _ in range(steps - 1):
        gradient = tl.load(dh + at, mask=inside) + returned
        tl.store(db + at, gradient, mask=inside)
        tl.store(da + at, gradient * tl.load(h + at - count, mask=inside), mask=inside)
        returned = gradient * tl.load(a + at, mask=inside)
        at -= count
    gradient = tl.load(dh + unit, mask=inside) + returned
    tl.store(db + unit, gradient, mask=inside)
    tl.store(da + unit, gradient * tl.load(start + unit, mask=inside), mask=inside)
    tl.store(dstart + unit, gradient * tl.load(a + unit, mask=inside), mask=inside)
