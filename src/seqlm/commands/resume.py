"""seqlm resume: go on from the newest checkpoint of a run."""

from __future__ import annotations

from collections.abc import Sequence

from ..training.launch import resume
from .words import run_and_words


def main(words: Sequence[str]) -> None:
    """`seqlm resume RUN [key=value ...]`."""
    resume(*run_and_words("resume", words))
