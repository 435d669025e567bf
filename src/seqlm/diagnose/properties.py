"""Simple properties of each token of a text, which a unit may or may not have come to follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..data.tokenizers.text import EOS

QUOTES = {"“": "”", "``": "''", "«": "»", "„": "“"}
BRACKETS = {"(": ")", "[": "]", "{": "}", "-lrb-": "-rrb-", "-lcb-": "-rcb-"}
LINE_ENDS = (EOS, "\n")


def properties(pieces: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """For each token, after it has been read: inside quotes or brackets (1 or 0), its place in the line, and so on.

    Quotes and brackets that a line leaves open end with it.
    """
    ends = np.array([piece in LINE_ENDS for piece in pieces])
    blank = np.array([piece.isspace() or piece == EOS for piece in pieces])
    after_blank = np.concatenate([[True], blank[:-1]])
    return {
        "inside quotes": _inside(pieces, QUOTES, '"'),
        "inside brackets": _inside(pieces, BRACKETS),
        "place in line": _places(ends),
        "digit": np.array([any(sign.isdigit() for sign in piece) for piece in pieces], dtype=float),
        "word start": (~blank & after_blank).astype(float),
    }


def most_varied(pieces: Sequence[str], size: int) -> int:
    """Where the stretch of `size` tokens begins in which the most properties change."""
    every = [values[: len(values) // size * size].reshape(-1, size) for values in properties(pieces).values()]
    if len(pieces) < size:
        return 0
    changes = np.sum([part.min(1) != part.max(1) for part in every], axis=0)
    return int(changes.argmax()) * size


def _inside(pieces: Sequence[str], pairs: Mapping[str, str], both: str = "") -> NDArray[np.float64]:
    """1 from what opens to what closes; `both` does either. The opening token is inside, the closing one is not."""
    inside, open_pairs = np.zeros(len(pieces)), list[str]()
    for place, piece in enumerate(pieces):
        if piece in LINE_ENDS:
            open_pairs.clear()
        elif open_pairs and piece == open_pairs[-1]:
            open_pairs.pop()
        elif piece in pairs:
            open_pairs.append(pairs[piece])
        elif piece == both:
            open_pairs.append(both)
        inside[place] = bool(open_pairs)
    return inside


def _places(ends: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Tokens since the beginning of the line, the first token of a line being 0."""
    places = np.arange(len(ends))
    begins = np.where(np.concatenate([[True], ends[:-1]]), places, 0)
    return (places - np.maximum.accumulate(begins)).astype(float)
