"""Text to tokens: how fast a large file is read, counted and encoded."""

from __future__ import annotations

import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from ..config.verb_schema import BenchConfig
from ..data.encode import encode_split, fit_tokenizer
from ..data.sources.text import TextCorpus
from ..data.tokenizers.text import KINDS

WORDS = 20_000  # types, drawn as in a text: the n-th with a probability of about 1 / n
LARGEST = 100  # MB
MB_A_SECOND = 5  # of the time there is: so large is the file


def measure_encoding(options: BenchConfig) -> list[dict[str, Any]]:
    """Measure seconds of fitting and encoding a file of at most 100 MB, by tokenizer; prints a line for each."""
    size = min(LARGEST, max(1, round(MB_A_SECOND * options.seconds)))
    rows = []
    print(f"\n{size} MB of text, from the file to tokens in the cache")
    print(f"  {'tokenizer':<12}{'seconds':>9}{'MB/s':>8}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "text.txt"
        file.write_text(_text(size * 2**20), encoding="utf-8")
        for kind in ("word", "char"):
            start = time.perf_counter()
            _encode(file, kind, Path(folder))
            seconds = time.perf_counter() - start
            speed = round(size / seconds, 2)
            rows.append({"tokenizer": kind, "mb": size, "seconds": round(seconds, 3), "mb_per_s": speed})
            print(f"  {kind:<12}{seconds:>9.2f}{size / seconds:>8.1f}", flush=True)
    return rows


def _text(size: int) -> str:
    """So many characters: lines of made-up words, the same few megabytes again and again."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(WORDS)]
    chosen = draw.choices(words, [1 / (rank + 10) for rank in range(WORDS)], k=500_000)
    piece = "".join(f"{word}\n" if index % 20 == 19 else f"{word} " for index, word in enumerate(chosen))
    return (piece * (size // len(piece) + 1))[:size]


def _encode(file: Path, kind: str, cache: Path) -> None:
    """Read a file as training does the first time, with a cache of its own."""
    before = os.environ.get("SEQLM_CACHE")
    os.environ["SEQLM_CACHE"] = str(cache)
    try:
        corpus = TextCorpus(train=str(file), valid=str(file))
        encode_split(corpus, "train", fit_tokenizer(corpus, KINDS[kind]()))
    finally:
        os.environ.pop("SEQLM_CACHE")
        if before is not None:
            os.environ["SEQLM_CACHE"] = before
