"""The space of a search: the values that each key may have, as typed in `search='optim.lr=log(1e-4,1e-1) ...'`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError

ALLOWED = "log(a,b), float(a,b[,step]) or uniform(a,b[,step]), int(a,b[,step]), logint(a,b), choice(a,b,...)"
PIECE = re.compile(r"(?P<key>[+]?[A-Za-z_][\w./@-]*)=(?P<kind>\w+)\((?P<inside>.*)\)", re.DOTALL)
KINDS = {"log": (False, True), "float": (False, False), "uniform": (False, False), "int": (True, False),
         "logint": (True, True)}  # whether whole, and whether even over the logarithms  # fmt: skip
DIGITS = 4  # significant ones of a value drawn from a range of real numbers: enough, and a word that can be read
CLOSING = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Range:
    """A key whose values are numbers from `low` to `high`, in steps if there is one."""

    key: str
    typed: str
    low: float
    high: float
    step: float | None
    whole: bool
    log: bool

    @property
    def ends(self) -> list[str]:
        """Its words at both ends."""
        return [self._word(self.low), self._word(self.high)]

    def suggest(self, trial: Any) -> str:
        """The word of this key in a trial of Optuna's, which draws it unless it is drawn."""
        if self.whole:
            low, high = int(self.low), int(self.high)
            return self._word(trial.suggest_int(self.key, low, high, step=int(self.step or 1), log=self.log))
        return self._word(trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log))

    def _word(self, value: float) -> str:
        if self.whole:
            return f"{self.key}={int(value)}"
        rounded = float(f"{value:.{DIGITS if self.step is None else 12}g}")
        return f"{self.key}={min(max(rounded, self.low), self.high)!r}"


@dataclass(frozen=True)
class Choice:
    """A key, or a config group, whose value is one of several words."""

    key: str
    typed: str
    options: tuple[str, ...]

    @property
    def ends(self) -> list[str]:
        """Its words, all of them."""
        return [f"{self.key}={option}" for option in self.options]

    def suggest(self, trial: Any) -> str:
        """The word of this key in a trial of Optuna's, which draws it unless it is drawn."""
        return f"{self.key}={trial.suggest_categorical(self.key, self.options)}"


Dimension = Range | Choice


def parse_space(text: str) -> list[Dimension]:
    """The dimensions of a search in the order typed. Raises ConfigError that names the piece that is wrong."""
    found: list[Dimension] = []
    for position, piece in _pieces(text):
        try:
            one = _dimension(piece)
            if one.key.lstrip("+") in (known.key.lstrip("+") for known in found):
                raise ValueError(f"{one.key} is searched twice")
            found.append(one)
        except ValueError as error:
            raise ConfigError(f"search: {piece} (character {position + 1}): {error}") from None
    if not found:
        raise ConfigError(f"search= is empty; write search='optim.lr=log(1e-4,1e-1)'; allowed: {ALLOWED}")
    return found


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """The parts between spaces, each with its place; spaces in brackets or quotes separate nothing."""
    start = 0
    for part, end in _split(text, " \t\n"):
        if part.strip():
            yield start + len(part) - len(part.lstrip()), part.strip()
        start = end


def _split(text: str, separators: str) -> Iterator[tuple[str, int]]:
    """The parts of a text between separators that are in no bracket or quote, and where the next one begins."""
    start = 0
    inside: list[str] = []  # what closes each bracket or quote that is open
    for index, letter in enumerate(text):
        if inside and letter == inside[-1]:
            inside.pop()
        elif inside and inside[-1] in "'\"":
            continue
        elif letter in "'\"":
            inside.append(letter)
        elif letter in CLOSING:
            inside.append(CLOSING[letter])
        elif letter in separators and not inside:
            yield text[start:index], index + 1
            start = index + 1
    yield text[start:], len(text)


def _dimension(piece: str) -> Dimension:
    found = PIECE.fullmatch(piece)
    if found is None:
        raise ValueError(f"write key=kind(...), without spaces around =; allowed: {ALLOWED}")
    key, kind = found["key"], found["kind"]
    values = [part.strip() for part, _ in _split(found["inside"], ",")]
    if kind == "choice":
        if "" in values or len(values) < 2 or len(set(values)) < len(values):
            raise ValueError("choice needs two options or more, each once: choice(lstm,gru)")
        return Choice(key, piece, tuple(values))
    if kind not in KINDS:
        raise ValueError(f"{kind}(...) is unknown; allowed: {ALLOWED}")
    whole, log = KINDS[kind]
    if not 2 <= len(values) <= (2 if log else 3):
        raise ValueError(f"{kind} takes {'two numbers' if log else 'two numbers, or three with a step'}: {ALLOWED}")
    numbers = [_number(value, whole) for value in values]
    low, high, step = numbers[0], numbers[1], numbers[2] if len(numbers) > 2 else None
    _check_range(kind, low, high, step)
    return Range(key, piece, low, high, step, whole, log)


def _check_range(kind: str, low: float, high: float, step: float | None) -> None:
    if not low < high:
        raise ValueError(f"{low:g} must be below {high:g}")
    if kind.startswith("log") and low <= 0:
        raise ValueError(f"{low:g} has no logarithm; begin above 0")
    if step is not None:
        if step <= 0:
            raise ValueError(f"the step {step:g} must be above 0")
        last = low + step * math.floor((high - low) / step + 1e-9)
        if abs(last - high) > 1e-9 * max(abs(high), step):
            raise ValueError(f"steps of {step:g} from {low:g} do not come to {high:g}; end at {last:g}")


def _number(text: str, whole: bool) -> float:
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        raise ValueError(f"{text or 'nothing'} is no {'whole ' * whole}number") from None
    if not math.isfinite(value):
        raise ValueError(f"{text} is not finite")
    return value
