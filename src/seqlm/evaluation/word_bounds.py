"""Words of a line that is made of characters or bytes: where they begin, and their text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..data.tokenizers.text import EOS

Space: TypeAlias = Literal["leading", "trailing"]


def word_starts(pieces: Sequence[str], kind: str, space: Space) -> list[int]:
    """Where words begin, each of which has a letter in it, but for the end of the line."""
    if kind == "word":
        return list(range(len(pieces)))
    starts: list[int] = []
    has_letter = False  # the word that is open
    after_space = False
    for place, piece in enumerate(pieces):
        is_space = piece.isspace()
        begins = is_space if space == "leading" else after_space and not is_space
        if place == 0 or (has_letter and (begins or piece == EOS)):
            starts.append(place)
            has_letter = False
        has_letter, after_space = has_letter or not is_space, is_space
    return starts if has_letter else starts[:-1] or starts  # white space where a text stops counts to its last word


def word_text(pieces: Sequence[str], ids: NDArray[np.int64], kind: str) -> str:
    """The text of a word, its space included."""
    if kind == "byte" and pieces != [EOS]:
        return bytes(ids.tolist()).decode("utf-8", "replace")
    return "".join(pieces)
