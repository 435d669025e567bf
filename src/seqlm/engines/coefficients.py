"""Coefficients of the reverse loop: computed from the forward pass for all T steps at once.

gates -> trace -> program -> reverse [coefficients] -> code -> torch_body -> chunk
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from .trace import Trace

# A factor of a gradient: a node of the bulk trace, a number, or None for 1.
Coefficient = Any
_aten = torch.ops.aten


class Coefficients:
    """Arithmetic on coefficients: each result is a number, or a new node of the bulk trace."""

    def __init__(self, step: Trace, bulk_of: dict[fx.Node, fx.Node]) -> None:
        self.bulk_of = bulk_of
        self.constant = {bulk_of[node] for node in step.parameters.values()}
        self.graph = next(iter(bulk_of.values())).graph
        self.made: dict[Any, fx.Node] = {}
        self.read: list[fx.Node] = []  # those that the loop reads

    def name(self, node: fx.Node) -> str:
        """The buffer of a coefficient that the loop reads."""
        if node not in self.read:
            self.read.append(node)
        return f"k{self.read.index(node)}"

    def of(self, value: Any) -> Coefficient:
        """The coefficient for an argument of the step trace."""
        return self.bulk_of[value] if isinstance(value, fx.Node) else value

    def product(self, a: Coefficient, b: Coefficient) -> Coefficient:
        if a is None or b is None:
            return b if a is None else a
        return self._make(torch.mul, a, b)

    def quotient(self, a: Coefficient, b: Coefficient) -> Coefficient:
        return self._make(torch.div, 1.0 if a is None else a, b)

    def sum(self, a: Coefficient, b: Coefficient) -> Coefficient:
        return self._make(torch.add, 1.0 if a is None else a, 1.0 if b is None else b)

    def slope(self, node: fx.Node, coefficient: Coefficient) -> Coefficient:
        """The coefficient times the slope of the function whose gradient `node` is."""
        y, *rest = map(self.of, node.args[1:])
        if isinstance(coefficient, fx.Node):
            return self._make(node.target, coefficient, y, *rest)
        return self.product(coefficient, self._make(node.target, self._make(torch.ones_like, y), y, *rest))

    def side_by_side(self, coefficients: list[fx.Node]) -> fx.Node:
        """Coefficients (N, H) as one (N, m, H)."""
        node: fx.Node = self._make(_side_by_side, *map(self._factors, coefficients))
        return node

    def varies(self, coefficient: Coefficient) -> bool:
        """Whether it has a row for each step and row of the batch: it depends on more than parameters."""
        todo, seen = [coefficient] if isinstance(coefficient, fx.Node) else [], set()
        while todo:
            node = todo.pop()
            if node in seen or node in self.constant:
                continue
            seen.add(node)
            if node.op == "placeholder":
                return True
            todo += node.all_input_nodes
        return False

    def _make(self, function: Any, *arguments: Any) -> Any:
        if not any(isinstance(argument, (fx.Node, tuple)) for argument in arguments):
            return {torch.mul: operator.mul, torch.add: operator.add, torch.div: operator.truediv}[function](*arguments)
        if isinstance(arguments[0], float):  # torch's functions take their tensor first
            if function is torch.div:
                function = _divide
            else:
                arguments = arguments[::-1]
        key = (function, arguments)
        if key not in self.made:
            output = next(iter(reversed(self.graph.nodes)))
            with self.graph.inserting_before(output):
                self.made[key] = self.graph.call_function(function, arguments)
        return self.made[key]

    def _factors(self, coefficient: fx.Node) -> tuple[Any, ...]:
        """How to compute a coefficient in place, (function, arguments), if it was made here and only for this."""
        into = _INTO.get(coefficient.target)
        alone = coefficient in self.made.values() and not coefficient.users
        return (into, *coefficient.args) if into and alone else (coefficient,)


def _multiply(a: Tensor, b: Any, *, out: Tensor) -> Tensor:
    return torch.mul(a, b if isinstance(b, Tensor) else a.new_tensor(b), out=out)


# Coefficients that can be written where they are read: the operation, and the form that takes a buffer.
_INTO: dict[Any, Callable[..., Any]] = {
    torch.mul: _multiply,
    _aten.sigmoid_backward.default: lambda g, y, out: _aten.sigmoid_backward.grad_input(g, y, grad_input=out),
    _aten.tanh_backward.default: lambda g, y, out: _aten.tanh_backward.grad_input(g, y, grad_input=out),
}


def _side_by_side(*coefficients: tuple[Any, ...]) -> Tensor:
    """Coefficients (N, H), or how to compute them, to (N, m, H)."""
    first = next(part for part in coefficients[0] if isinstance(part, Tensor))
    joined = first.new_empty(first.shape[0], len(coefficients), first.shape[-1])
    for (compute, *arguments), out in zip(coefficients, joined.unbind(1), strict=True):
        if arguments:
            compute(*arguments, out=out)
        else:
            out.copy_(compute)
    return joined


def _divide(number: float, tensor: Tensor) -> Tensor:
    return torch.mul(torch.reciprocal(tensor), number)
