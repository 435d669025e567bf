"""The engine for any gated or linear cell: no autograd inside the loop over time, gradients by hand.

The recurrence of a linear cell has two loops of its own (linear.py). A gated cell's `gates` are traced once (trace.py).
From the trace comes a program (program.py, reverse.py): which operations run inside the loop, which for all steps at
once. Where every operation is elementwise, and there is a compiler, the loop body is one kernel instead (lower.py;
compiled.py on the CPU, triton_kernels.py on CUDA). This file runs either around the products of every step.
"""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, fx

from ..cells import Carry, Cell, GatedCell, LinearCell, RecurrentDropout, carry_tensors, map_carry
from . import compiled, linear, triton_kernels
from .code import Block
from .deferred import differentiable_once
from .homes import Homes, Place, block_of, evaluate, known
from .kernels import forward_kernel, reverse_kernel
from .lower import Unsupported
from .product import to_gates, to_state, to_weight
from .program import Program, compile
from .scan import scan
from .trace import Layout, Trace, cut, trace

MOST_PROGRAMS = 128  # of a cell: shapes of windows, where a program is of one shape
_refusals: weakref.WeakKeyDictionary[Cell, dict[Any, str | None]] = weakref.WeakKeyDictionary()
_programs: weakref.WeakKeyDictionary[Cell, dict[Any, tuple[Program, Kernels | str]]] = weakref.WeakKeyDictionary()


class Step(Protocol):
    """A loop body in one kernel: `bind` to the buffers of a window gives a function of t."""

    def bind(self, places: Mapping[str, Place], rows: int, size: int) -> Callable[[int], None]: ...


class Kernels(NamedTuple):
    forward: Step
    reverse: Step
    separate_dz: list[bool]  # for each tensor of z that needs a gradient: whether it is another than dr
    sums: bool  # whether `reverse` adds up the gradients of parameters


def refusal(cell: Cell) -> str | None:
    """Why this engine cannot serve `cell` exactly, or None when it can."""
    if not isinstance(cell, (GatedCell, LinearCell)):
        return f"{type(cell).__name__} is not a gated or linear cell: it has neither gates() nor coefficients()"
    if not (cell.linear if isinstance(cell, LinearCell) else cell.gated):
        return f"{type(cell).__name__} has a step of its own, not the one derived from {_written(cell)}()"
    tried, key = _refusals.setdefault(cell, {}), (cell.weight_ih.device, cell.weight_ih.dtype, cell.dropout)
    if key not in tried:
        tried[key] = _trial(cell)
    return tried[key]


def describe(cell: Cell) -> str:
    """What the loop is: one kernel a step or a window, or torch's operations and why."""
    if isinstance(cell, LinearCell):
        return linear.describe(cell)
    kernels = next(reversed(_programs[cell].values()))[1] if refusal(cell) is None else ""
    return kernels if isinstance(kernels, str) else "one kernel a step"


def run(
    cell: Cell, xs: Tensor, carry: Carry, *, reverse: bool = False, lengths: Tensor | None = None
) -> tuple[Carry, Tensor]:
    """`scan` without autograd in the loop: xs (T, B, I), carry -> (carry, ys), ys (T, B, H) in the order of xs.

    Forward: z = project(xs) for all T; then for each t: r_t = h_{t-1} W^T + b, carry_t = gates(z_t, r_t, carry_{t-1}).
    Backward: for each t, from the last: dr_t, dz_t and dcarry_{t-1} from dcarry_t, and dh_{t-1} += dr_t W; then
    dW = sum_t dr_t^T h_{t-1} as one product, and gradients of other parameters for all T at once.

    Between the two it keeps the carries (T + 1, B, H) each, and what `gates` computes from z and r and its
    gradient needs: 4H + 2H numbers a step and column for an LSTM, H for an Elman cell, 4H + H for a GRU. z is not kept
    and all else is computed again. Differentiable once.
    """
    if isinstance(cell, LinearCell):
        return linear.run(cell, xs, carry, reverse=reverse, lengths=lengths)
    assert isinstance(cell, GatedCell)
    steps, rows = xs.shape[:2]
    state = carry_tensors(carry)
    weight, bias, mask, extras = cell.recurrence(rows)
    projected = cell.inputs(xs.flip(0) if reverse else xs, carry)
    z = list(projected) if isinstance(projected, tuple) else [projected]
    dtype = state[0].dtype
    _require_rows(rows, steps, state, z, extras)
    # State and gates in the carry's type, products in autocast's: what is added up stays exact.
    z = [part.to(dtype) if part.is_floating_point() else part for part in z]
    grad = torch.is_grad_enabled()
    layout = _layout(z, extras, dtype, [grad and part.requires_grad for part in z])
    program, kernels = _program(cell, layout, steps, rows, bias is not None)
    tensors = {**dict(cell.named_parameters()), **dict(cell.named_buffers())}
    read = [tensors[name] for name in program.bulk.parameters]
    counts = (len(z), len(state), len(extras), len(read))
    fused = kernels if isinstance(kernels, Kernels) else None
    kind = weight.device.type
    factors = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    tensors_in = (weight, bias, mask, *z, *state, *extras, *read)
    ys, *last = _Window.apply(program, fused, counts, grad, factors, lengths, *tensors_in)  # type: ignore[no-untyped-call]
    ends = iter(last)
    return map_carry(lambda _: next(ends), carry), ys.flip(0) if reverse else ys


def _require_rows(rows: int, steps: int, state: list[Tensor], z: list[Tensor], extras: Sequence[Tensor]) -> None:
    """Raise ValueError unless every tensor has a row for each column of the batch: nothing is broadcast here."""
    widths = [part.shape[1] for part in z] + [part.shape[0] for part in (*state, *extras)]
    if any(width != rows for width in widths) or any(len(part) != steps for part in z):
        shapes = ", ".join(str(tuple(part.shape)) for part in (*z, *state, *extras))
        raise ValueError(
            f"the window has {steps} steps of {rows} rows, but z, carry and extras have the shapes {shapes}"
        )


def _written(cell: GatedCell | LinearCell) -> str:
    """What the author of a cell wrote."""
    return "coefficients" if isinstance(cell, LinearCell) else "gates"


def _trial(cell: GatedCell | LinearCell) -> str | None:
    """Why this cell cannot be served, or None if it gives what `scan` gives, on a small window, with gradients.

    Tracing cannot see everything an author may write; what it gets wrong is refused here, not met in training.
    """
    weight = cell.weight_ih
    devices = [weight.device] if weight.device.type == "cuda" else []
    kind = type(cell).__name__
    # Exact under any autocast of the caller; masks drawn here are nobody's.
    exact = torch.autocast("cuda" if devices else "cpu", enabled=False)
    with exact, torch.enable_grad(), torch.random.fork_rng(devices):
        try:
            if any(constant.requires_grad for constant in _constants(cell)):
                return f"the mask or the extras of {kind} need a gradient"
            copied = copy.deepcopy(cell)
            _seed(weight.device, 0)
            xs = torch.randn(3, 2, cell.input_size, dtype=weight.dtype, device=weight.device)
            carry = map_carry(lambda t: torch.rand_like(t) if t.is_floating_point() else t, cell.init_carry(2))
            results = [_window(engine, copied, xs, carry) for engine in (scan, run)]
            if copied in _programs:
                _programs[cell] = _programs.pop(copied)  # a program knows no cell
        except Exception as error:  # whatever an author may raise
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            return f"the {_written(cell)} of {kind} cannot be traced: {reason}"
    tolerance = 1e-9 if weight.dtype is torch.float64 else 1e-3
    for expected, found in zip(*results, strict=True):
        if not (expected - found).norm() <= tolerance * (1 + expected.norm()):
            return f"all steps at once, the {_written(cell)} of {kind} do not give what they give step by step"
    return None


def _constants(cell: Cell) -> list[Tensor]:
    """What is the same at all steps of a window and gets no gradient."""
    if not isinstance(cell, GatedCell):
        return []
    recurrence = cell.recurrence(2)
    return [constant for constant in (recurrence.mask, *recurrence.extras) if constant is not None]


def _seed(device: torch.device, seed: int) -> None:
    """Seed the generator of one device; torch.manual_seed seeds all, which nobody would put back."""
    generators = torch.cuda.default_generators if device.type == "cuda" else [torch.default_generator]
    generators[device.index or 0].manual_seed(seed)


def _window(engine: Any, cell: Cell, xs: Tensor, carry: Carry) -> list[Tensor]:
    """Outputs, last carry and gradients of a window, masks drawn from the same seed."""
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
    return Layout(
        tuple((part.shape[2:], part.dtype, need) for part, need in zip(z, needs, strict=True)),
        tuple((extra.shape[1:], extra.dtype) for extra in extras),
        state,
    )


def _program(cell: GatedCell, layout: Layout, steps: int, rows: int, biased: bool) -> tuple[Program, Kernels | str]:
    """The cell's program for windows of this shape, compiled at first use, and its kernels or why it has none."""
    programs = _programs.setdefault(cell, {})
    device = cell.weight_hh.device.type
    settings = (layout, biased, device, os.environ.get("SEQLM_KERNELS"), *map(_settings, cell.modules()))
    key = next((key for key in (settings, (steps, rows, *settings)) if key in programs), None)
    if key is not None:
        programs[key] = programs.pop(key)  # the last to be forgotten
        return programs[key]
    while len(programs) >= MOST_PROGRAMS:
        del programs[next(iter(programs))]
    step = trace(cell, layout, rows)
    program = compile(step, trace(cell, layout, steps * rows))
    kernels, any_shape = _kernels(cell, step, program, layout.state, biased)
    programs[settings if any_shape and steps > 1 else (steps, rows, *settings)] = program, kernels
    return program, kernels


def _settings(module: torch.nn.Module) -> tuple[Any, ...]:
    """What of a module is not a tensor and may change what gates compute: numbers, switches, functions."""
    kinds = (bool, int, float, str, RecurrentDropout)
    plain = (value for value in vars(module).values() if isinstance(value, kinds) or callable(value))
    public = (value for name, value in vars(module).items() if not name.startswith("_"))
    return (*plain, *(repr(value) for value in public if type(value) in (tuple, list, dict)))


def _kernels(
    cell: GatedCell, step: Trace, program: Program, dtype: torch.dtype, biased: bool
) -> tuple[Kernels | str, bool]:
    """The kernels, or why there are none; and whether they do everything, the same for windows of any shape."""
    backend = triton_kernels if cell.weight_hh.device.type == "cuda" else compiled
    origin = {bulk: node for node, bulk in program.twin.items()}
    stored = [origin[node] for node in program.stored]
    size, language, sums = cell.hidden_size, backend.LANGUAGE, True
    try:
        forward = forward_kernel(step, stored, size, language, biased)
        try:
            reverse = reverse_kernel(step, stored, size, language, sums)
        except Unsupported:
            sums = False
            reverse = reverse_kernel(step, stored, size, language, sums)
        separate = [node is not step.dr for node in step.dz]
        kernels = Kernels(backend.function(forward, dtype), backend.function(reverse, dtype), separate, sums)
        any_shape = (
            (sums or not program.after_kernels)
            and forward == forward_kernel(program.bulk, program.stored, size, language, biased)
            and reverse == reverse_kernel(program.bulk, program.stored, size, language, sums)
        )
        return kernels, any_shape
    except Unsupported as reason:
        return f"torch's operations, for {reason}", False


class _Window(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        program: Program,
        kernels: Kernels | None,
        counts: tuple[int, ...],
        grad: bool,
        dtype: torch.dtype,
        lengths: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        mask: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        z, state, extras, parameters = cut(tensors, counts)
        steps, rows, size = z[0].shape[0], *state[0].shape
        homes = Homes(program, steps, rows, state[0])
        # If nobody asks for other steps, only the outputs are kept: everything else alternates between two buffers.
        whole = grad or lengths is not None
        carries = []
        for i, start in enumerate(state):
            buffer = homes.empty(steps + 1 if whole or i == 0 else 2, Block(start.shape[1:], start.dtype))
            buffer[0] = start
            homes.put(f"carry{i}", buffer)
            homes.put(f"new{i}", buffer, 1)
            carries.append(buffer)
        stored = [homes.empty(steps if grad else 1, block_of(node)) for node in program.stored]
        for name, group in {"z": z, "stored": stored}.items():
            for i, tensor in enumerate(group):
                homes.put(f"{name}{i}", tensor.contiguous())
        for name, group in {"extra": extras, "parameter": parameters}.items():
            for i, tensor in enumerate(group):
                homes.put(f"{name}{i}", tensor.contiguous().unsqueeze(0))
        r = state[0].new_empty(rows, len(weight))
        homes.put("r", r.unsqueeze(0))
        hs = homes.rows_of("carry0")
        with torch.autocast(r.device.type, enabled=False):
            times = to_gates(weight, mask, dtype, steps, rows)
            exact_bias = None if bias is None else bias.to(r.dtype)
            if kernels is not None:
                if exact_bias is not None:
                    homes.put("bias", exact_bias.unsqueeze(0))
                step = kernels.forward.bind(homes.places, rows, size)
                for t, h in enumerate(hs):
                    times(h, None, r)
                    step(t)
            else:
                begin: Sequence[Tensor | None] = [exact_bias] * steps
                if program.adds_z is not None:
                    added = z[program.adds_z]
                    begin = (added if exact_bias is None else added + exact_bias).unbind(0)
                for h, added_to, arguments in zip(hs, begin, homes.arguments(program.forward), strict=True):
                    times(h, added_to, r)
                    program.forward.run(*arguments)
        if lengths is None:
            last = [homes.rows_of(f"new{i}")[-1].clone() for i in range(len(state))]
        else:
            last = [carry[lengths, torch.arange(rows, device=lengths.device)] for carry in carries]
        if grad:
            kept = [part for part, needed in zip(z, program.bulk.needs, strict=True) if not needed]
            ctx.program, ctx.kernels, ctx.dtype, ctx.biased = program, kernels, dtype, bias is not None
            ctx.lengths = lengths
            ctx.set_materialize_grads(False)
            ctx.counts = (len(kept), len(carries), *counts[2:], len(stored))
            ctx.save_for_backward(weight, mask, *kept, *carries, *extras, *parameters, *stored)
        return carries[0][1:], *last

    @staticmethod
    def backward(ctx: Any, dys: Tensor | None, *dlast: Tensor | None) -> tuple[Tensor | None, ...]:
        differentiable_once("fused")
        program, kernels = ctx.program, ctx.kernels
        bulk = program.bulk
        weight, mask, *tensors = ctx.saved_tensors
        kept, carries, extras, parameters, stored = cut(tensors, ctx.counts)
        dys = torch.zeros_like(carries[0][1:]) if dys is None else dys
        steps, rows, size = dys.shape
        ending: dict[int, Any] = {steps: slice(None)}  # by number of steps: the rows that end there
        if ctx.lengths is not None:
            ending = {n: (ctx.lengths == n).nonzero().squeeze(1) for n in set(ctx.lengths.tolist())}
        homes = Homes(program, steps, rows, dys)
        after = program.after if kernels is None else [] if kernels.sums else program.after_kernels
        whole_run = bool(after) or (kernels is None and any(node in bulk.cotangents for node in program.late))
        buffers = []
        for i, carry in enumerate(carries):
            # Kept for all steps only if something is computed from them afterwards.
            buffer = torch.empty_like(carry) if whole_run else carry.new_empty(2, *carry.shape[1:])
            homes.put(f"d{i}", buffer, 1)
            homes.put(f"next{i}", buffer)
            buffer[steps % len(buffer)] = 0 if i else dys[-1]
            buffers.append(buffer)
        dr = homes.empty(steps, Block(weight.shape[:1], dys.dtype))
        homes.put("dr", dr)
        values: dict[fx.Node, Any] = {}
        if kernels is None or whole_run:
            values = known(program, steps, kept, carries, extras, parameters, stored)

        drs, dh = dr.unbind(0), homes.rows_of("next0")
        starts: Sequence[Tensor] = dh
        step: Callable[[int], None]
        dz: list[Tensor | None] = [dr] * len(bulk.dz)
        if kernels is not None:
            homes.put("dy", dys.contiguous(), -1)
            named = {"stored": stored, "extra": [e.contiguous().unsqueeze(0) for e in extras]}
            named |= {"parameter": [p.contiguous().unsqueeze(0) for p in parameters]}
            for name, group in named.items():
                for i, tensor in enumerate(group):
                    homes.put(f"{name}{i}", tensor)
            for i, carry in enumerate(carries):
                homes.put(f"carry{i}", carry)
                homes.put(f"new{i}", carry, 1)
            constant = iter(kept)
            for i, needed in enumerate(bulk.needs):
                if not needed:
                    homes.put(f"z{i}", next(constant).contiguous())
            for i, (node, separate) in enumerate(zip(bulk.dz, kernels.separate_dz, strict=True)):
                if node is None:
                    dz[i] = None
                elif separate:
                    dz[i] = homes.empty(steps, block_of(node))
                    homes.put(f"dz{i}", dz[i])  # type: ignore[arg-type]
            if kernels.sums:
                for i, (node, parameter) in enumerate(zip(bulk.dparameters.values(), parameters, strict=True)):
                    if node is not None:
                        homes.put(f"sum{i}", dys.new_zeros(1, rows, len(parameter)))
            step = kernels.reverse.bind(homes.places, rows, size)
        else:
            again = {source for node in after for source in node.all_input_nodes}
            evaluate(program.before, values, {*program.coefficients, *again})
            for index, node in enumerate(program.coefficients):
                value = values[node]
                varies = node in program.varying
                homes.put(f"k{index}", value.unflatten(0, (steps, rows)) if varies else value.unsqueeze(0))
            homes.put("dy", torch.cat([torch.zeros_like(dys[:1]), dys[:-1]]))
            if not program.starts_dh:
                starts = homes.rows_of("dy")
            arguments = homes.arguments(program.reverse)

            def step(t: int) -> None:
                program.reverse.run(*arguments[t])

        def add_ends(t: int) -> None:
            """The gradients of the last carries of the rows that end after t steps."""
            for buffer, end in zip(buffers, dlast, strict=True):
                if end is not None and t in ending:
                    buffer[t % len(buffer)][ending[t]] += end[ending[t]]

        with torch.autocast(dys.device.type, enabled=False):
            times = to_state(weight, mask, ctx.dtype, steps, rows)
            for t in reversed(range(steps)):
                add_ends(t + 1)
                step(t)
                times(drs[t], starts[t], dh[t])
            add_ends(0)

        if whole_run:
            for i, node in enumerate(bulk.cotangents):
                values[node] = homes.places[f"d{i}"].tensor[1:].flatten(0, 1)
            evaluate(after, values, {node for node in program.late if node is not None})
        dparameters: list[Tensor | None] = []
        for i, node in enumerate(program.late[len(bulk.dz) :]):
            if kernels is not None and kernels.sums and node is not None:
                dparameters.append(homes.places[f"sum{i}"].tensor.sum((0, 1)))
            else:
                dparameters.append(None if node is None else values[node])
        if kernels is None:
            for i, node in enumerate(bulk.dz):
                if node is not bulk.dr:
                    dz[i] = values[program.late[i]].unflatten(0, (steps, rows)) if node is not None else None
        given = iter(dz)
        return (
            None, None, None, None, None, None,
            to_weight(dr, carries[0][:-1], mask),
            dr.sum((0, 1)) if ctx.biased else None,
            None,
            *(next(given) if needed else None for needed in bulk.needs),
            *(homes.rows_of(f"next{i}")[0] for i in range(len(carries))),
            *(None for _ in extras),
            *dparameters,
        )  # fmt: skip
