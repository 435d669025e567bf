"""The engine for any gated or linear cell: no autograd inside the loop over time, gradients by hand.

    layer -> pick -> scan | native | deferred | [fused], and from here the gates of a cell:

    gates -> trace -> program -> reverse -> code ----------------------------------> torch_body --+-> chunk
                             +-> kernels -> lower -> passes -> compiled | triton --> kernel_body -+

The recurrence of a linear cell has two loops of its own (linear.py). A gated cell's `gates` are traced once (trace.py).
From the trace comes a program (program.py, reverse.py): which operations run inside the loop, which for all steps at
once. Where every operation is elementwise, and there is a compiler, the loop body is one kernel instead (lower.py;
compiled.py on the CPU, triton_kernels.py on CUDA). chunk.py runs either around the products of every step.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..cells import Carry, Cell, GatedCell, LinearCell, carry_tensors, map_carry
from . import compiled, linear, triton_kernels
from .affine import FastAffine
from .chunk import Body, Chunk
from .kernel_body import kernel_body
from .origin import origin, settings
from .passes import Unsupported, kernels_allowed, require_kernels
from .program import compile
from .scan import scan
from .torch_body import TorchBody
from .trace import Layout, trace

T = TypeVar("T")
MOST_PROGRAMS = 128  # of a cell: shapes of chunks, where a program is of one shape
MOST_SHARED = 256  # bodies kept for cells to come
_refusals: weakref.WeakKeyDictionary[Cell, dict[Any, str | None]] = weakref.WeakKeyDictionary()
_bodies: weakref.WeakKeyDictionary[Cell, dict[Any, Body]] = weakref.WeakKeyDictionary()
_shared: dict[Any, Body] = {}  # by what a body is made from: equal layers, and equal models, are traced once
_cache_lock = threading.Lock()  # held while one of them is read or changed, never while a cell is traced
_alone = threading.Lock()
_thread = threading.local()


def refusal(cell: Cell) -> str | None:
    """Why this engine cannot serve `cell` exactly, or None when it can."""
    if not isinstance(cell, (GatedCell, LinearCell)):
        return f"{type(cell).__name__} is not a gated or linear cell: it has neither gates() nor coefficients()"
    if not (cell.linear if isinstance(cell, LinearCell) else cell.gated):
        return f"{type(cell).__name__} has a step of its own, not the one derived from {_written(cell)}()"
    with _cache_lock:
        tried = _refusals.setdefault(cell, {})
    key = (cell.weight_ih.device, cell.weight_ih.dtype, cell.dropout)
    if key not in tried:
        tried[key] = _isolated(lambda: tried[key] if key in tried else _trial(cell))
    return tried[key]


def describe(cell: Cell) -> str:
    """The loop in words: one kernel a step or a chunk, or torch's operations and why."""
    if isinstance(cell, LinearCell):
        return linear.describe(cell)
    return body_of(cell).description if refusal(cell) is None else ""


def body_of(cell: Cell) -> Body:
    """The body of the last chunk, of a cell that is not refused."""
    return next(reversed(_bodies[cell].values()))


def run(
    cell: Cell,
    xs: Tensor,
    carry: Carry,
    *,
    reverse: bool = False,
    lengths: Tensor | None = None,
    change: Callable[[Body], Body] | None = None,
) -> tuple[Carry, Tensor]:
    """`scan` without autograd in the loop: xs (T, B, I), carry -> (carry, ys), ys (T, B, H) in the order of xs.

    Forward: z = project(xs) for all T; then for each t: r_t = h_{t-1} W^T + b, carry_t = gates(z_t, r_t, carry_{t-1}).
    Backward: for each t, from the last: dr_t, dz_t and dcarry_{t-1} from dcarry_t, and dh_{t-1} += dr_t W; then
    dW = sum_t dr_t^T h_{t-1} as one product, and gradients of other parameters for all T at once.

    Between the two it keeps the carries (T + 1, B, H) each, and the values of `gates` that its gradient needs and that
    come from z and r: 4H + 2H numbers a step and row for an LSTM, H for an Elman cell, 4H + H for a GRU. z is not
    kept and all else is computed again. Differentiable once. `change` gives another body for the loop (persistent.py).
    """
    if isinstance(cell, LinearCell):
        return linear.run(cell, xs, carry, reverse=reverse, lengths=lengths)
    if not isinstance(cell, GatedCell):
        raise ValueError(f"engine=fused cannot serve this layer: {refusal(cell)}")
    steps, rows = xs.shape[:2]
    state = carry_tensors(carry)
    weight, bias, mask, extras = cell.recurrence(rows)
    with FastAffine():
        projected = cell.inputs(xs.flip(0) if reverse else xs, carry)
    z = list(projected) if isinstance(projected, tuple) else [projected]
    dtype = state[0].dtype
    _require_rows(rows, steps, state, z, extras)
    grad = torch.is_grad_enabled()
    layout = _layout(z, extras, dtype, [grad and part.requires_grad for part in z])
    body = _body(cell, layout, steps, rows, bias is not None)
    body = body if change is None else change(body)
    if not body.reads_bf16:
        z = [part.to(dtype) if part.is_floating_point() else part for part in z]
    names = body.program.bulk.parameters
    tensors = {**dict(cell.named_parameters()), **dict(cell.named_buffers())} if names else {}
    read = [tensors[name] for name in names]
    counts = (len(z), len(state), len(extras), len(read))
    kind = weight.device.type
    factors = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    inputs = (weight, bias, mask, *z, *state, *extras, *read)
    ys, *last = Chunk.apply(body, counts, grad, factors, lengths, *inputs)  # type: ignore[no-untyped-call]
    ends = iter(last)
    return map_carry(lambda _: next(ends), carry), ys.flip(0) if reverse else ys


def _require_rows(rows: int, steps: int, state: list[Tensor], z: list[Tensor], extras: Sequence[Tensor]) -> None:
    """Raise ValueError unless every tensor has all rows of the batch: nothing is broadcast here."""
    widths = [part.shape[1] for part in z] + [part.shape[0] for part in (*state, *extras)]
    if any(width != rows for width in widths) or any(len(part) != steps for part in z):
        shapes = ", ".join(str(tuple(part.shape)) for part in (*z, *state, *extras))
        raise ValueError(
            f"the chunk has {steps} steps of {rows} rows, but z, carry and extras have the shapes {shapes}"
        )


def _written(cell: GatedCell | LinearCell) -> str:
    """The method that the author of a cell wrote."""
    return "coefficients" if isinstance(cell, LinearCell) else "gates"


def _isolated(function: Callable[[], T]) -> T:
    """Call a function in a thread of its own, one at a time.

    Modes of the caller's thread (autocast, no_grad, saved-tensor hooks, under which torch.func refuses to run) do not
    reach it; and what it changes for all threads (torch.fx patches nn.Module, a trial seeds) is changed by one of them.
    """
    if getattr(_thread, "isolated", False):
        return function()
    with _alone, ThreadPoolExecutor(1, initializer=lambda: setattr(_thread, "isolated", True)) as thread:
        return thread.submit(function).result()


def _trial(cell: GatedCell | LinearCell, retraced: bool = False) -> str | None:
    """Why this cell cannot be served, or None if it gives what `scan` gives, on a small chunk, with gradients.

    Tracing cannot see everything an author may write; a wrong result is refused here, not met in training. The trace
    may have been that of another cell: the cell is tried once more, with one of its own.
    """
    weight, kind = cell.weight_ih, type(cell).__name__
    cuda = weight.device.type == "cuda"
    # Masks drawn here are discarded.
    with torch.cuda.device(weight.device) if cuda else nullcontext(), torch.random.fork_rng([weight.device] * cuda):
        try:
            if any(constant.requires_grad for constant in _constants(cell)):
                return f"the mask or the extras of {kind} need a gradient"
            copied = copy.deepcopy(cell)
            _seed(weight.device, 0)
            xs = torch.randn(3, 2, cell.input_size, dtype=weight.dtype, device=weight.device)
            carry = map_carry(lambda t: torch.rand_like(t) if t.is_floating_point() else t, cell.init_carry(2))
            results = [_try(engine, copied, xs, carry) for engine in (scan, run)]
            with _cache_lock:
                if copied in _bodies:
                    _bodies[cell] = _bodies.pop(copied)  # they hold no reference to a cell
        except Exception as error:  # whatever an author may raise
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            return f"the {_written(cell)} of {kind} cannot be traced: {reason}"
    tolerance = 1e-9 if weight.dtype is torch.float64 else 1e-3
    for expected, found in zip(*results, strict=True):
        if not (expected - found).norm() <= tolerance * (1 + expected.norm()):
            if _unshare(cell) and not retraced:
                return _trial(cell, retraced=True)
            return f"all steps at once, the {_written(cell)} of {kind} do not give what they give step by step"
    return None


def _constants(cell: Cell) -> list[Tensor]:
    """The tensors that are the same at all steps of a chunk and get no gradient."""
    if not isinstance(cell, GatedCell):
        return []
    recurrence = cell.recurrence(2)
    return [constant for constant in (recurrence.mask, *recurrence.extras) if constant is not None]


def _seed(device: torch.device, seed: int) -> None:
    """Seed the generator of one device; torch.manual_seed seeds all, which nobody would put back."""
    generators = torch.cuda.default_generators if device.type == "cuda" else [torch.default_generator]
    generators[device.index or 0].manual_seed(seed)


def _try(engine: Any, cell: Cell, xs: Tensor, carry: Carry) -> list[Tensor]:
    """Outputs, last carry and gradients of a chunk, masks drawn from the same seed."""
    _seed(xs.device, 1)
    start = map_carry(lambda t: t.clone().requires_grad_(t.is_floating_point()), carry)
    last, ys = engine(cell, xs, start)
    outputs = [tensor for tensor in (ys, *carry_tensors(last)) if tensor.requires_grad]
    sources = [t for t in (*carry_tensors(start), *cell.parameters()) if t.requires_grad]
    slopes = [torch.rand_like(output) - 0.3 for output in outputs]
    gradients = torch.autograd.grad(outputs, sources, slopes, allow_unused=True)
    found = zip(sources, gradients, strict=True)
    return [ys, *carry_tensors(last), *(torch.zeros_like(of) if g is None else g for of, g in found)]


def _layout(z: Sequence[Tensor], extras: Sequence[Tensor], state: torch.dtype, needs: Sequence[bool]) -> Layout:
    """State and gates are in the carry's type, only products in autocast's: what is added up stays exact."""
    types = [state if part.is_floating_point() else part.dtype for part in z]
    return Layout(
        tuple((part.shape[2:], kind, need) for part, kind, need in zip(z, types, needs, strict=True)),
        tuple((extra.shape[1:], extra.dtype) for extra in extras),
        state,
    )


def _body(cell: GatedCell, layout: Layout, steps: int, rows: int, biased: bool) -> Body:
    """The cell's loop body for chunks of this shape, compiled at first use."""
    of_any_shape = (layout, biased, _backend(cell), kernels_allowed(), *map(settings, cell.modules()))
    of_this_shape = (steps, rows, *of_any_shape)

    def find() -> Body | None:
        with _cache_lock:
            bodies = _bodies.setdefault(cell, {})
            key = next((key for key in (of_any_shape, of_this_shape) if key in bodies), None)
            if key is not None:
                bodies[key] = bodies.pop(key)  # the last to be forgotten
            return None if key is None else bodies[key]

    def make() -> Body:
        if (body := find()) is not None:  # another thread was first
            return body
        source = origin(cell, _compiler(cell))
        with _cache_lock:
            known = (_shared.get((source, key)) for key in (of_any_shape, of_this_shape))
            body = next((one for one in known if source and one), None)
        body = body or _compile(cell, layout, steps, rows, biased)
        key = of_any_shape if body.any_shape and steps > 1 else of_this_shape
        with _cache_lock:
            _keep(_bodies.setdefault(cell, {}), key, body, MOST_PROGRAMS)
            if source:
                _keep(_shared, (source, key), body, MOST_SHARED)
        return body

    return find() or _isolated(make)


def _compile(cell: GatedCell, layout: Layout, steps: int, rows: int, biased: bool) -> Body:
    step = trace(cell, layout, rows)
    program = compile(step, trace(cell, layout, steps * rows))
    try:
        require_kernels()
        return kernel_body(_backend(cell), step, program, cell.hidden_size, layout.state, biased)
    except Unsupported as reason:
        return TorchBody(program, f"torch's operations, for {reason}")


def _backend(cell: GatedCell) -> Any:
    """The language of the kernels."""
    return triton_kernels if cell.weight_hh.device.type == "cuda" else compiled


def _compiler(cell: GatedCell) -> str | None:
    """The compiler of the kernels, where they are compiled by another program."""
    found: str | None = getattr(_backend(cell), "compiler", str)()
    return found


def _keep(bodies: dict[Any, Body], key: Any, body: Body, most: int) -> None:
    """Add a body; the oldest is forgotten if there are too many."""
    while len(bodies) >= most:
        del bodies[next(iter(bodies))]
    bodies[key] = body


def _unshare(cell: Cell) -> bool:
    """Forget the shared bodies of cells like this one; returns whether there were any."""
    source = origin(cell, _compiler(cell)) if isinstance(cell, GatedCell) else None
    with _cache_lock:
        stale = [key for key in _shared if key[0] == source]
        for key in stale:
            del _shared[key]
    return bool(stale)
