"""Gates as scalar code: what one unit of one row computes.

    gates -> trace -> program -> kernels -> [lower] -> passes -> compiled | triton_kernels -> kernel_body -> chunk

A tensor as wide as k hidden layers is k scalars; splitting and joining gates is renaming. Layer normalisation, which
sums over the units of a row, is in layer_norm.py. Other operations across units cannot be lowered: such a cell runs on
torch's operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from .passes import COMPARISONS, Array, Language, PassWriter, Unsupported, units
from .trace import is_statistic, operation

_RENAMES = ("split", "unbind", "chunk", "split_with_sizes")
_SAME = ("clone", "detach", "alias", "_to_copy")
_CONSTANTS = ("zeros_like", "ones_like", "full_like", "scalar_tensor")


class Lowering(PassWriter):
    """Writes a kernel for nodes of a graph: loads those that lie in `arrays`, computes the others."""

    def __init__(self, arrays: Mapping[fx.Node, Array], hidden_size: int, language: Language) -> None:
        super().__init__(language)
        self.arrays, self.size = dict(arrays), hidden_size
        self.known: dict[fx.Node, Any] = {}  # lists of scalars, or lists of these for what was split

    def store(self, name: str, node: fx.Node) -> tuple[Array, list[str]]:
        """An output: the scalars of a node, which are as many as its array is wide."""
        scalars: list[str] = self.value(node)
        if is_statistic(node):
            return Array(name, "row", 1, True), scalars
        if len(scalars) != count(node, self.size):
            raise Unsupported(f"{operation(node)} is broadcast")
        return units(name, scalars), scalars

    def value(self, node: fx.Node) -> Any:
        """The scalars of a node."""
        if node not in self.known:
            if node in self.arrays:
                self.known[node] = self.load(self.arrays[node])
            elif node.op != "call_function":
                raise Unsupported(f"{node} lies in no array")
            else:
                self.known[node] = self.compute(node)
        return self.known[node]

    def compute(self, node: fx.Node) -> Any:
        """Compute a node; of a split, a list for each piece."""
        name = operation(node)
        given: Any = node.args
        if name == "getitem":
            return self.value(given[0])[given[1]]
        if name in _RENAMES:
            return self._pieces(node)
        if name == "cat":
            self.require(node, given[1] in (-1, 1))
            return [scalar for part in given[0] for scalar in self.value(part)]
        if name in _SAME and node.meta["val"].dtype == given[0].meta["val"].dtype:
            return self.value(given[0])
        if name in _CONSTANTS:
            number = {"zeros_like": 0.0, "ones_like": 1.0}.get(name, given[-1])
            return [self.language.number(float(number))]
        return self._elementwise(node, name)

    def summand(self, node: fx.Node) -> list[str]:
        """The scalars whose sum over all rows is `node`, the gradient of a parameter."""
        name = operation(node)
        given: Any = node.args
        if name in ("view", "_unsafe_view"):
            return self.summand(given[0])
        if name == "add" and not node.kwargs:
            add, both = self.language.operations["add"], zip(*map(self.summand, given), strict=True)
            return [self.let(f"{node.name}_{j}", add(*map(self.use, terms))) for j, terms in enumerate(both)]
        self.require(node, name == "sum" and len(given) > 1 and given[1] == [0])
        return self.store("", given[0])[1]

    def _elementwise(self, node: fx.Node, name: str) -> list[str]:
        allowed = {"alpha"} if name in ("add", "sub") else set()
        self.require(node, name in self.language.operations and set(node.kwargs) <= allowed)
        self.require(node, name in COMPARISONS or node.meta["val"].dtype.is_floating_point)
        arguments = [self.value(a) if isinstance(a, fx.Node) else [self.number(node, a)] for a in node.args]
        count = max(map(len, arguments))
        self.require(node, all(len(a) in (1, count) for a in arguments))
        self.require(node, count == 1 or node.meta["val"].shape[-1] == count * self.size)
        scalars = []
        for j in range(count):
            texts = [self.use(a[j % len(a)]) for a in arguments]
            if node.kwargs:
                texts[1] = self.language.operations["mul"](texts[1], self.number(node, node.kwargs["alpha"]))
            scalars.append(self.let(f"{node.name}_{j}", self.language.operations[name](*texts)))
        return scalars

    def _pieces(self, node: fx.Node) -> list[list[str]]:
        given: Any = node.args
        scalars, widths = self.value(given[0]), given[1]
        self.require(node, operation(node) in ("split", "split_with_sizes") and given[2] in (-1, 1))
        if isinstance(widths, int):
            widths = [widths] * (given[0].meta["val"].shape[-1] // widths)
        self.require(node, all(width % self.size == 0 for width in widths))
        pieces, at = [], 0
        for width in widths:
            pieces.append(scalars[at : at + width // self.size])
            at += width // self.size
        return pieces

    def number(self, node: fx.Node, value: Any) -> str:
        self.require(node, isinstance(value, (int, float)))
        return self.language.number(float(value))

    @staticmethod
    def require(node: fx.Node, condition: bool) -> None:
        """Raise Unsupported, naming the operation, unless the condition holds."""
        if not condition:
            raise Unsupported(f"{operation(node)} is not elementwise, or not known")


def count(node: fx.Node, hidden_size: int) -> int:
    """How many hidden layers wide a node is."""
    value = node.meta["val"]
    if value.dim() != 2 or value.shape[1] % hidden_size or not value.dtype.is_floating_point:
        raise Unsupported(f"{operation(node)} has the shape {tuple(value.shape)}")
    return int(value.shape[1]) // hidden_size
