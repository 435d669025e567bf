"""seqlm bench: cells, engines, products and whole steps against torch's own kernels and loops by hand.

Contestants of one shape take turns in one process, so that a changing load affects all alike; medians and their
ratios are what counts. Nothing else should run meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..config.values import verb_config
from ..config.verb_schema import BenchConfig
from ..terminal import status
from .words import pop_file


def main(words: Sequence[str]) -> None:
    """`seqlm bench [LEVEL ...] [key=value ...] [--json FILE] [--png FILE]`: measure, print tables, keep them."""
    words, json_file = pop_file(words, "--json")
    words, png_file = pop_file(words, "--png")
    behind_flags = [word for flag, word in zip(words, words[1:], strict=False) if flag.startswith("-")]
    named = [word for word in words if "=" not in word and not word.startswith("-") and word not in behind_flags]
    words = [word for word in words if word not in named] + [f"levels=[{','.join(named)}]"] * bool(named)
    options = verb_config("bench", BenchConfig, words)
    with status("loading torch"):  # once the words are known to be right
        from ..bench.levels import measure_levels
    measure_levels(options, json_file, png_file)
