"""Sums over the rows of a matrix, as of the gradient of a bias: torch is several times slower at those of bfloat16.

chunk, affine, linear_cross_entropy -> [column_sums] -> compiled
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from . import compiled
from .passes import kernels_allowed
from .prelude import header

LEAST_WORK = 2**15  # numbers: fewer are not worth a second thread


def column_sums(matrix: Tensor) -> Tensor:
    """sum_n x_n of x (N, G), added up in float32 at least -> (G)."""
    narrow = matrix.device.type == "cpu" and matrix.dtype is torch.bfloat16
    kernel = _kernel() if narrow and matrix.is_contiguous() and kernels_allowed() else None
    if kernel is None:
        return matrix.sum(0, dtype=torch.promote_types(matrix.dtype, torch.float32))
    sums = torch.empty(matrix.shape[1])
    threads = torch.get_num_threads() if matrix.numel() >= LEAST_WORK else 1
    compiled.call(kernel, (matrix, sums), *matrix.shape, threads)
    return sums


@functools.cache
def _kernel() -> compiled.Compiled | None:
    """The kernel, if there is a compiler."""
    return compiled.optional(header(torch.float32, {"bf16"}) + _SOURCE, "column_sums")


# Every thread takes columns of its own, so that no bit depends on their number. Parts of a few rows are added up, or
# what comes late would lose its last digits.
_SOURCE = """
enum { COLUMNS = 128, ROWS = 32 };

void column_sums(const bf16 *x, real *sums, long rows, long size, long threads) {
    #pragma omp parallel for schedule(static) num_threads(threads) if(threads > 1)
    for (long left = 0; left < size; left += COLUMNS) {
        const long width = size - left < COLUMNS ? size - left : COLUMNS;
        real whole[COLUMNS] = {0};
        for (long top = 0; top < rows; top += ROWS) {
            const long end = rows - top < ROWS ? rows : top + ROWS;
            real part[COLUMNS] = {0};
            for (long row = top; row < end; row++) {
                const bf16 *from = x + row * size + left;
                #pragma omp simd
                for (long column = 0; column < width; column++) part[column] += WIDE(from[column]);
            }
            for (long column = 0; column < width; column++) whole[column] += part[column];
        }
        for (long column = 0; column < width; column++) sums[left + column] = whole[column];
    }
}
"""
