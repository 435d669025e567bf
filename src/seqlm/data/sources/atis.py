"""ATIS: questions about flights, with a tag for every word and an intent for every sentence."""

from __future__ import annotations

from ..corpus import SPLITS
from .iob import LABEL, TAGS, WORDS, Iob


class Atis(Iob):
    """The Airline Travel Information System set: `path` is the folder with train, valid and test.

    Each holds seq.in, seq.out and label, a sentence on each line. C. T. Hemphill, J. J. Godfrey and G. R. Doddington
    (1990), split as in C.-W. Goo et al., "Slot-Gated Modeling" (2018).
    """

    files = (WORDS, TAGS, LABEL)
    needed = SPLITS
