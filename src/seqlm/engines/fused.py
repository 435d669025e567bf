"""The engine for any gated cell: no autograd inside the loop over time, gradients by hand."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ..cells import Carry, Cell, GatedCell, carry_tensors, map_carry
from .code import Block, Code, Slot
from .deferred import differentiable_once
from .program import Program, compile
from .trace import Layout, trace

_refusals: weakref.WeakKeyDictionary[Cell, str | None] = weakref.WeakKeyDictionary()
_programs: weakref.WeakKeyDictionary[Cell, dict[Any, Program]] = weakref.WeakKeyDictionary()


def refusal(cell: Cell) -> str | None:
    """Why this engine cannot serve `cell` exactly, or None when it can."""
    if not isinstance(cell, GatedCell):
        return f"{type(cell).__name__} is not a gated cell: it has no gates()"
    if not cell.gated:
        return f"{type(cell).__name__} has a step of its own, not the one derived from gates()"
    if cell not in _refusals:
        _refusals[cell] = _fails_to_compile(cell)
    return _refusals[cell]


def _fails_to_compile(cell: GatedCell) -> str | None:
    """Why there is no program for this cell: tried on a window of one step and two rows."""
    weight = cell.weight_hh
    devices = [weight.device] if weight.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):  # masks drawn here are nobody's
        try:
            z = cell.project(weight.new_zeros(1, 2, cell.input_size))
            z = list(z) if isinstance(z, tuple) else [z]
            layout = _layout(z, cell.recurrence(2).extras, weight.dtype, [part.is_floating_point() for part in z])
            compile(trace(cell, layout, 2), trace(cell, layout, 4))
        except Exception as error:  # whatever an author's gates may raise
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            return f"the gates of {type(cell).__name__} cannot be traced: {reason}"
    return None


def _layout(z: Sequence[Tensor], extras: Sequence[Tensor], state: torch.dtype, needs: Sequence[bool]) -> Layout:
    return Layout(
        tuple((part.shape[2:], part.dtype, need) for part, need in zip(z, needs, strict=True)),
        tuple((extra.shape[1:], extra.dtype) for extra in extras),
        state,
    )


def run(cell: Cell, xs: Tensor, carry: Carry, *, reverse: bool = False) -> tuple[Carry, Tensor]:
    """`scan` without autograd in the loop: xs (T, B, I), carry -> (carry, ys), ys (T, B, H) in the order of xs.

    Forward: z = project(xs) for all T; then for each t: r_t = h_{t-1} W^T + b, carry_t = gates(z_t, r_t, carry_{t-1}).
    Backward: coefficients for all T at once; then for each t: dr_t and dcarry_{t-1} from dcarry_t, and
    dh_{t-1} += dr_t W; then dW = sum_t dr_t^T h_{t-1} as one product, and the rest for all T at once.

    Between the two it keeps the carries (T + 1, B, H) each, and what `gates` computes from z and r and its
    gradient needs: 4H + 2H numbers a step and column for an LSTM, H for an Elman cell, 4H + H for a GRU. z is not kept
    and all else is computed again. Differentiable once.
    """
    assert isinstance(cell, GatedCell)
    steps, rows = xs.shape[:2]
    state = carry_tensors(carry)
    weight, bias, mask, extras = cell.recurrence(rows)
    projected = cell.project(xs)
    z = [projected] if isinstance(projected, Tensor) else list(projected)
    dtype = state[0].dtype
    # State and gates in the carry's type, products in autocast's: what is added up stays exact.
    z = [part.to(dtype) if part.is_floating_point() else part for part in z]
    if reverse:
        z = [part.flip(0) for part in z]
    grad = torch.is_grad_enabled()
    layout = _layout(z, extras, dtype, [grad and part.requires_grad for part in z])
    program = _program(cell, layout, steps, rows)
    parameters = {**dict(cell.named_parameters()), **dict(cell.named_buffers())}
    read = [parameters[name] for name in program.bulk.parameters]
    counts = (len(z), len(state), len(extras), len(read))
    ys, *last = _Window.apply(program, counts, grad, weight, bias, mask, *z, *state, *extras, *read)  # type: ignore[no-untyped-call]
    ends = iter(last)
    return map_carry(lambda _: next(ends), carry), ys.flip(0) if reverse else ys


def _program(cell: GatedCell, layout: Layout, steps: int, rows: int) -> Program:
    """The cell's program for windows of this shape, compiled at first use."""
    programs = _programs.setdefault(cell, {})
    key = (layout, steps, rows, cell.training)
    if key not in programs:
        programs[key] = compile(trace(cell, layout, rows), trace(cell, layout, steps * rows))
    return programs[key]


def _evaluate(nodes: Sequence[fx.Node], values: dict[fx.Node, Any], keep: set[fx.Node]) -> None:
    """Run a piece of a graph; what is neither needed again nor to be kept is freed on the way."""
    last_use = {source: node for node in nodes for source in node.all_input_nodes}
    mine = set(nodes)
    for node in nodes:
        function: Any = node.target
        arguments = fx.node.map_arg(node.args, lambda n: values[n])
        words = fx.node.map_arg(node.kwargs, lambda n: values[n])
        values[node] = function(*arguments, **words)  # type: ignore[misc]
        for source in node.all_input_nodes:
            if last_use[source] is node and source in mine and source not in keep:
                del values[source]


class _Homes:
    """The buffers of a window by name: with a column for each step, or the same at every step."""

    def __init__(self, program: Program, steps: int, rows: int, like: Tensor) -> None:
        self.program, self.steps, self.rows, self.like = program, steps, rows, like
        self.moving: dict[str, Tensor] = {}  # (T, B, ...)
        self.fixed: dict[str, Tensor] = {}
        self.listed: dict[str, list[Tensor]] = {}

    def empty(self, steps: int, block: Block) -> Tensor:
        return torch.empty((steps, self.rows, *block.shape), dtype=block.dtype, device=self.like.device)

    def arguments(self, code: Code) -> list[tuple[Tensor, ...]]:
        """The arguments of a step function for every step."""
        for index, block in enumerate(code.scratch):
            self.fixed[f"scratch{index}"] = self.empty(1, block)[0]
        return list(zip(*(self._column(slot) for slot in code.slots), strict=True)) or [()] * self.steps

    def _column(self, slot: Slot) -> Sequence[Tensor]:
        if slot.home in self.moving:
            whole = self.moving[slot.home]
            if slot.views:
                rows = self._look(whole.flatten(0, 1), [self.program.twin[view] for view in slot.views])
                whole = rows.unflatten(0, (self.steps, self.rows))
            return _part(whole, slot).unbind(0)
        if slot.home in self.listed:
            seen: dict[int, Tensor] = {}
            return [
                seen.setdefault(id(t), _part(self._look(t, slot.views), slot)) if id(t) not in seen else seen[id(t)]
                for t in self.listed[slot.home]
            ]
        return [_part(self._look(self.fixed[slot.home], slot.views), slot)] * self.steps

    @staticmethod
    def _look(value: Any, views: Sequence[fx.Node]) -> Any:
        for view in views:
            function: Any = view.target
            value = function(value, *view.args[1:], **view.kwargs)
        return value


def _part(tensor: Tensor, slot: Slot) -> Tensor:
    if slot.columns is not None:
        tensor = tensor[..., slot.columns[0] : slot.columns[1]]
    return tensor.unflatten(-1, (slot.rows, -1)) if slot.rows else tensor


def _block(node: fx.Node) -> Block:
    value = node.meta["val"]
    return Block(value.shape[1:], value.dtype)


class _Window(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        program: Program,
        counts: tuple[int, ...],
        grad: bool,
        weight: Tensor,
        bias: Tensor | None,
        mask: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        z, state, extras, parameters = _cut(tensors, counts)
        steps, rows, size = z[0].shape[0], *state[0].shape
        homes = _Homes(program, steps, rows, state[0])
        # Without gradients only the outputs are kept: everything else alternates between two buffers.
        carries = []
        for i, start in enumerate(state):
            buffer = homes.empty(steps + 1 if grad or i == 0 else 2, Block(start.shape[1:], start.dtype))
            buffer[0] = start
            columns = _alternate(buffer, steps + 1)
            homes.listed[f"carry{i}"], homes.listed[f"new{i}"] = columns[:-1], columns[1:]
            carries.append(buffer)
        stored = [homes.empty(steps if grad else 1, _block(node)) for node in program.stored]
        for i, buffer in enumerate(stored):
            if grad:
                homes.moving[f"stored{i}"] = buffer
            else:
                homes.fixed[f"stored{i}"] = buffer[0]
        homes.moving |= {f"z{i}": part for i, part in enumerate(z)}
        homes.fixed |= {f"extra{i}": extra for i, extra in enumerate(extras)}
        homes.fixed |= {f"parameter{i}": parameter for i, parameter in enumerate(parameters)}
        r = homes.fixed["r"] = state[0].new_empty(rows, len(weight))
        with torch.autocast(r.device.type, enabled=False):
            times = _product(weight.t(), steps, rows)
            starts: Sequence[Tensor | None] = [None if bias is None else bias.to(r.dtype)] * steps
            if program.adds_z is not None:
                added = z[program.adds_z]
                starts = (added if bias is None else added + bias).unbind(0)
            step, hs = program.forward.run, homes.listed["carry0"]
            for h, start, arguments in zip(hs, starts, homes.arguments(program.forward), strict=True):
                times(h if mask is None else h * mask, start, r)
                step(*arguments)
        last = [homes.listed[f"new{i}"][-1].clone() for i in range(len(state))]
        if grad:
            kept = [part for part, needed in zip(z, program.bulk.needs, strict=True) if not needed]
            ctx.program, ctx.counts, ctx.biased = program, (len(kept), len(carries), *counts[2:], len(stored)), bias is not None
            ctx.save_for_backward(weight, mask, *kept, *carries, *extras, *parameters, *stored)
        return carries[0][1:], *last

    @staticmethod
    def backward(ctx: Any, dys: Tensor, *dlast: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        differentiable_once("fused")
        program: Program = ctx.program
        bulk = program.bulk
        weight, mask, *tensors = ctx.saved_tensors
        kept, carries, extras, parameters, stored = _cut(tensors, ctx.counts)
        steps, rows, size = dys.shape
        homes = _Homes(program, steps, rows, dys)

        def flat(tensor: Tensor) -> Tensor:
            return tensor.flatten(0, 1)

        constant = [node for node, needed in zip(bulk.z, bulk.needs, strict=True) if not needed]
        values: dict[fx.Node, Any] = dict(zip(constant, map(flat, kept), strict=True))
        values |= dict(zip(program.stored, map(flat, stored), strict=True))
        values |= dict(zip(bulk.parameters.values(), parameters, strict=True))
        for node, extra in zip(bulk.extras, extras, strict=True):
            values[node] = flat(extra.expand(steps, *extra.shape))
        for before, after, carry in zip(bulk.carry, bulk.new_carry, carries, strict=True):
            values[after], values[before] = flat(carry[1:]), flat(carry[:-1])
        again = {source for node in program.after for source in node.all_input_nodes}
        _evaluate(program.before, values, {*program.coefficients, *again})
        for index, node in enumerate(program.coefficients):
            if node in program.varying:
                homes.moving[f"k{index}"] = values[node].unflatten(0, (steps, rows))
            else:
                homes.fixed[f"k{index}"] = values[node]

        dr = homes.moving["dr"] = homes.empty(steps, Block(weight.shape[:1], dys.dtype))
        cotangents = []
        for i, (carry, end) in enumerate(zip(carries, dlast, strict=True)):
            # Kept for all steps only if something is computed from them afterwards.
            buffer = torch.empty_like(carry) if program.after else carry.new_empty(2, *carry.shape[1:])
            columns = _alternate(buffer, steps + 1)
            columns[-1].copy_(end if i else end + dys[-1])
            homes.listed[f"d{i}"], homes.listed[f"next{i}"] = columns[1:], columns[:-1]
            cotangents.append(buffer)
        dy = homes.listed["dy"] = [torch.zeros_like(dys[0]), *dys[:-1].unbind(0)]
        times, step = _product(weight, steps, rows), program.reverse.run
        dh, drs = homes.listed["next0"], dr.unbind(0)
        starts = dh if program.starts_dh else dy
        for t, arguments in zip(reversed(range(steps)), reversed(homes.arguments(program.reverse)), strict=True):
            step(*arguments)
            if mask is None:
                times(drs[t], starts[t], dh[t])
            else:
                product = torch.empty_like(dh[t])
                times(drs[t], None, product)
                torch.addcmul(starts[t], product, mask, out=dh[t])

        if program.after:
            values |= {node: flat(buffer[1:]) for node, buffer in zip(bulk.cotangents, cotangents, strict=True)}
            _evaluate(program.after, values, {node for node in program.late if node is not None})
        whole = flat(dr)
        hs = carries[0][:-1] if mask is None else carries[0][:-1] * mask
        dweight = whole.t() @ flat(hs)
        dbias = whole.sum(0) if ctx.biased else None
        late = [None if node is None else values[node] for node in program.late]
        late = [
            dr if node is bulk.dr else None if value is None else value.unflatten(0, (steps, rows))
            for node, value in zip(bulk.dz, late[: len(bulk.dz)], strict=True)
        ] + late[len(bulk.dz) :]
        moving = iter(late[: len(bulk.dz)])
        dz = [next(moving) if needed else None for needed in bulk.needs]
        dcarry = [homes.listed[f"next{i}"][0] for i in range(len(carries))]
        return None, None, None, dweight, dbias, None, *dz, *dcarry, *(None for _ in extras), *late[len(bulk.dz) :]


def _product(matrix: Tensor, steps: int, rows: int) -> Callable[[Tensor, Tensor | None, Tensor], None]:
    """out = start + x @ matrix, for the `steps` many x (rows, K) of a window; start may be None, or out itself."""
    matrix = matrix.contiguous()  # a small x times a transposed matrix is several times slower
    if _packs(matrix, steps, rows):
        original = matrix.t().contiguous()
        packed = torch.ops.mkl._mkl_reorder_linear_weight(original, rows)

        def packed_times(x: Tensor, start: Tensor | None, out: Tensor) -> None:
            product = torch.ops.mkl._mkl_linear(x, packed, original, None, rows)
            if start is None:
                out.copy_(product)
            else:
                torch.add(start, product, out=out)

        return packed_times

    def times(x: Tensor, start: Tensor | None, out: Tensor) -> None:
        if start is None:
            torch.mm(x, matrix, out=out)
        else:
            torch.addmm(start, x, matrix, out=out)

    return times


def _packs(matrix: Tensor, steps: int, rows: int) -> bool:
    """Whether a matrix is worth bringing into MKL's own order once: if it is large and used often, by few rows.

    MKL otherwise does that for every product. Measured on two cores at 20 rows: 1.7 times the speed at 4600 x 1150.
    """
    on_mkl = matrix.device.type == "cpu" and matrix.dtype is torch.float32 and torch.backends.mkl.is_available()
    return on_mkl and matrix.numel() >= 2_000_000 and steps >= 10 and rows <= 128


def _alternate(buffer: Tensor, count: int) -> list[Tensor]:
    """Rows of a buffer in turn, from the first again after the last."""
    rows = buffer.unbind(0)
    return [rows[i % len(rows)] for i in range(count)]


def _cut(tensors: Sequence[Tensor], counts: Sequence[int]) -> list[list[Tensor]]:
    pieces, at = [], 0
    for count in counts:
        pieces.append(list(tensors[at : at + count]))
        at += count
    return pieces
