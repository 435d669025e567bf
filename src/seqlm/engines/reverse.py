"""The loop body of the backward pass, with as little in it as can be.

    gates -> trace -> program -> [reverse] -> code -> torch_body -> chunk

The gradient of `gates` is linear in the incoming gradient. The factors of that gradient are known once the forward
pass is over, so they are computed for all T steps at once, in few large operations; the reverse loop is left with
products:

    d_i <- sum_j coefficient_ij * d_j     for pre-activations and carry, j over the gradients of the new carry

An operation on gradients that is not a product, sum or difference (that of a normalisation, say) stays in the loop.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from .code import Code, Slot, Writer, block_of
from .coefficients import Coefficient, Coefficients
from .trace import Trace, operation

# A product of a coefficient and a gradient, by its name in the loop.
Term = tuple[Coefficient, str]

# Gradients of one operation: the first argument times a coefficient. That may as well be another coefficient.
_TIMES_SLOPE = {"sigmoid_backward", "tanh_backward", "threshold_backward"}


class ReverseLoop:
    """The loop body of the backward pass.

    Reads the gradients of the new carry (buffers d0, d1, ...), of the output of the step before (dy), and the
    coefficients (k0, k1, ...); writes the gradient of r (dr) and those of the carry of the step before (next0, ...).
    """

    def __init__(self, step: Trace, bulk_of: dict[fx.Node, fx.Node], gradients: list[fx.Node]) -> None:
        self.step, self.gradients, self.inside = step, gradients, set(gradients)
        self.writer = Writer({node: f"d{i}" for i, node in enumerate(step.cotangents)})
        self.forms: dict[fx.Node, list[Term]] = {node: [(None, f"d{i}")] for i, node in enumerate(step.cotangents)}
        self.coefficients = Coefficients(step, bulk_of)

    def code(self) -> Code:
        results: list[fx.Node | None] = [self.step.dr, *self.step.dcarry]
        for node in self.gradients:
            if node in self.forms or (node is self.step.dr and operation(node) == "cat"):
                continue
            form = self._linear_form(node) or self._inlined(node)
            uses = sum(user in self.inside for user in node.users) + results.count(node)
            if len(form) > 1 and uses > 1:  # shared: computed once
                form = [(None, self._materialise(form, node))]
            self.forms[node] = form
        if self.step.dr is not None:
            self._write_dr(self.step.dr)
        for i, gradient in enumerate(self.step.dcarry):
            terms = [] if gradient is None else self.forms[gradient]
            if i or terms:  # an h that acts through r alone is left to the product with the weight
                self._write_sum(terms + ([(None, "dy")] if i == 0 else []), Slot(f"next{i}"))
        return self.writer.code("reverse")

    def _linear_form(self, node: fx.Node) -> list[Term] | None:
        """The value of a node as a sum of products, or None if it is not one."""
        name, ks = operation(node), self.coefficients
        arguments: Any = node.args
        inputs = [argument for argument in arguments if isinstance(argument, fx.Node) and argument in self.forms]
        alike = [getattr(i.meta["val"], "shape", None) == getattr(node.meta["val"], "shape", ()) for i in inputs]
        plain = not node.kwargs and all(alike)  # a gradient that is broadcast is left to torch
        if name == "mul" and plain and len(inputs) == 1:
            other = arguments[1] if arguments[0] is inputs[0] else arguments[0]
            return [(ks.product(c, ks.of(other)), d) for c, d in self.forms[inputs[0]]]
        if name == "div" and plain and inputs == [arguments[0]]:
            return [(ks.quotient(c, ks.of(arguments[1])), d) for c, d in self.forms[inputs[0]]]
        if name in _TIMES_SLOPE and plain and inputs == [arguments[0]]:
            return [(ks.slope(node, c), d) for c, d in self.forms[inputs[0]]]
        if name == "neg" and inputs:
            return [(ks.product(c, -1.0), d) for c, d in self.forms[inputs[0]]]
        if name in ("add", "sub") and plain and len(inputs) == 2:
            terms = list(self.forms[inputs[0]])
            for c, d in self.forms[inputs[1]]:
                terms = self._plus(terms, (c if name == "add" else ks.product(c, -1.0), d))
            return terms
        return None

    def _plus(self, terms: list[Term], new: Term) -> list[Term]:
        for i, (coefficient, d) in enumerate(terms):
            if d == new[1]:
                return [*terms[:i], (self.coefficients.sum(coefficient, new[0]), d), *terms[i + 1 :]]
        return [*terms, new]

    def _inlined(self, node: fx.Node) -> list[Term]:
        """Do an operation in the loop as it is, on values."""
        for source in node.all_input_nodes:
            if source in self.forms:
                self._name_value(source)
            elif source not in self.writer.local:
                self.writer.buffers.setdefault(source, self.coefficients.name(self.coefficients.of(source)))
        if operation(node) == "native_layer_norm_backward":  # of the three gradients, those that are read here
            arguments: Any = node.args
            read = {user.args[1] for user in node.users if user in self.inside}
            node.update_arg(7, [asked and i in read for i, asked in enumerate(arguments[7])])
        self.writer.inline(node)
        return [(None, node.name)]

    def _name_value(self, node: fx.Node) -> None:
        """Give the value of a node a name in the loop."""
        form = self.forms[node]
        if form[0][0] is not None or len(form) > 1:
            self.forms[node] = form = [(None, self._materialise(form, node))]
        name = form[0][1]
        if name in self.writer.local.values():
            self.writer.local[node] = name
        else:
            self.writer.buffers[node] = name

    def _materialise(self, form: list[Term], node: fx.Node) -> str:
        buffer = self.writer.buffer(block_of(node))
        self._write_sum(form, Slot(buffer))
        return buffer

    def _write_sum(self, terms: list[Term], to: Slot) -> None:
        """Write the sum of the terms."""
        out = self.writer.slot(to)
        write = self.writer.lines.append
        terms = sorted(terms, key=lambda term: term[0] is not None)
        if not terms:
            write(f"{out}.zero_()")
            return
        (first, d), *rest = terms
        if first is not None:
            write(f"f_mul({self._d(d)}, {self._k(first)}, out={out})")
        elif rest:  # begin with two terms at once
            (second, e), *rest = rest
            if isinstance(second, fx.Node):
                write(f"f_addcmul({self._d(d)}, {self._d(e)}, {self._k(second)}, out={out})")
            else:
                write(f"f_add({self._d(d)}, {self._d(e)}, alpha={1.0 if second is None else second}, out={out})")
        else:
            write(f"{out}.copy_({self._d(d)})")
        for c, d in rest:
            if isinstance(c, fx.Node):
                write(f"{out}.addcmul_({self._d(d)}, {self._k(c)})")
            else:
                write(f"{out}.add_({self._d(d)}, alpha={1.0 if c is None else c})")
        self.writer.names |= {"f_mul": torch.mul, "f_add": torch.add, "f_addcmul": torch.addcmul}

    def _d(self, name: str, rows: int = 0) -> str:
        """A gradient in the text of the loop."""
        if name in self.writer.local.values():
            return f"{name}.unflatten(-1, (1, -1))" if rows else name
        return self.writer.slot(Slot(name, rows=rows))

    def _k(self, coefficient: Coefficient) -> str:
        """A coefficient in the text of the loop."""
        if not isinstance(coefficient, fx.Node):
            return repr(coefficient)
        return self.writer.slot(Slot(self.coefficients.name(coefficient)))

    def _write_dr(self, dr: fx.Node) -> None:
        """Write gates that are the same gradient times one coefficient each, and lie side by side, in one operation."""
        if operation(dr) != "cat" or dr in self.forms:
            self._write_sum(self.forms[dr], Slot("dr"))
            return
        parts: Any = dr.args[0]
        at = 0
        runs: list[tuple[int, int, list[Term], bool]] = []  # first column, width of a gate, terms, one a gate
        for part in parts:
            width, form = part.meta["val"].shape[-1], self.forms[part]
            alike = len(form) == 1 and self.coefficients.varies(form[0][0])
            if alike and runs and runs[-1][3] and runs[-1][1] == width and runs[-1][2][0][1] == form[0][1]:
                runs[-1][2].append(form[0])
            else:
                runs.append((at, width, list(form), alike))
            at += width
        for at, width, terms, alike in runs:
            if not alike or len(terms) == 1:
                self._write_sum(terms, Slot("dr", columns=(at, at + width)))
                continue
            joined = self.coefficients.side_by_side([c for c, _ in terms])
            out = Slot("dr", columns=(at, at + width * len(terms)), rows=len(terms))
            line = f"f_mul({self._d(terms[0][1], rows=1)}, {self._k(joined)}, out={self.writer.slot(out)})"
            self.writer.names["f_mul"] = torch.mul
            self.writer.lines.append(line)
