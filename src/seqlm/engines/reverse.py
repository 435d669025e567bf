"""The loop body of the backward pass, with as little in it as can be.

The gradient of `gates` is linear in the incoming gradient. What multiplies it is known once the forward pass is
over, so it is computed for all T steps at once, in few large operations; the reverse loop is left with products:

    d_i <- sum_j coefficient_ij * d_j     for pre-activations and carry, j over the gradients of the new carry

An operation on gradients that is not a product, sum or difference (that of a normalisation, say) stays in the loop.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from .code import Block, Code, Slot, Writer
from .trace import Trace, operation

# A product of a gradient, by its name in the loop, and a coefficient: a node, a number, or None for 1.
Term = tuple[Any, str]

_aten = torch.ops.aten
# Gradients of one operation: the first argument times a coefficient. That may as well be another coefficient.
_TIMES_SLOPE = {"sigmoid_backward", "tanh_backward", "threshold_backward"}


class ReverseLoop:
    """The loop body of the backward pass.

    Reads the gradients of the new carry (homes d0, d1, ...), of the output of the step before (dy), and the
    coefficients; writes the gradient of r (dr) and those of the carry of the step before (next0, ...).
    """

    def __init__(self, step: Trace, twin: dict[fx.Node, fx.Node], gradients: list[fx.Node]) -> None:
        self.step, self.twin, self.gradients, self.inside = step, twin, gradients, set(gradients)
        self.writer = Writer({node: f"d{i}" for i, node in enumerate(step.cotangents)})
        self.forms: dict[fx.Node, list[Term]] = {node: [(None, f"d{i}")] for i, node in enumerate(step.cotangents)}
        self.coefficients: list[fx.Node] = []
        self.graph = next(iter(twin.values())).graph
        self.made: dict[Any, fx.Node] = {}

    def code(self) -> Code:
        results: list[fx.Node | None] = [self.step.dr, *self.step.dcarry]
        for node in self.gradients:
            if node in self.forms or (node is self.step.dr and operation(node) == "cat"):
                continue
            form = self._form(node)
            uses = sum(user in self.inside for user in node.users) + results.count(node)
            if len(form) > 1 and uses > 1:  # shared: computed once
                form = [(None, self._materialise(form, node))]
            self.forms[node] = form
        if self.step.dr is not None:
            self._write_dr(self.step.dr)
        for i, gradient in enumerate(self.step.dcarry):
            terms = [] if gradient is None else self.forms[gradient]
            if i or terms:  # an h that acts through r alone is left to the product with the weight
                self._sum(terms + ([(None, "dy")] if i == 0 else []), Slot(f"next{i}"))
        return self.writer.code("reverse")

    # -- linear forms ----------------------------------------------------------------------------------------

    def _form(self, node: fx.Node) -> list[Term]:
        """The value of a node as a sum of products."""
        name = operation(node)
        arguments: Any = node.args
        inputs = [argument for argument in arguments if isinstance(argument, fx.Node) and argument in self.forms]
        alike = [getattr(i.meta["val"], "shape", None) == getattr(node.meta["val"], "shape", ()) for i in inputs]
        plain = not node.kwargs and all(alike)  # a gradient that is broadcast is left to torch
        if name == "mul" and plain and len(inputs) == 1:
            other = arguments[1] if arguments[0] is inputs[0] else arguments[0]
            return [(self._product(c, self._bulk(other)), d) for c, d in self.forms[inputs[0]]]
        if name == "div" and plain and inputs == [arguments[0]]:
            return [(self._quotient(c, self._bulk(arguments[1])), d) for c, d in self.forms[inputs[0]]]
        if name in _TIMES_SLOPE and plain and inputs == [arguments[0]]:
            return [(self._slope(node, c), d) for c, d in self.forms[inputs[0]]]
        if name == "neg" and inputs:
            return [(self._product(c, -1.0), d) for c, d in self.forms[inputs[0]]]
        if name in ("add", "sub") and plain and len(inputs) == 2:
            sign = 1.0 if name == "add" else -1.0
            terms = list(self.forms[inputs[0]])
            for c, d in self.forms[inputs[1]]:
                terms = self._plus(terms, (c if sign > 0 else self._product(c, sign), d))
            return terms
        # Anything else is done as it is, on values.
        for source in node.all_input_nodes:
            if source in self.forms:
                self._name_value(source)
            elif source not in self.writer.local:
                self.writer.homes.setdefault(source, self._coefficient(self._bulk(source)))
        if name == "native_layer_norm_backward":  # of the three gradients, those that somebody reads here
            read = {user.args[1] for user in node.users if user in self.inside}
            node.update_arg(7, [wanted and i in read for i, wanted in enumerate(arguments[7])])
        self.writer.inline(node)
        return [(None, node.name)]

    def _name_value(self, node: fx.Node) -> None:
        form = self.forms[node]
        if form[0][0] is not None or len(form) > 1:
            self.forms[node] = form = [(None, self._materialise(form, node))]
        name = form[0][1]
        if name in self.writer.local.values():
            self.writer.local[node] = name
        else:
            self.writer.homes[node] = name

    def _plus(self, terms: list[Term], new: Term) -> list[Term]:
        for i, (coefficient, d) in enumerate(terms):
            if d == new[1]:
                one = 1.0 if coefficient is None else coefficient
                two = 1.0 if new[0] is None else new[0]
                return [*terms[:i], (self._make(torch.add, one, two), d), *terms[i + 1 :]]
        return [*terms, new]

    def _bulk(self, value: Any) -> Any:
        return self.twin[value] if isinstance(value, fx.Node) else value

    def _product(self, a: Any, b: Any) -> Any:
        if a is None or b is None:
            return b if a is None else a
        return self._make(torch.mul, a, b)

    def _quotient(self, a: Any, b: Any) -> Any:
        return self._make(torch.div, 1.0 if a is None else a, b)

    def _slope(self, node: fx.Node, coefficient: Any) -> Any:
        """The coefficient times the slope of the function whose gradient `node` is."""
        y, *rest = map(self._bulk, node.args[1:])
        if isinstance(coefficient, fx.Node):
            return self._make(node.target, coefficient, y, *rest)
        return self._product(coefficient, self._make(node.target, self._make(torch.ones_like, y), y, *rest))

    def _make(self, function: Any, *arguments: Any) -> Any:
        """A coefficient computed from others: a new node of the bulk trace, or a number."""
        if not any(isinstance(argument, (fx.Node, tuple)) for argument in arguments):
            return {torch.mul: operator.mul, torch.add: operator.add, torch.div: operator.truediv}[function](*arguments)
        if isinstance(arguments[0], float):  # torch's functions take their tensor first
            if function is torch.div:
                function, arguments = _divide, arguments
            else:
                arguments = arguments[::-1]
        key = (function, arguments)
        if key not in self.made:
            output = next(iter(reversed(self.graph.nodes)))
            with self.graph.inserting_before(output):
                self.made[key] = self.graph.call_function(function, arguments)
        return self.made[key]

    def _varies(self, coefficient: fx.Node) -> bool:
        """Whether it has a row for each step and column: it depends on more than parameters."""
        constant = {self.twin[node] for node in self.step.parameters.values()}
        todo, seen = [coefficient], set()
        while todo:
            node = todo.pop()
            if node in seen or node in constant:
                continue
            seen.add(node)
            if node.op == "placeholder":
                return True
            todo += node.all_input_nodes
        return False

    def _factors(self, coefficient: fx.Node) -> tuple[Any, ...]:
        """How to compute a coefficient in place, (function, arguments), if it was made here and only for this."""
        into = _INTO.get(coefficient.target)
        alone = coefficient in self.made.values() and not coefficient.users
        return (into, *coefficient.args) if into and alone else (coefficient,)

    # -- emission --------------------------------------------------------------------------------------------

    def _coefficient(self, node: fx.Node) -> str:
        if node not in self.coefficients:
            self.coefficients.append(node)
        return f"k{self.coefficients.index(node)}"

    def _materialise(self, form: list[Term], node: fx.Node) -> str:
        value = node.meta["val"]
        home = self.writer.buffer(Block(value.shape[1:], value.dtype))
        self._sum(form, Slot(home))
        return home

    def _sum(self, terms: list[Term], to: Slot) -> None:
        """Write the sum of the terms."""
        out = self.writer.slot(to)
        terms = sorted(terms, key=lambda term: term[0] is not None)
        if not terms:
            self.writer.lines.append(f"{out}.zero_()")
            return
        (first, d), *rest = terms
        if first is not None:
            self.writer.lines.append(f"f_mul({self._d(d)}, {self._c(first)}, out={out})")
        elif rest:  # begin with two terms at once
            (second, e), *rest = rest
            if isinstance(second, fx.Node):
                self.writer.lines.append(f"f_addcmul({self._d(d)}, {self._d(e)}, {self._c(second)}, out={out})")
            else:
                alpha = 1.0 if second is None else second
                self.writer.lines.append(f"f_add({self._d(d)}, {self._d(e)}, alpha={alpha}, out={out})")
        else:
            self.writer.lines.append(f"{out}.copy_({self._d(d)})")
        for c, d in rest:
            if isinstance(c, fx.Node):
                self.writer.lines.append(f"{out}.addcmul_({self._d(d)}, {self._c(c)})")
            else:
                self.writer.lines.append(f"{out}.add_({self._d(d)}, alpha={1.0 if c is None else c})")
        self.writer.names |= {"f_mul": torch.mul, "f_add": torch.add, "f_addcmul": torch.addcmul}

    def _d(self, name: str, rows: int = 0) -> str:
        if name in self.writer.local.values():
            return f"{name}.unflatten(-1, (1, -1))" if rows else name
        return self.writer.slot(Slot(name, rows=rows))

    def _c(self, coefficient: Any) -> str:
        if not isinstance(coefficient, fx.Node):
            return repr(coefficient)
        return self.writer.slot(Slot(self._coefficient(coefficient)))

    def _write_dr(self, dr: fx.Node) -> None:
        """Gates that are the same gradient times one coefficient each, and lie side by side, are one operation."""
        if operation(dr) != "cat" or dr in self.forms:
            self._sum(self.forms[dr], Slot("dr"))
            return
        parts: Any = dr.args[0]
        at = 0
        runs: list[tuple[int, int, list[Term], bool]] = []
        for part in parts:
            width, form = part.meta["val"].shape[-1], self.forms[part]
            alike = len(form) == 1 and isinstance(form[0][0], fx.Node) and self._varies(form[0][0])
            if alike and runs and runs[-1][3] and runs[-1][1] == width and runs[-1][2][0][1] == form[0][1]:
                runs[-1][2].append(form[0])
            else:
                runs.append((at, width, list(form), alike))
            at += width
        for at, width, terms, alike in runs:
            if not alike or len(terms) == 1:
                self._sum(terms, Slot("dr", columns=(at, at + width)))
                continue
            d = terms[0][1]
            side_by_side = self._make(_side_by_side, *map(self._factors, (c for c, _ in terms)))
            out = Slot("dr", columns=(at, at + width * len(terms)), rows=len(terms))
            self.writer.names["f_mul"] = torch.mul
            line = f"f_mul({self._d(d, rows=1)}, {self._c(side_by_side)}, out={self.writer.slot(out)})"
            self.writer.lines.append(line)


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
    for (compute, *arguments), place in zip(coefficients, joined.unbind(1), strict=True):
        if arguments:
            compute(*arguments, out=place)
        else:
            place.copy_(compute)
    return joined


def _divide(number: float, tensor: Tensor) -> Tensor:
    return torch.mul(torch.reciprocal(tensor), number)
