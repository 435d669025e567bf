"""The part of a gradient that is computed for all steps of a window at once, before or after the reverse loop.

gates -> trace -> program -> reverse | kernels -> torch_body | kernel_body [bulk] -> window
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, fx

from .buffers import Buffers
from .program import Program

Values = dict[fx.Node, Any]  # of nodes of the bulk trace: a row for each step and row of the batch


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
    mine = set(nodes)
    for node in nodes:
        function: Any = node.target
        arguments = fx.node.map_arg(node.args, lambda n: values[n])
        words = fx.node.map_arg(node.kwargs, lambda n: values[n])
        values[node] = function(*arguments, **words)
        for source in node.all_input_nodes:
            if last_use[source] is node and source in mine and source not in keep:
                del values[source]


def evaluate_late(nodes: Sequence[fx.Node], program: Program, buffers: Buffers, values: Values) -> None:
    """Compute gradients from those of the carry at all steps, once the reverse loop has left them in the buffers."""
    for i, node in enumerate(program.bulk.cotangents):
        values[node] = buffers[f"d{i}"].tensor[1:].flatten(0, 1)
    evaluate(nodes, values, {node for node in program.late if node is not None})
