"""The buffers of a chunk, by the names that a program uses.

gates -> trace -> program -> reverse | kernels -> torch_body | kernel_body -> chunk [buffers]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from .code import Block, Code, Slot
from .program import Program

Values = dict[fx.Node, Any]  # of nodes of the bulk trace: a row for each step and row of the batch


class Buffer(NamedTuple):
    """Memory of a chunk: at step t it is the row t + offset, modulo its length, of a tensor."""

    tensor: Tensor
    offset: int = 0


class Buffers(dict[str, Buffer]):
    """The buffers of a chunk by name: another row at each step, or the same at every step.

    `like` (..., H) gives the device and the hidden size.
    """

    def __init__(self, program: Program, steps: int, rows: int, like: Tensor) -> None:
        super().__init__()
        self.program, self.steps, self.rows, self.size, self.like = program, steps, rows, like.shape[-1], like

    def empty(self, steps: int, block: Block) -> Tensor:
        return torch.empty((steps, self.rows, *block.shape), dtype=block.dtype, device=self.like.device)

    def put(self, name: str, tensor: Tensor, offset: int = 0) -> None:
        """At step t the buffer is row t + offset of the tensor, and again from the first row after the last."""
        self[name] = Buffer(tensor, offset)

    def put_all(self, name: str, tensors: Iterable[Tensor], offset: int = 0) -> None:
        """Put tensors as name0, name1, ..., contiguous as kernels need them."""
        for i, tensor in enumerate(tensors):
            self.put(f"{name}{i}", tensor.contiguous(), offset)

    def put_constants(self, name: str, tensors: Iterable[Tensor]) -> None:
        """Put tensors that are the same at every step as name0, name1, ..."""
        self.put_all(name, (tensor.contiguous().unsqueeze(0) for tensor in tensors))

    def narrow(self) -> frozenset[str]:
        """The buffers in bfloat16."""
        return frozenset(name for name, buffer in self.items() if buffer.tensor.dtype is torch.bfloat16)

    def rows_of(self, name: str) -> list[Tensor]:
        """The buffer at every step."""
        return self._by_step(self[name].tensor.unbind(0), self[name].offset)

    def row(self, name: str, t: int) -> Tensor:
        """The buffer at one step; -1 is the last."""
        tensor, offset = self[name]
        return tensor[(t % self.steps + offset) % tensor.shape[0]]

    def arguments(self, code: Code) -> list[tuple[Tensor, ...]]:
        """The arguments of a step function for every step."""
        for index, block in enumerate(code.scratch):
            self.put(f"scratch{index}", self.empty(1, block))
        return list(zip(*(self._column(slot) for slot in code.slots), strict=True)) or [()] * self.steps

    def require_contiguous(self, names: Iterable[str]) -> None:
        """Raise ValueError unless the row of each step is contiguous, as a kernel reads and writes it."""
        for name in names:
            tensor = self[name].tensor
            if not (tensor.is_contiguous() or tensor[0].is_contiguous()):
                raise ValueError(f"a kernel reads and writes contiguous buffers only, and {name} is not")

    def _column(self, slot: Slot) -> Sequence[Tensor]:
        tensor, offset = self[slot.buffer]
        rows: Sequence[Tensor]
        if slot.views and len(tensor) == self.steps:  # viewed for all steps at once
            viewed = _view(tensor.flatten(0, 1), [self.program.bulk_of[view] for view in slot.views])
            rows = _part(viewed.unflatten(0, (self.steps, self.rows)), slot).unbind(0)
        elif slot.views:
            rows = [_part(_view(row, slot.views), slot) for row in tensor.unbind(0)]
        else:
            rows = _part(tensor, slot).unbind(0)
        return self._by_step(rows, offset)

    def _by_step(self, rows: Sequence[Tensor], offset: int) -> list[Tensor]:
        return [rows[(t + offset) % len(rows)] for t in range(self.steps)]


def _view(value: Any, views: Sequence[fx.Node]) -> Any:
    for view in views:
        function: Any = view.target
        value = function(value, *view.args[1:], **view.kwargs)
    return value


def _part(tensor: Tensor, slot: Slot) -> Tensor:
    if slot.columns is not None:
        tensor = tensor[..., slot.columns[0] : slot.columns[1]]
    return tensor.unflatten(-1, (slot.rows, -1)) if slot.rows else tensor


class Saved(NamedTuple):
    """Tensors that the forward pass leaves for the gradient."""

    z: list[Tensor]  # (T, B, ...): those that need no gradient
    carries: list[Tensor]  # (T + 1, B, ...)
    extras: list[Tensor]  # (B, ...)
    parameters: list[Tensor]
    stored: list[Tensor]  # (T, B, ...)


def put_saved(buffers: Buffers, saved: Saved) -> None:
    """Put all but z in the buffers; of a step, the carry before it is carry0, ..., the one after it new0, ..."""
    for i, carry in enumerate(saved.carries):
        buffers.put(f"carry{i}", carry)
        buffers.put(f"new{i}", carry, 1)
    buffers.put_constants("extra", saved.extras)
    buffers.put_constants("parameter", saved.parameters)
    buffers.put_all("stored", saved.stored)


def saved_values(program: Program, steps: int, saved: Saved) -> Values:
    """The saved tensors by node of the bulk trace."""
    bulk = program.bulk
    constant = [node for node, needed in zip(bulk.z, bulk.needs, strict=True) if not needed]
    values: Values = dict(zip(bulk.parameters.values(), saved.parameters, strict=True))
    for node, tensor in [*zip(constant, saved.z, strict=True), *zip(program.stored, saved.stored, strict=True)]:
        values[node] = tensor.flatten(0, 1)
    for node, extra in zip(bulk.extras, saved.extras, strict=True):
        values[node] = extra.expand(steps, *extra.shape).flatten(0, 1)
    for before, after, carry in zip(bulk.carry, bulk.new_carry, saved.carries, strict=True):
        values[after], values[before] = carry[1:].flatten(0, 1), carry[:-1].flatten(0, 1)
    return values


def evaluate(nodes: Sequence[fx.Node], values: Values, keep: set[fx.Node]) -> None:
    """Run a piece of a graph; a value that is neither needed again nor to be kept is freed on the way."""
    last_use = {source: node for node in nodes for source in node.all_input_nodes}
    own = set(nodes)
    for node in nodes:
        function: Any = node.target
        arguments = fx.node.map_arg(node.args, lambda n: values[n])
        words = fx.node.map_arg(node.kwargs, lambda n: values[n])
        values[node] = function(*arguments, **words)
        for source in node.all_input_nodes:
            if last_use[source] is node and source in own and source not in keep:
                del values[source]


def evaluate_late(nodes: Sequence[fx.Node], program: Program, buffers: Buffers, values: Values) -> None:
    """Compute gradients from those of the carry at all steps, once the reverse loop has left them in the buffers."""
    for i, node in enumerate(program.bulk.cotangents):
        values[node] = buffers[f"d{i}"].tensor[1:].flatten(0, 1)
    evaluate(nodes, values, {node for node in program.late if node is not None})
