"""The text of a kernel: passes over the units of a row, written in a language given by its table.

    gates -> trace -> program -> kernels -> lower -> [passes] -> compiled | triton_kernels -> kernel_body -> chunk

Knows nothing of graphs. A kernel is one pass, unless a sum over the units of a row (layer normalisation) ends a pass
and begins another; a scalar that a later pass needs is kept between them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Unsupported(Exception):
    """There is no kernel, for the reason in the message."""


def kernels_allowed() -> bool:
    """Whether kernels may be used: not with SEQLM_KERNELS=0 in the environment."""
    return os.environ.get("SEQLM_KERNELS") != "0"


def require_kernels() -> None:
    """Raise Unsupported unless kernels may be used."""
    if not kernels_allowed():
        raise Unsupported("SEQLM_KERNELS=0")


class Language(NamedTuple):
    """How to write assignments, numbers, and each operation, from the text of its arguments."""

    assign: Callable[[str, str], str]
    accumulate: Callable[[str, str], str]
    kept: Callable[[int], str]  # a scalar kept between passes, by its number
    number: Callable[[float], str]
    operations: Mapping[str, Callable[..., str]]


class Array(NamedTuple):
    """An array that a kernel reads or writes: k scalars for each unit ("units"), one a row ("row"), or one ("one").

    A "sum" has k scalars for each unit, in as many rows as the kernel needs to add to it in parallel.
    """

    name: str
    kind: str
    blocks: int  # k
    batched: bool

    @property
    def scalars(self) -> list[str]:
        return [f"{self.name}_{j}" for j in range(self.blocks)]


@dataclass
class Pass:
    """One loop over the units of a row."""

    before: list[str] = field(default_factory=list)  # computed once a row
    sums: list[str] = field(default_factory=list)  # over the units of the row, started at 0
    loads: list[Array] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)  # scalars for later passes, numbered
    names: set[str] = field(default_factory=set)


class Kernel(NamedTuple):
    """The body of a kernel for a row."""

    passes: list[Pass]
    stores: list[tuple[Array, list[str]]]  # and the scalars; in the last pass, those of a row after it
    kept: int  # how many scalars a unit are kept between passes


class PassWriter:
    """Writes the passes of a kernel; a scalar is loaded, or taken from an earlier pass, where it is first used."""

    def __init__(self, language: Language) -> None:
        self.language = language
        self.passes = [Pass()]
        self.loaded: dict[str, Array] = {}  # by scalar
        self.kept = 0

    def kernel(self, outputs: Iterable[tuple[Array, list[str]]]) -> Kernel:
        stores = [(array, list(map(self.use, scalars))) for array, scalars in outputs]
        return Kernel(self.passes, stores, self.kept)

    def load(self, array: Array) -> list[str]:
        """The scalars of an array."""
        self.loaded |= dict.fromkeys(array.scalars, array)
        return array.scalars

    def use(self, scalar: str) -> str:
        """Have a scalar at hand in the present pass."""
        now = self.passes[-1]
        if scalar in now.names:
            return scalar
        if scalar in self.loaded:
            now.loads.append(self.loaded[scalar])
            now.names |= set(self.loaded[scalar].scalars)
            return scalar
        for earlier in self.passes[:-1]:
            if scalar in earlier.names:
                if scalar not in earlier.kept:
                    earlier.kept[scalar] = self.kept
                    self.kept += 1
                now.lines.append(self.language.assign(scalar, self.language.kept(earlier.kept[scalar])))
                now.names.add(scalar)
                break
        return scalar  # else a number, or computed once a row

    def let(self, name: str, expression: str) -> str:
        """Compute a scalar in the present pass."""
        self.passes[-1].lines.append(self.language.assign(name, expression))
        self.passes[-1].names.add(name)
        return name

    def sum(self, terms: Mapping[str, Iterable[str]]) -> None:
        """Sum terms over the units of a row, each list into a name; ends the pass."""
        now = self.passes[-1]
        now.sums += terms
        now.lines += [self.language.accumulate(name, term) for name, several in terms.items() for term in several]
        self.passes.append(Pass())

    def once(self, name: str, expression: str) -> str:
        """Compute a number of the row."""
        self.passes[-1].before.append(self.language.assign(name, expression))
        return name


def units(name: str, scalars: Sequence[str]) -> Array:
    """An array of so many scalars for each unit of each row."""
    return Array(name, "units", len(scalars), True)


COMPARISONS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


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
    return table | {name: f"({{}} {sign} {{}})".format for name, sign in COMPARISONS.items()}
