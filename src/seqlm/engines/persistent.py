"""The engine for gated cells of a moderate size on the CPU: the loop over time in C, the weight kept in the caches.

    layer -> pick -> [persistent] -> fused, with another body of the loop -> compiled_loop

It serves what `fused` has kernels for, unless the gates add up over the units of a row (layer normalisation).
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field, fields

from torch import Tensor

from ..cells import Carry, Cell, GatedCell
from . import compiled, fused
from .buffers import Buffers
from .chunk import Body, Recurrence, Reverse
from .compiled_loop import BACKWARD, FORWARD, Loop
from .kernel_body import KernelBody
from .passes import Unsupported

_lock = threading.Lock()
_made: weakref.WeakKeyDictionary[KernelBody, PersistentBody | str] = weakref.WeakKeyDictionary()  # or why there is none


@dataclass(eq=False)
class PersistentBody(KernelBody):
    """A body with a loop of its own for each pass. The mask of a regulariser takes the usual way, step by step."""

    forward_loop: Loop = field(kw_only=True)
    reverse_loop: Loop = field(kw_only=True)

    def run_forward(self, buffers: Buffers, recurrence: Recurrence) -> None:
        if recurrence.mask is not None:
            return super().run_forward(buffers, recurrence)
        buffers.put("r", buffers.like.new_empty(1, buffers.rows, len(recurrence.weight)))  # as exact as the state
        self.forward_loop.bind(buffers, recurrence.weight)(0, buffers.steps)

    def run_backward(self, buffers: Buffers, recurrence: Recurrence) -> Reverse:
        if recurrence.mask is not None:
            return super().run_backward(buffers, recurrence)
        return self.reverse_loop.bind(buffers, recurrence.weight)


def refusal(cell: Cell) -> str | None:
    """Why this engine cannot serve `cell` exactly, or None when it can."""
    if (why_not := fused.refusal(cell)) is not None:
        return why_not
    if not isinstance(cell, GatedCell) or cell.weight_hh.device.type != "cpu":
        return "it serves gated cells on the CPU"
    made = _persistent(fused.body_of(cell))
    return made if isinstance(made, str) else None


def run(
    cell: Cell, xs: Tensor, carry: Carry, *, reverse: bool = False, lengths: Tensor | None = None
) -> tuple[Carry, Tensor]:
    """`fused.run`, with the loop over time in one call: xs (T, B, I), carry -> (carry, ys), ys (T, B, H)."""
    return fused.run(cell, xs, carry, reverse=reverse, lengths=lengths, change=_required)


def _required(body: Body) -> Body:
    made = _persistent(body)
    if isinstance(made, str):
        raise ValueError(f"engine=persistent cannot serve this layer: {made}")
    return made


def _persistent(body: Body) -> PersistentBody | str:
    """The body with the whole loop in C, or why there is none."""
    if not isinstance(body, KernelBody):
        return f"there are no kernels: {body.description}"
    with _lock:
        if body not in _made:
            _made[body] = _compile(body)
        return _made[body]


def _compile(body: KernelBody) -> PersistentBody | str:
    forward, reverse = body.forward_kernel, body.reverse_kernel
    if not isinstance(forward, compiled.Function) or not isinstance(reverse, compiled.Function):
        return "it serves the CPU"
    try:
        loops = Loop(forward.kernel, forward.dtype, FORWARD), Loop(reverse.kernel, reverse.dtype, BACKWARD)
    except Unsupported as reason:
        return str(reason)
    kept = {one.name: getattr(body, one.name) for one in fields(KernelBody)} | {"description": "one call a chunk"}
    return PersistentBody(**kept, forward_loop=loops[0], reverse_loop=loops[1])
