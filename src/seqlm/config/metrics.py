"""Metrics as a task declares them and run.json keeps them. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

HUGE = 1e7  # numbers from here on are written with an exponent


def readable(value: float, digits: int = 2, separator: str = ",") -> str:
    """A number with its digits, or with an exponent if it is a huge one."""
    return f"{value:{separator}.{digits}f}" if abs(value) < HUGE else f"{value:.3e}"


class Metric(NamedTuple):
    """A measure of a model on a split.

    Args:
        name: what follows `valid/` and `test/`.
        digits: shown behind the point.
        percent: from 0 to 1, quoted by papers from 0 to 100.
        higher_is_better: False for losses, errors and perplexities.
        title: the name as papers write it; empty: `name`.
    """

    name: str
    digits: int = 4
    percent: bool = False
    higher_is_better: bool = True
    title: str = ""

    def text(self, value: float | None) -> str:
        """`value` with its digits; nothing for None, which stands for a number that is not finite."""
        return "" if value is None else readable(value, self.digits, separator="")

    def rank(self, value: float) -> float:
        """`value` as a number that is better when lower."""
        return -value if self.higher_is_better else value

    def quoted(self, value: float) -> float:
        """`value` in the unit that papers quote."""
        return 100 * value if self.percent else value


LOSS = Metric("loss", higher_is_better=False)  # per token; of every task
PERPLEXITY = Metric("ppl", 2, higher_is_better=False)
ACCURACY = Metric("accuracy", percent=True)
F1 = Metric("f1", percent=True, title="F1")
MACRO_F1 = Metric("macro_f1", percent=True, title="macro F1")


def by_name(metrics: Iterable[Metric | Mapping[str, Any]]) -> dict[str, Metric]:
    """Declared metrics by their names, the loss first; each may be a mapping, as in a JSON file."""
    made = (one if isinstance(one, Metric) else Metric(**one) for one in (LOSS, *metrics))
    return {one.name: one for one in made}


class Results(NamedTuple):
    """How the numbers of a task are shown, to those who train it and to those who only watch.

    Args:
        metrics: that the task declares.
        monitor: the metric that weights are chosen by.
        unit: of a loss, that people think in: ppl, bpc, bits/byte; empty if that is nats per token.
    """

    metrics: Sequence[Metric]
    monitor: str
    unit: str

    def headline(self, loss: float) -> str:
        """A loss in the unit that people think in; empty if that is nats per token."""
        if self.unit in ("", "ppl"):
            return f"ppl {PERPLEXITY.text(math.exp(loss) if loss < 700 else math.inf)}" if self.unit else ""
        return f"{self.unit} {loss / math.log(2):.3f}"

    def describe(self, values: Mapping[str, float | None]) -> str:
        """Metrics in a line, each with its digits."""
        known = by_name(self.metrics)
        return "  ".join(f"{name} {known.get(name, LOSS).text(value)}" for name, value in values.items())

    def best(self, values: Mapping[str, float]) -> str:
        """The monitored metric with its name."""
        shown = self.describe({self.monitor: values[self.monitor]})
        return (self.headline(values["loss"]) or shown) if self.monitor == "loss" else shown

    def summary(self, values: Mapping[str, float]) -> list[str]:
        """All metrics with their names: first the monitored one, in the unit people think in."""
        first = self.best(values)
        others = [self.describe({name: value}) for name, value in values.items()]
        return [first, *(text for text in others if text.split()[0] != first.split()[0])]
