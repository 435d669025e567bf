"""Products of matrices on the CPU, each by the library that is the fastest at its shape on this machine.

    engines, softmax -> [product] -> choice

torch hands a product to MKL (float32) or oneDNN (bfloat16), which bring the matrix into an order of their own every
time. Both can be given a matrix in that order, "packed": then it is done once for all steps of a chunk, and oneDNN can
be had for float32, where it is up to 2.7 times as fast as MKL on a processor that MKL does not know (20 x 1150 x 4600,
AMD EPYC). Factors are rounded to `dtype`, sums are added up in float32 at least.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .choice import length_class, measured, shape_class, timed
from .transpose import transposed

Product = Callable[[Tensor, "Tensor | None", Tensor], None]
LEAST_WORK = 2**20  # multiplications: of fewer, all ways are alike
LEAST_USES = 8  # rows, or products, that use a matrix: for fewer it is not worth packing


def repeated(matrix: Tensor, dtype: torch.dtype, steps: int, rows: int) -> Product:
    """out = start + x @ matrix, for the `steps` many x (rows, K) of a chunk; start may be None, or out itself.

    x is rounded to `dtype`; start and out keep their types.
    """
    matrix = matrix.to(dtype)
    ways = ways_to_repeat(matrix, rows) if steps >= LEAST_USES else {"torch": _unpacked}

    def trial(way: Callable[[Tensor, int], Product]) -> Callable[[], float]:
        x, out = torch.ones(rows, len(matrix), dtype=dtype), torch.empty(rows, matrix.shape[1])
        made: list[Product] = []
        pack = timed(lambda: made.append(way(matrix, rows)))
        twice = timed(lambda: [made[-1](x, None, out) for _ in range(2)])
        return lambda: pack() + twice() * steps / 2

    name = _fastest(f"{length_class(steps, 128)} x @ W", (rows, *matrix.shape), dtype, ways, trial)
    return ways[name](matrix, rows)


def ways_to_repeat(matrix: Tensor, rows: int) -> dict[str, Callable[[Tensor, int], Product]]:
    """The ways to multiply by a matrix again and again: each takes the matrix and the rows of x."""
    ways: dict[str, Callable[[Tensor, int], Product]] = {"torch": _unpacked}
    if _differ(matrix, rows):
        if matrix.dtype is torch.float32 and torch.backends.mkl.is_available():
            ways["mkl"] = _packed_by_mkl
        if _has_onednn(matrix.dtype):
            ways["onednn"] = _packed_by_onednn
    return ways


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b: x (N, K), weight (G, K), bias (G), all of one type -> (N, G)."""
    sizes = (x.shape[0], *weight.shape)
    ways = ways_to_map(weight, sizes[0])
    name = _fastest("x W^T", sizes, x.dtype, ways, lambda way: timed(partial(way, x, weight, bias)))
    return ways[name](x, weight, bias)


def ways_to_map(weight: Tensor, rows: int) -> dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]]:
    """The ways to compute an affine map once: each takes x, weight and bias."""
    return {"torch": F.linear} | ({"onednn": _affine_by_onednn} if _packs_once(weight, rows) else {})


def multiply(x: Tensor, matrix: Tensor) -> Tensor:
    """x @ matrix: x (N, G), matrix (G, K), of one type -> (N, K)."""
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"torch": torch.mm}
    sizes = (x.shape[0], *matrix.shape)
    if _packs_once(matrix, sizes[0]):
        ways["onednn"] = lambda x, matrix: _affine_by_onednn(x, transposed(matrix), None)
    name = _fastest("x W", sizes, x.dtype, ways, lambda way: timed(partial(way, x, matrix)))
    return ways[name](x, matrix)


def outer(d: Tensor, x: Tensor) -> Tensor:
    """d^T x, as of the gradient of a weight: d (N, G) and x (N, K), of one type -> (G, K)."""
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"torch": lambda d, x: d.t() @ x}
    if _packs_once(x, d.shape[1]):
        ways["onednn"] = lambda d, x: _affine_by_onednn(transposed(d), transposed(x), None)
    name = _fastest("d^T x", (*d.shape, x.shape[1]), d.dtype, ways, lambda way: timed(partial(way, d, x)))
    return ways[name](d, x)


def bf16_speed() -> float | None:
    """How many times as fast a product of bfloat16 is as one of float32; None where nothing is measured."""

    def trial(dtype: torch.dtype) -> Callable[[], float]:
        x, weight = torch.ones(256, 512, dtype=dtype), torch.ones(1024, 512, dtype=dtype)
        return timed(lambda: affine(x, weight, None))

    question = f"precision of products, {torch.get_num_threads()} threads"
    measured.choose(question, {"float32": trial(torch.float32), "bf16": trial(torch.bfloat16)})
    return measured.times_as_fast(question, "bf16", "float32")


def _fastest(
    product: str,
    sizes: tuple[int, ...],
    dtype: torch.dtype,
    ways: Mapping[str, Any],
    trial: Callable[[Any], Callable[[], float]],
) -> str:
    if len(ways) == 1:
        return next(iter(ways))
    question = _question(product, sizes, dtype, torch.get_num_threads())
    if (known := measured.known(question, ways)) is not None:
        return known
    with torch.no_grad():
        trials = {name: (lambda way=way: trial(way)()) for name, way in ways.items()}
        return measured.choose(question, trials)


@functools.lru_cache(maxsize=1024)
def _question(product: str, sizes: tuple[int, ...], dtype: torch.dtype, threads: int) -> str:
    """The question about a product, as choice.py knows it; it is asked at every product."""
    return f"{product} of {shape_class(*sizes)}, {str(dtype).removeprefix('torch.')}, {threads} threads"


def _differ(matrix: Tensor, rows: int) -> bool:
    """Whether there is more than one way, and enough work to tell them apart."""
    narrow = matrix.dtype in (torch.float32, torch.bfloat16)
    return matrix.device.type == "cpu" and narrow and matrix.numel() * rows >= LEAST_WORK


def _packs_once(matrix: Tensor, rows: int) -> bool:
    """Whether a matrix may be packed for one product."""
    return min(rows, *matrix.shape) >= LEAST_USES and _has_onednn(matrix.dtype) and _differ(matrix, rows)


@functools.cache
def _has_onednn(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies by a packed matrix here, by functions that are no public part of torch.

    In bfloat16 it wants a processor with units for it.
    """
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    with torch.no_grad(), suppress(RuntimeError):
        _affine_by_onednn(torch.ones(LEAST_USES, 16, dtype=dtype), torch.ones(16, 16, dtype=dtype), None)
        return True
    return False


def _affine_by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, len(x))
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return product


def _unpacked(matrix: Tensor, rows: int) -> Product:
    matrix = transposed(matrix.t())  # contiguous: a small x times a transposed matrix is several times slower

    def times(x: Tensor, start: Tensor | None, out: Tensor) -> None:
        if x.dtype is not matrix.dtype or out.dtype is not matrix.dtype:
            store(x.to(matrix.dtype) @ matrix, start, out)
        elif start is None:
            torch.mm(x, matrix, out=out)
        else:
            torch.addmm(start, x, matrix, out=out)

    return times


def _packed_by_mkl(matrix: Tensor, rows: int) -> Product:
    original = transposed(matrix)
    packed = torch.ops.mkl._mkl_reorder_linear_weight(original, rows)
    return lambda x, start, out: store(torch.ops.mkl._mkl_linear(x, packed, original, None, rows), start, out)


def _packed_by_onednn(matrix: Tensor, rows: int) -> Product:
    packed = torch.ops.mkldnn._reorder_linear_weight(transposed(matrix), rows)
    dtype, multiply = matrix.dtype, torch.ops.mkldnn._linear_pointwise.default
    return lambda x, start, out: store(multiply(x.to(dtype), packed, None, "none", [], ""), start, out)


def store(product: Tensor, start: Tensor | None, out: Tensor) -> None:
    """out = start + product."""
    if start is None:
        out.copy_(product)
    else:
        torch.add(start, product, out=out)
