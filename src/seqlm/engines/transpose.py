"""Transposed copies of matrices: torch's own copy reads a cache line for every number of it.

product -> [transpose] -> compiled
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from . import compiled
from .passes import kernels_allowed

LEAST = 2**14  # numbers: fewer are in the cache anyway


def transposed(matrix: Tensor) -> Tensor:
    """A contiguous copy (N, M) of the transpose of a matrix (M, N)."""
    if matrix.t().is_contiguous():
        return matrix.t()
    serves = matrix.device.type == "cpu" and matrix.is_contiguous() and matrix.numel() >= LEAST and kernels_allowed()
    copy = _compiled(matrix.element_size()) if serves else None
    if copy is None:
        return matrix.t().contiguous()
    out = matrix.new_empty(matrix.shape[1], matrix.shape[0])
    compiled.call(copy, (matrix, out), *matrix.shape, torch.get_num_threads())
    return out


@functools.cache
def _compiled(size: int) -> compiled.Compiled | None:
    """The function for numbers of so many bytes, if there is a compiler."""
    return compiled.optional(_SOURCE.replace("NUMBER", f"uint{8 * size}_t"), "transpose")


# Squares of a cache line on each side; every thread writes rows of its own.
_SOURCE = """
#include <stdint.h>
typedef NUMBER number;
enum { SIDE = 64 / sizeof(number) };

void transpose(const number *restrict in, number *restrict out, long rows, long columns, long threads) {
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (long left = 0; left < columns; left += SIDE)
        for (long top = 0; top < rows; top += SIDE) {
            const long wide = columns - left < SIDE ? columns - left : SIDE;
            const long high = rows - top < SIDE ? rows - top : SIDE;
            if (wide == SIDE && high == SIDE) {
                number square[SIDE][SIDE];
                for (long i = 0; i < SIDE; i++)
                    for (long j = 0; j < SIDE; j++) square[j][i] = in[(top + i) * columns + left + j];
                for (long j = 0; j < SIDE; j++)
                    for (long i = 0; i < SIDE; i++) out[(left + j) * rows + top + i] = square[j][i];
            } else
                for (long j = 0; j < wide; j++)
                    for (long i = top; i < top + high; i++) out[(left + j) * rows + i] = in[i * columns + left + j];
        }
}
"""
