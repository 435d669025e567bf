"""The product of every step, and that of all steps in the gradient, with the masks of a regulariser.

    gates -> trace -> program -> reverse | kernels -> torch_body | kernel_body -> chunk [recurrent_product] -> product

r = W (mask * h), and backwards dh = mask * W^T dr, dW = sum_t dr_t^T (mask * h_{t-1}). A mask (B, H) is shared by all
rows of W; one of (G, B, H) has a part for each gate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .product import Product, outer, repeated, store


def to_gates(weight: Tensor, mask: Tensor | None, dtype: torch.dtype, steps: int, rows: int) -> Product:
    """out = start + (mask * h) W^T for every step of a chunk: h (B, H), out (B, G*H)."""
    if mask is not None and mask.dim() == 3:
        matrices = weight.unflatten(0, (len(mask), -1)).transpose(1, 2).to(dtype).contiguous()

        def gate_by_gate(h: Tensor, start: Tensor | None, out: Tensor) -> None:
            found = torch.bmm((h * mask).to(dtype), matrices).transpose(0, 1)  # (B, G, H)
            store(found, None if start is None else start.view(found.shape), out.view(found.shape))

        return gate_by_gate
    times = repeated(weight.t(), dtype, steps, rows)
    return times if mask is None else lambda h, start, out: times(h * mask, start, out)


def to_state(weight: Tensor, mask: Tensor | None, dtype: torch.dtype, steps: int, rows: int) -> Product:
    """out = start + mask * (dr W) for every step of a chunk: dr (B, G*H), out (B, H)."""
    if mask is None:
        return repeated(weight, dtype, steps, rows)
    if mask.dim() == 3:
        matrices = weight.unflatten(0, (len(mask), -1)).to(dtype).contiguous()

        def gate_by_gate(dr: Tensor, start: Tensor | None, out: Tensor) -> None:
            parts = dr.view(len(dr), len(mask), -1).transpose(0, 1).to(dtype)
            returned = (torch.bmm(parts, matrices) * mask).sum(0)
            out.copy_(returned if start is None else returned + start)

        return gate_by_gate
    times = repeated(weight, dtype, steps, rows)

    def masked(dr: Tensor, start: Tensor | None, out: Tensor) -> None:
        returned = torch.empty_like(out)
        times(dr, None, returned)
        if start is None:
            torch.mul(returned, mask, out=out)
        else:
            torch.addcmul(start, returned, mask, out=out)

    return masked


def to_weight(dr: Tensor, hs: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """sum_t dr_t^T (mask * h_{t-1}): dr (T, B, G*H), hs (T, B, H) -> (G*H, H), in the type of dr."""
    if mask is not None and mask.dim() == 3:
        parts = zip(dr.chunk(len(mask), -1), mask, strict=True)
        return torch.cat([to_weight(part, hs, one, dtype) for part, one in parts])
    hs = hs if mask is None else hs * mask
    if dr.device.type != "cpu":  # there is none that keeps the sum in float32
        dtype = dr.dtype
    return outer(dr.flatten(0, 1).to(dtype), hs.flatten(0, 1).to(dtype)).to(dr.dtype)
