"""The buffers of a window, by the names that a program uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from .code import Block, Code, Slot
from .program import Program


class Place(NamedTuple):
    """A buffer of a window: at step t it is the row t + offset, modulo its length, of a tensor."""

    tensor: Tensor
    offset: int = 0


class Homes:
    """The buffers of a window by name: another row at each step, or the same at every step."""

    def __init__(self, program: Program, steps: int, rows: int, like: Tensor) -> None:
        self.program, self.steps, self.rows, self.like = program, steps, rows, like
        self.places: dict[str, Place] = {}

    def empty(self, steps: int, block: Block) -> Tensor:
        return torch.empty((steps, self.rows, *block.shape), dtype=block.dtype, device=self.like.device)

    def put(self, home: str, tensor: Tensor, offset: int = 0) -> None:
        """At step t the home is row t + offset of the tensor, and again from the first row after the last."""
        self.places[home] = Place(tensor, offset)

    def rows_of(self, home: str) -> list[Tensor]:
        tensor, offset = self.places[home]
        rows = tensor.unbind(0)
        return [rows[(t + offset) % len(rows)] for t in range(self.steps)]

    def arguments(self, code: Code) -> list[tuple[Tensor, ...]]:
        """The arguments of a step function for every step."""
        for index, block in enumerate(code.scratch):
            self.put(f"scratch{index}", self.empty(1, block))
        return list(zip(*(self._column(slot) for slot in code.slots), strict=True)) or [()] * self.steps

    def _column(self, slot: Slot) -> Sequence[Tensor]:
        tensor, offset = self.places[slot.home]
        rows: Sequence[Tensor]
        if slot.views and len(tensor) == self.steps:  # looked at for all steps at once
            looked = _look(tensor.flatten(0, 1), [self.program.twin[view] for view in slot.views])
            rows = _part(looked.unflatten(0, (self.steps, self.rows)), slot).unbind(0)
        elif slot.views:
            rows = [_part(_look(row, slot.views), slot) for row in tensor.unbind(0)]
        else:
            rows = _part(tensor, slot).unbind(0)
        return [rows[(t + offset) % len(rows)] for t in range(self.steps)]


def _look(value: Any, views: Sequence[fx.Node]) -> Any:
    for view in views:
        function: Any = view.target
        value = function(value, *view.args[1:], **view.kwargs)
    return value


def _part(tensor: Tensor, slot: Slot) -> Tensor:
    if slot.columns is not None:
        tensor = tensor[..., slot.columns[0] : slot.columns[1]]
    return tensor.unflatten(-1, (slot.rows, -1)) if slot.rows else tensor


def block_of(node: fx.Node) -> Block:
    value = node.meta["val"]
    return Block(value.shape[1:], value.dtype)


def evaluate(nodes: Sequence[fx.Node], values: dict[fx.Node, Any], keep: set[fx.Node]) -> None:
    """Run a piece of a graph; what is neither needed again nor to be kept is freed on the way."""
    last_use = {source: node for node in nodes for source in node.all_input_nodes}
    mine = set(nodes)
    for node in nodes:
        function: Any = node.target
        arguments = fx.node.map_arg(node.args, lambda n: values[n])
        words = fx.node.map_arg(node.kwargs, lambda n: values[n])
        values[node] = function(*arguments, **words)
        for source in node.all_input_nodes:
            if last_use[source] is node and source in mine and source not in keep:
                del values[source]


def known(
    program: Program,
    steps: int,
    kept: Sequence[Tensor],
    carries: Sequence[Tensor],
    extras: Sequence[Tensor],
    parameters: Sequence[Tensor],
    stored: Sequence[Tensor],
) -> dict[fx.Node, Any]:
    """What the forward pass left, by node of the bulk trace: a row for each step and column."""
    bulk = program.bulk
    constant = [node for node, needed in zip(bulk.z, bulk.needs, strict=True) if not needed]
    values: dict[fx.Node, Any] = dict(zip(bulk.parameters.values(), parameters, strict=True))
    for node, tensor in [*zip(constant, kept, strict=True), *zip(program.stored, stored, strict=True)]:
        values[node] = tensor.flatten(0, 1)
    for node, extra in zip(bulk.extras, extras, strict=True):
        values[node] = extra.expand(steps, *extra.shape).flatten(0, 1)
    for before, after, carry in zip(bulk.carry, bulk.new_carry, carries, strict=True):
        values[after], values[before] = carry[1:].flatten(0, 1), carry[:-1].flatten(0, 1)
    return values
