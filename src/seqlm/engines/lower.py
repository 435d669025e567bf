"""Elementwise gates as scalar code: what one unit of one row computes, for a language given by its table.

A tensor as wide as k hidden layers is k scalars; splitting and joining gates is renaming. What is not elementwise, a
normalisation say, cannot be lowered: such a cell runs on torch's operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import fx

from .trace import Trace, operation


class Unsupported(Exception):
    """What stands in the way of a kernel."""


class Language(NamedTuple):
    """How to write an assignment, a number, and each operation, from the text of its arguments."""

    assign: Callable[[str, str], str]
    number: Callable[[float], str]
    operations: Mapping[str, Callable[..., str]]


class Value(NamedTuple):
    """Where a tensor of a kernel lies: k scalars for each unit ("units"), one a row ("row"), or one ("one")."""

    home: str
    kind: str
    blocks: int
    batched: bool


class Kernel(NamedTuple):
    """The body of a kernel over (row, unit): what it loads, what it computes, what it stores."""

    loads: list[tuple[Value, list[str]]]  # and the names the scalars are to get
    lines: list[str]
    stores: list[tuple[str, list[str]]]  # home, expressions


_RENAMES = ("split", "unbind", "chunk", "split_with_sizes")
_SAME = ("clone", "detach", "alias", "_to_copy")


def placed(trace: Trace, hidden_size: int) -> dict[fx.Node, Value]:
    """The homes of everything that `gates` is given."""
    homes: dict[fx.Node, Value] = {}

    def place(node: fx.Node, home: str, batched: bool) -> None:
        value = node.meta["val"]
        shape = tuple(value.shape[1:] if batched else value.shape)
        if not value.dtype.is_floating_point:
            raise Unsupported(f"{home} is not a floating-point tensor")
        if shape in ((), (1,)):
            homes[node] = Value(home, "row" if batched else "one", 1, batched)
        elif len(shape) == 1 and shape[0] % hidden_size == 0:
            homes[node] = Value(home, "units", shape[0] // hidden_size, batched)
        else:
            raise Unsupported(f"{home} has the shape {shape}")

    groups = {"z": trace.z, "carry": trace.carry, "extra": trace.extras, "d": trace.cotangents}
    for name, nodes in groups.items():
        for i, node in enumerate(nodes):
            place(node, f"{name}{i}", True)
    place(trace.r, "r", True)
    for i, node in enumerate(trace.parameters.values()):
        place(node, f"parameter{i}", False)
    return homes


class Lowering:
    """Writes a kernel: loads what has a home where it is first used, computes the rest."""

    def __init__(self, homes: Mapping[fx.Node, Value], hidden_size: int, language: Language) -> None:
        self.homes, self.size, self.language = homes, hidden_size, language
        self.known: dict[fx.Node, Any] = {}  # lists of scalars, or lists of these for what was split
        self.loads: list[tuple[Value, list[str]]] = []
        self.lines: list[str] = []

    def kernel(self, outputs: Iterable[tuple[str, list[str]]]) -> Kernel:
        return Kernel(self.loads, self.lines, list(outputs))

    def value(self, node: fx.Node) -> Any:
        """The scalars of a node."""
        if node not in self.known:
            if node in self.homes:
                home = self.homes[node]
                names = [f"{home.home}_{j}" for j in range(home.blocks)]
                self.loads.append((home, names))
                self.known[node] = names
            elif node.op != "call_function":
                raise Unsupported(f"{node} has no home")
            else:
                self.known[node] = self._compute(node)
        return self.known[node]

    def _compute(self, node: fx.Node) -> Any:
        name = operation(node)
        given: Any = node.args
        if name == "getitem":
            return self.value(given[0])[given[1]]
        if name in _RENAMES:
            return self._pieces(node)
        if name == "cat":
            self._require(node, given[1] in (-1, 1))
            return [scalar for part in given[0] for scalar in self.value(part)]
        if name in _SAME and node.meta["val"].dtype == given[0].meta["val"].dtype:
            return self.value(given[0])
        if name in ("zeros_like", "ones_like", "full_like", "scalar_tensor"):
            number = {"zeros_like": 0.0, "ones_like": 1.0}.get(name, given[-1])
            return [self.language.number(float(number))]
        self._require(node, name in self.language.operations and set(node.kwargs) <= {"alpha"})
        arguments = [self.value(a) if isinstance(a, fx.Node) else [self._number(node, a)] for a in given]
        count = max(map(len, arguments))
        self._require(node, all(len(a) in (1, count) for a in arguments))
        self._require(node, count == 1 or node.meta["val"].shape[-1] == count * self.size)
        scalars = []
        for j in range(count):
            texts = [a[j % len(a)] for a in arguments]
            if node.kwargs:
                texts[1] = self.language.operations["mul"](texts[1], self._number(node, node.kwargs["alpha"]))
            scalars.append(f"{node.name}_{j}")
            self.lines.append(self.language.assign(scalars[-1], self.language.operations[name](*texts)))
        return scalars

    def _pieces(self, node: fx.Node) -> list[list[str]]:
        given: Any = node.args
        scalars, widths = self.value(given[0]), given[1]
        self._require(node, operation(node) in ("split", "split_with_sizes") and given[2] in (-1, 1))
        if isinstance(widths, int):
            widths = [widths] * (given[0].meta["val"].shape[-1] // widths)
        self._require(node, all(width % self.size == 0 for width in widths))
        pieces, at = [], 0
        for width in widths:
            pieces.append(scalars[at : at + width // self.size])
            at += width // self.size
        return pieces

    def _number(self, node: fx.Node, value: Any) -> str:
        self._require(node, isinstance(value, (int, float)))
        return self.language.number(float(value))

    @staticmethod
    def _require(node: fx.Node, condition: bool) -> None:
        if not condition:
            raise Unsupported(f"{operation(node)} is not elementwise, or not known")


def forward_kernel(trace: Trace, stored: list[fx.Node], hidden_size: int, language: Language, biased: bool) -> Kernel:
    """z, r, carry -> the new carry ("new0", ...) and what is stored ("stored0", ...); adds "bias" to r if `biased`."""
    lowering = Lowering(placed(trace, hidden_size), hidden_size, language)
    if biased:
        scalars = lowering.value(trace.r)
        names = [f"bias_{j}" for j in range(len(scalars))]
        lowering.loads.append((Value("bias", "units", len(scalars), False), names))
        lowering.known[trace.r] = [language.operations["add"](*pair) for pair in zip(scalars, names, strict=True)]
    outputs = [(f"new{i}", lowering.value(node)) for i, node in enumerate(trace.new_carry)]
    outputs += [(f"stored{i}", lowering.value(node)) for i, node in enumerate(stored)]
    return lowering.kernel(outputs)


def reverse_kernel(trace: Trace, stored: list[fx.Node], hidden_size: int, language: Language) -> Kernel:
    """Gradients of the new carry ("d0", ...) and of the output before ("dy") -> "dr", "dz0", ..., "next0", ...

    What the forward pass stored is loaded, the rest of it computed again. "next0" holds all of the gradient of h but
    what comes through r.
    """
    homes = placed(trace, hidden_size)
    homes |= {node: Value(f"stored{i}", "units", _count(node, hidden_size), True) for i, node in enumerate(stored)}
    carried = {node: Value(f"new{i}", "units", 1, True) for i, node in enumerate(trace.new_carry) if node not in homes}
    lowering = Lowering(homes | carried, hidden_size, language)
    if trace.dr is None:
        raise Unsupported("r is not used")
    outputs = [("dr", lowering.value(trace.dr))]
    for i, node in enumerate(trace.dz):
        if node is not None and node is not trace.dr:
            outputs.append((f"dz{i}", lowering.value(node)))
    for i, node in enumerate(trace.dcarry):
        scalars = [language.number(0.0)] if node is None else lowering.value(node)
        if i == 0:
            lowering.loads.append((Value("dy", "units", 1, True), ["dy_0"]))
            scalars = [language.operations["add"](scalars[0], "dy_0")]
        outputs.append((f"next{i}", scalars))
    return lowering.kernel(outputs)


def _count(node: fx.Node, hidden_size: int) -> int:
    value = node.meta["val"]
    if value.dim() != 2 or value.shape[1] % hidden_size or not value.dtype.is_floating_point:
        raise Unsupported(f"{operation(node)} has the shape {tuple(value.shape)}")
    return int(value.shape[1]) // hidden_size


def operations(
    *, exp: str, log: str, sqrt: str, tanh: str, sigmoid: str, top: str, low: str, choose: str, absolute: str
) -> dict[str, Callable[..., str]]:
    """The table of operations for a language of infix arithmetic, given how it writes its functions."""
    table: dict[str, Callable[..., str]] = {
        "add": "({} + {})".format,
        "sub": "({} - {})".format,
        "mul": "({} * {})".format,
        "div": "({} / {})".format,
        "rsub": lambda a, b: f"({b} - {a})",
        "neg": "(-{})".format,
        "square": "({0} * {0})".format,
        "reciprocal": lambda a: f"(1 / {a})",
        "exp": exp.format,
        "log": log.format,
        "sqrt": sqrt.format,
        "tanh": tanh.format,
        "sigmoid": sigmoid.format,
        "abs": absolute.format,
        "maximum": top.format,
        "minimum": low.format,
        "relu": lambda a: top.format(a, "0"),
        "where": choose.format,
        "sigmoid_backward": "({0} * ({1} * (1 - {1})))".format,
        "tanh_backward": "({0} * (1 - {1} * {1}))".format,
        "threshold_backward": lambda g, x, t: choose.format(f"({x} > {t})", g, "0"),
    }
    comparisons = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    return table | {name: f"({{}} {sign} {{}})".format for name, sign in comparisons.items()}
