"""The reference: the cell's own step, once for each step in time, under autograd.

layer -> pick -> [scan] | native | deferred | fused
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..cells import Carry, Cell, carry_tensors, map_carry, state_after


def refusal(cell: Cell) -> str | None:
    """None: it serves every cell."""
    return None


def scan(
    cell: Cell, xs: Tensor, carry: Carry, *, reverse: bool = False, lengths: Tensor | None = None
) -> tuple[Carry, Tensor]:
    """Run `cell` over a chunk: xs (T, B, I), carry -> (carry after the last step, ys (T, B, O)).

    The reference that every engine is tested against. With `reverse` time runs from T-1 to 0 and ys
    still comes back in the order of xs. With `lengths` (B,) the carry of each row is that after so many steps.
    """
    start, carries = carry, []
    step = cell.bind(carry)
    # One large matmul: the input part does not depend on the carry. unbind, not zs[t]: the gradient
    # of T slices would be T full-size tensors.
    projected: Any = cell.inputs(xs.flip(0) if reverse else xs, carry)
    several = isinstance(projected, tuple)
    zs: Any = list(zip(*(z.unbind(0) for z in projected), strict=True)) if several else projected.unbind(0)
    ys = []
    for z in zs:
        carry, y = step(carry, z)
        ys.append(y)
        if lengths is not None:
            carries.append(carry_tensors(carry))
    if lengths is not None:
        states = map(torch.stack, zip(*carries, strict=True))
        carry = map_carry(lambda first: state_after(lengths, next(states), first), start)
    return carry, torch.stack(ys[::-1] if reverse else ys)


run = scan
