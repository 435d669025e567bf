"""Gates as scalar code: what one unit of one row computes, for a language given by its table.

A tensor as wide as k hidden layers is k scalars; splitting and joining gates is renaming. Layer normalisation sums over
the units of a row: it ends one pass over them and begins another, and what both need is kept between. Other operations
across units cannot be lowered: such a cell runs on torch's operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import fx

from .trace import is_statistic, operation


class Unsupported(Exception):
    """What stands in the way of a kernel."""


class Language(NamedTuple):
    """How to write assignments, numbers, and each operation, from the text of its arguments."""

    assign: Callable[[str, str], str]
    accumulate: Callable[[str, str], str]
    kept: Callable[[int], str]  # what was kept in a place
    number: Callable[[float], str]
    operations: Mapping[str, Callable[..., str]]


class Value(NamedTuple):
    """Where a tensor of a kernel lies: k scalars for each unit ("units"), one a row ("row"), or one ("one").

    A "sum" has k scalars for each unit, in as many rows as the kernel needs to add to it in parallel.
    """

    home: str
    kind: str
    blocks: int
    batched: bool


@dataclass
class Pass:
    """One loop over the units of a row."""

    before: list[str] = field(default_factory=list)  # computed once a row
    sums: list[str] = field(default_factory=list)  # over the units of the row, started at 0
    loads: list[tuple[Value, list[str]]] = field(default_factory=list)  # and the names the scalars are to get
    lines: list[str] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)  # scalars for later passes: their places
    names: set[str] = field(default_factory=set)


class Kernel(NamedTuple):
    """The body of a kernel for a row."""

    passes: list[Pass]
    stores: list[tuple[Value, list[str]]]  # and the scalars; in the last pass, those of a row after it
    places: int  # scalars a unit that are kept between passes


_COMPARISONS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_RENAMES = ("split", "unbind", "chunk", "split_with_sizes")
_SAME = ("clone", "detach", "alias", "_to_copy")


class Lowering:
    """Writes a kernel: loads what has a home where it is first used, computes the rest."""

    def __init__(self, homes: Mapping[fx.Node, Value], hidden_size: int, language: Language) -> None:
        self.homes, self.size, self.language = dict(homes), hidden_size, language
        self.known: dict[fx.Node, Any] = {}  # lists of scalars, or lists of these for what was split
        self.passes = [Pass()]
        self.loaded: dict[str, Value] = {}  # by scalar
        self.statistics: dict[fx.Node, tuple[str, str]] = {}  # numbers of a row, by normalisation
        self.places = 0

    def kernel(self, outputs: Iterable[tuple[Value, list[str]]]) -> Kernel:
        stores = [(home, list(map(self.use, scalars))) for home, scalars in outputs]
        return Kernel(self.passes, stores, self.places)

    def store(self, home: str, node: fx.Node) -> tuple[Value, list[str]]:
        """An output: the scalars of a node, which are as many as its buffer is wide."""
        scalars: list[str] = self.value(node)
        if is_statistic(node):
            return Value(home, "row", 1, True), scalars
        if len(scalars) != count(node, self.size):
            raise Unsupported(f"{operation(node)} is broadcast")
        return units(home, scalars), scalars

    def load(self, home: Value) -> list[str]:
        """The scalars of a home."""
        names = [f"{home.home}_{j}" for j in range(home.blocks)]
        self.loaded |= dict.fromkeys(names, home)
        return names

    def use(self, scalar: str) -> str:
        """Have a scalar at hand in the present pass."""
        now = self.passes[-1]
        if scalar in now.names:
            return scalar
        if scalar in self.loaded:
            home = self.loaded[scalar]
            names = [f"{home.home}_{j}" for j in range(home.blocks)]
            now.loads.append((home, names))
            now.names |= set(names)
            return scalar
        for earlier in self.passes[:-1]:
            if scalar in earlier.names:
                if scalar not in earlier.kept:
                    earlier.kept[scalar] = self.places
                    self.places += 1
                now.lines.append(self.language.assign(scalar, self.language.kept(earlier.kept[scalar])))
                now.names.add(scalar)
                break
        return scalar  # else a number, or computed once a row

    def let(self, name: str, expression: str) -> str:
        """Compute a scalar in the present pass."""
        self.passes[-1].lines.append(self.language.assign(name, expression))
        self.passes[-1].names.add(name)
        return name

    def value(self, node: fx.Node) -> Any:
        """The scalars of a node."""
        if node not in self.known:
            if node in self.homes:
                self.known[node] = self.load(self.homes[node])
            elif node.op != "call_function":
                raise Unsupported(f"{node} has no home")
            else:
                self.known[node] = self._compute(node)
        return self.known[node]

    def _compute(self, node: fx.Node) -> Any:
        name = operation(node)
        given: Any = node.args
        if name == "getitem":
            self._require(node, given[1] == 0 or operation(given[0]) != "native_layer_norm_backward")
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
        if name == "native_layer_norm":
            return self._normalise(node, *given)
        if name == "native_layer_norm_backward":
            return self._normalise_backward(node, *given)
        allowed = {"alpha"} if name in ("add", "sub") else set()
        self._require(node, name in self.language.operations and set(node.kwargs) <= allowed)
        self._require(node, name in _COMPARISONS or node.meta["val"].dtype.is_floating_point)
        arguments = [self.value(a) if isinstance(a, fx.Node) else [self._number(node, a)] for a in given]
        count = max(map(len, arguments))
        self._require(node, all(len(a) in (1, count) for a in arguments))
        self._require(node, count == 1 or node.meta["val"].shape[-1] == count * self.size)
        scalars = []
        for j in range(count):
            texts = [self.use(a[j % len(a)]) for a in arguments]
            if node.kwargs:
                texts[1] = self.language.operations["mul"](texts[1], self._number(node, node.kwargs["alpha"]))
            scalars.append(self.let(f"{node.name}_{j}", self.language.operations[name](*texts)))
        return scalars

    def summand(self, node: fx.Node) -> list[str]:
        """The scalars whose sum over all rows is `node`, the gradient of a parameter."""
        name = operation(node)
        given: Any = node.args
        if name in ("view", "_unsafe_view"):
            return self.summand(given[0])
        if name == "add" and not node.kwargs:
            add, both = self.language.operations["add"], zip(*map(self.summand, given), strict=True)
            return [self.let(f"{node.name}_{j}", add(*map(self.use, terms))) for j, terms in enumerate(both)]
        if name == "getitem" and operation(given[0]) == "native_layer_norm_backward":
            scalars: list[str] = self.value(given[0])[given[1]]
            return scalars
        self._require(node, name == "sum" and len(given) > 1 and given[1] == [0])
        return self.store("", given[0])[1]

    def _sums(self, terms: Mapping[str, Iterable[str]]) -> None:
        """Sum terms over the units of a row, each list into a name; ends the pass."""
        now = self.passes[-1]
        now.sums += terms
        now.lines += [self.language.accumulate(name, term) for name, several in terms.items() for term in several]
        self.passes.append(Pass())

    def _once(self, name: str, expression: str) -> str:
        """Compute a number of the row."""
        self.passes[-1].before.append(self.language.assign(name, expression))
        return name

    def _normalise(self, node: fx.Node, x: Any, shape: Any, weight: Any, bias: Any, eps: float) -> list[list[str]]:
        scalars = self._whole_row(x, shape)
        if node not in self.statistics:
            self._measure([node, *self._alike(node)])
        mean, rstd = map(self.use, self.statistics[node])
        outputs = []
        for j, scalar in enumerate(scalars):
            text = f"({self.use(scalar)} - {mean}) * {rstd}"
            if weight is not None:
                text = f"{text} * {self.use(self.value(weight)[j])}"
            if bias is not None:
                text = f"{text} + {self.use(self.value(bias)[j])}"
            outputs.append(self.let(f"{node.name}_{j}", text))
        return [outputs, [mean], [rstd]]

    def _alike(self, node: fx.Node) -> list[fx.Node]:
        """Other nodes of this operation whose first argument is at hand: they share the passes that sum."""
        here = self.known.keys() | self.homes.keys()
        at_hand = [n for n in node.graph.nodes if operation(n) == operation(node) and n.args[0] in here]
        return [n for n in at_hand if n is not node and n not in self.statistics]

    def _measure(self, nodes: list[fx.Node]) -> None:
        """Mean and reciprocal deviation of rows that are to be normalised: loaded if the forward pass kept them."""
        scalars, count = {}, {}
        for node in nodes:
            x, shape = node.args[:2]
            homes = {user.args[1]: self.homes[user] for user in node.users if user in self.homes}
            if {1, 2} <= set(homes):
                self.statistics[node] = (self.load(homes[1])[0], self.load(homes[2])[0])
            else:
                scalars[node] = self._whole_row(x, shape)
                count[node] = self.language.number(float(len(scalars[node]) * self.size))
        if scalars:
            self._sums({f"{node.name}_sum": list(map(self.use, several)) for node, several in scalars.items()})
            squares = {}
            for node, several in scalars.items():
                mean = self._once(f"{node.name}_mean", f"{node.name}_sum / {count[node]}")
                distances = [f"({self.use(scalar)} - {mean})" for scalar in several]
                squares[f"{node.name}_squares"] = [f"{distance} * {distance}" for distance in distances]
            self._sums(squares)
            for node in scalars:
                eps = self._number(node, node.args[4])
                root = self.language.operations["sqrt"](f"({node.name}_squares / {count[node]} + {eps})")
                rstd = self._once(f"{node.name}_rstd", self.language.operations["reciprocal"](root))
                self.statistics[node] = (f"{node.name}_mean", rstd)

    def _normalise_backward(self, node: fx.Node, dy: Any, x: Any, shape: Any, mean: Any, rstd: Any, *_: Any) -> Any:
        slopes = self.value(dy)
        if node not in self.statistics:
            self._measure_backward([node, *self._alike(node)])
        first, second = self.statistics[node]
        rstd = self.use(self.value(rstd)[0])
        dx, dweight = [], []
        for j, slope in enumerate(slopes):
            one, two = self.use(f"{node.name}_g{j}"), self.use(f"{node.name}_hat{j}")
            dx.append(self.let(f"{node.name}_{j}", f"{rstd} * ({one} - {first} - {two} * {second})"))
            dweight.append(self.let(f"{node.name}_w{j}", f"{self.use(slope)} * {two}"))
        return [dx, dweight, slopes]  # the latter two not yet summed over rows: see summand()

    def _measure_backward(self, nodes: list[fx.Node]) -> None:
        """Means over a row of its gradient g, times the gain, and of g x, for normalised x."""
        sums: dict[str, list[str]] = {}
        count = {}
        for node in nodes:
            given: Any = node.args
            slopes, scalars = self.value(given[0]), self._whole_row(given[1], given[2])
            (mean,), (rstd,) = self.value(given[3]), self.value(given[4])
            mean, rstd = self.use(mean), self.use(rstd)
            self._require(node, len(slopes) == len(scalars))
            g, both = [], []
            for j, (slope, scalar) in enumerate(zip(slopes, scalars, strict=True)):
                text = self.use(slope)
                if given[5] is not None:
                    text = f"{text} * {self.use(self.value(given[5])[j])}"
                g.append(self.let(f"{node.name}_g{j}", text))
                hat = self.let(f"{node.name}_hat{j}", f"({self.use(scalar)} - {mean}) * {rstd}")
                both.append(f"{g[-1]} * {hat}")
            sums |= {f"{node.name}_sum": g, f"{node.name}_both": both}
            count[node] = self.language.number(float(len(slopes) * self.size))
        self._sums(sums)
        for node in nodes:
            first = self._once(f"{node.name}_first", f"{node.name}_sum / {count[node]}")
            self.statistics[node] = (first, self._once(f"{node.name}_second", f"{node.name}_both / {count[node]}"))

    def _whole_row(self, x: Any, shape: Any) -> list[str]:
        scalars: list[str] = self.value(x)
        self._require(x, list(shape) == [len(scalars) * self.size] == list(x.meta["val"].shape[1:]))
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


def units(home: str, scalars: Sequence[str]) -> Value:
    """A home of so many scalars for each unit of each row."""
    return Value(home, "units", len(scalars), True)


def count(node: fx.Node, hidden_size: int) -> int:
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
        "relu": lambda a: choose.format(f"({a} < 0)", "0", a),  # NaN stays NaN
        "where": choose.format,
        "sigmoid_backward": "({0} * ({1} * (1 - {1})))".format,
        "tanh_backward": "({0} * (1 - {1} * {1}))".format,
        "threshold_backward": lambda g, x, t: choose.format(f"({x} > {t})", g, "0"),
    }
    return table | {name: f"({{}} {sign} {{}})".format for name, sign in _COMPARISONS.items()}
