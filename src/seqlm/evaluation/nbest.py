"""Choosing among hypotheses by their own scores and a language model's: n-best lists, and minimal pairs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np


class Hypothesis(NamedTuple):
    """A text that is one of several.

    Args:
        text: its words
        score: what another system thinks of it, as a logarithm: higher is better
        errors: how wrong it is, 0 for a right one; None if that is not known
        log_p: ln p of the text by the language model
    """

    text: str
    score: float
    errors: float | None = None
    log_p: float = math.nan


class Weighted(NamedTuple):
    """A weight of the language model, and the errors that it makes."""

    weight: float
    errors: float


def choose(group: Sequence[Hypothesis], weight: float) -> int:
    """The place of the hypothesis with the highest score + weight ln p; the first of equals."""
    return int(np.argmax([one.score + weight * one.log_p for one in group]))


def errors(groups: Sequence[Sequence[Hypothesis]], weight: float) -> float:
    """The errors of the chosen hypotheses. Raises ValueError if those of one are not known."""
    return sum(_known(group[choose(group, weight)]) for group in groups)


def search_weight(groups: Sequence[Sequence[Hypothesis]]) -> Weighted:
    """The weight of at least 0 with the fewest errors, exactly: between two weights where no choice changes.

    The hypothesis that a group chooses at a weight w is the highest of the lines score + w ln p, so that it changes at
    the corners of their upper envelope only. Of the intervals between corners with the fewest errors the one is taken
    that is nearest to 0, at its middle: a weight that is not needed is not given. F. J. Och, Minimum Error Rate
    Training in Statistical Machine Translation, ACL 2003.
    """
    total, changes = 0.0, defaultdict[float, float](float)
    for group in groups:
        path = _choices(group)
        known = [_known(group[place]) for _, place in path]
        total += known[0]
        for (corner, _), before, after in zip(path[1:], known, known[1:], strict=False):
            changes[corner] += after - before
    best, corners = Weighted(0.0, total), sorted(changes)
    for corner, following in zip_longest(corners, corners[1:], fillvalue=2 * corners[-1] if corners else 0.0):
        total += changes[corner]
        if total < best.errors:
            best = Weighted((corner + following) / 2, total)
    return best


def _known(hypothesis: Hypothesis) -> float:
    if hypothesis.errors is None:
        raise ValueError(f"the errors of {hypothesis.text!r} are not known")
    return hypothesis.errors


def _choices(group: Sequence[Hypothesis]) -> list[tuple[float, int]]:
    """The places that are chosen as the weight grows, each with the weight that it is chosen from."""
    current = choose(group, 0.0)
    found = [(0.0, current)]
    while True:
        now = group[current]
        steeper = [
            ((now.score - one.score) / (one.log_p - now.log_p), -one.log_p, place)
            for place, one in enumerate(group)
            if one.log_p > now.log_p
        ]
        if not steeper:
            return found
        corner, _, current = min(steeper)
        found.append((corner, current))


class Pair(NamedTuple):
    """Two texts that differ in little, of which `good` should be the more probable one."""

    good: str
    bad: str
    kinds: dict[str, str]  # what the pair tests, by the name of the field that says it


def accuracy(margins: Sequence[float]) -> float:
    """The share of pairs whose margin, ln p(good) - ln p(bad), is above 0; half of one for a margin of 0."""
    return sum(1.0 if margin > 0 else 0.5 if margin == 0 else 0.0 for margin in margins) / len(margins)
