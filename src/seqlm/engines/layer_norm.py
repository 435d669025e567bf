"""Layer normalisation as scalar code, and its gradient: two passes that sum over the units of a row, then one more.

gates -> trace -> program -> kernels -> lower [layer_norm] -> passes -> compiled -> kernel_body -> chunk
"""

from __future__ import annotations

from typing import Any

from torch import fx

from .lower import Lowering
from .passes import Array, Language
from .trace import operation


class NormLowering(Lowering):
    """A lowering that knows layer normalisation; nodes whose inputs are at hand share the passes that sum."""

    def __init__(self, arrays: dict[fx.Node, Array], hidden_size: int, language: Language) -> None:
        super().__init__(arrays, hidden_size, language)
        self.statistics: dict[fx.Node, tuple[str, str]] = {}  # numbers of a row, by normalisation

    def compute(self, node: fx.Node) -> Any:
        name = operation(node)
        if name == "native_layer_norm":
            return self._normalise(node, *node.args)
        if name == "native_layer_norm_backward":
            return self._normalise_backward(node, *node.args)
        if name == "getitem" and operation(node.args[0]) == "native_layer_norm_backward":  # type: ignore[arg-type]
            self.require(node, bool(node.args[1] == 0))  # the other two are sums over rows: see summand()
        return super().compute(node)

    def summand(self, node: fx.Node) -> list[str]:
        given: Any = node.args
        if operation(node) == "getitem" and operation(given[0]) == "native_layer_norm_backward":
            scalars: list[str] = self.value(given[0])[given[1]]
            return scalars
        return super().summand(node)

    def _normalise(self, node: fx.Node, x: Any, shape: Any, weight: Any, bias: Any, eps: Any) -> list[list[str]]:
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
        here = self.known.keys() | self.arrays.keys()
        at_hand = [n for n in node.graph.nodes if operation(n) == operation(node) and n.args[0] in here]
        return [n for n in at_hand if n is not node and n not in self.statistics]

    def _measure(self, nodes: list[fx.Node]) -> None:
        """Mean and reciprocal deviation of rows that are to be normalised: loaded if the forward pass kept them."""
        scalars, count = {}, {}
        for node in nodes:
            x, shape = node.args[:2]
            stored = {user.args[1]: self.arrays[user] for user in node.users if user in self.arrays}
            if {1, 2} <= set(stored):
                self.statistics[node] = (self.load(stored[1])[0], self.load(stored[2])[0])
            else:
                scalars[node] = self._whole_row(x, shape)
                count[node] = self.language.number(float(len(scalars[node]) * self.size))
        if not scalars:
            return
        self.sum({f"{node.name}_sum": list(map(self.use, several)) for node, several in scalars.items()})
        squares = {}
        for node, several in scalars.items():
            mean = self.once(f"{node.name}_mean", f"{node.name}_sum / {count[node]}")
            distances = [f"({self.use(scalar)} - {mean})" for scalar in several]
            squares[f"{node.name}_squares"] = [f"{distance} * {distance}" for distance in distances]
        self.sum(squares)
        for node in scalars:
            eps = self.number(node, node.args[4])
            root = self.language.operations["sqrt"](f"({node.name}_squares / {count[node]} + {eps})")
            rstd = self.once(f"{node.name}_rstd", self.language.operations["reciprocal"](root))
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
            self.require(node, len(slopes) == len(scalars))
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
        self.sum(sums)
        for node in nodes:
            first = self.once(f"{node.name}_first", f"{node.name}_sum / {count[node]}")
            self.statistics[node] = (first, self.once(f"{node.name}_second", f"{node.name}_both / {count[node]}"))

    def _whole_row(self, x: Any, shape: Any) -> list[str]:
        scalars: list[str] = self.value(x)
        self.require(x, list(shape) == [len(scalars) * self.size] == list(x.meta["val"].shape[1:]))
        return scalars
