"""The product of every step: a few rows times a large matrix, many times over.

    gates -> trace -> program -> reverse | kernels -> torch_body | kernel_body -> chunk [product]

r = W (mask * h), and backwards dh = mask * W^T dr, dW = sum_t dr_t^T (mask * h_{t-1}). A mask (B, H) is shared by all
rows of W; one of (G, B, H) has a part for each gate.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor, "Tensor | None", Tensor], None]


def to_gates(weight: Tensor, mask: Tensor | None, dtype: torch.dtype, steps: int, rows: int) -> Product:
    """out = start + (mask * h) W^T for every step of a chunk: h (B, H), out (B, G*H)."""
    if mask is not None and mask.dim() == 3:
        matrices = weight.unflatten(0, (len(mask), -1)).transpose(1, 2).to(dtype).contiguous()

        def gate_by_gate(h: Tensor, start: Tensor | None, out: Tensor) -> None:
            found = torch.bmm((h * mask).to(dtype), matrices).transpose(0, 1)  # (B, G, H)
            _store(found, None if start is None else start.view(found.shape), out.view(found.shape))

        return gate_by_gate
    times = product(weight.t(), dtype, steps, rows)
    return times if mask is None else lambda h, start, out: times(h * mask, start, out)


def to_state(weight: Tensor, mask: Tensor | None, dtype: torch.dtype, steps: int, rows: int) -> Product:
    """out = start + mask * (dr W) for every step of a chunk: dr (B, G*H), out (B, H)."""
    if mask is None:
        return product(weight, dtype, steps, rows)
    if mask.dim() == 3:
        matrices = weight.unflatten(0, (len(mask), -1)).to(dtype).contiguous()

        def gate_by_gate(dr: Tensor, start: Tensor | None, out: Tensor) -> None:
            parts = dr.view(len(dr), len(mask), -1).transpose(0, 1).to(dtype)
            returned = (torch.bmm(parts, matrices) * mask).sum(0)
            out.copy_(returned if start is None else returned + start)

        return gate_by_gate
    times = product(weight, dtype, steps, rows)

    def masked(dr: Tensor, start: Tensor | None, out: Tensor) -> None:
        returned = torch.empty_like(out)
        times(dr, None, returned)
        if start is None:
            torch.mul(returned, mask, out=out)
        else:
            torch.addcmul(start, returned, mask, out=out)

    return masked


def to_weight(dr: Tensor, hs: Tensor, mask: Tensor | None) -> Tensor:
    """sum_t dr_t^T (mask * h_{t-1}): dr (T, B, G*H), hs (T, B, H) -> (G*H, H)."""
    if mask is not None and mask.dim() == 3:
        parts = zip(dr.chunk(len(mask), -1), mask, strict=True)
        return torch.cat([to_weight(part, hs, one) for part, one in parts])
    return dr.flatten(0, 1).t() @ (hs if mask is None else hs * mask).flatten(0, 1)


def product(matrix: Tensor, dtype: torch.dtype, steps: int, rows: int) -> Product:
    """out = start + x @ matrix, for the `steps` many x (rows, K) of a chunk; start may be None, or out itself.

    Factors are rounded to `dtype` first; start and out stay as they are.
    """
    if dtype != matrix.dtype:
        narrow = matrix.to(dtype).contiguous()

        def narrow_times(x: Tensor, start: Tensor | None, out: Tensor) -> None:
            _store(x.to(dtype) @ narrow, start, out)

        return narrow_times
    matrix = matrix.contiguous()  # a small x times a transposed matrix is several times slower
    if packs(matrix, steps, rows):
        original = matrix.t().contiguous()
        packed = torch.ops.mkl._mkl_reorder_linear_weight(original, rows)

        def packed_times(x: Tensor, start: Tensor | None, out: Tensor) -> None:
            _store(torch.ops.mkl._mkl_linear(x, packed, original, None, rows), start, out)

        return packed_times

    def times(x: Tensor, start: Tensor | None, out: Tensor) -> None:
        if start is None:
            torch.mm(x, matrix, out=out)
        else:
            torch.addmm(start, x, matrix, out=out)

    return times


def _store(product: Tensor, start: Tensor | None, out: Tensor) -> None:
    """out = start + product."""
    if start is None:
        out.copy_(product)
    else:
        torch.add(start, product, out=out)


def packs(matrix: Tensor, steps: int, rows: int) -> bool:
    """Whether a matrix is worth bringing into MKL's own order once: if it is large and used often, by few rows.

    MKL otherwise does that for every product. Measured on two cores at 20 rows: 1.7 times the speed at 4600 x 1150.
    """
    on_mkl = matrix.device.type == "cpu" and matrix.dtype is torch.float32 and torch.backends.mkl.is_available()
    return on_mkl and matrix.numel() >= 2_000_000 and steps >= 10 and rows <= 128
