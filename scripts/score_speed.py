"""The speed of `seqlm score`: lines one at a time, as they would come from a pipe, and read together.

    python scripts/score_speed.py

The two ways take turns over the same lines of random tokens, on one thread. What a model learned does not matter to
its speed, so each is trained for one step. Writes results/score-speed.json; to be run on a machine that has nothing
else to do.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import seqlm
from seqlm.bench.timing import take_turns
from seqlm.device import hardware
from seqlm.evaluation.lines import LineScorer

RECORD = Path(__file__).resolve().parents[1] / "results" / "score-speed.json"
MODELS = {
    "32 units, characters": ("model.hidden_size=32", "data/tokenizer=char"),
    "64 units, 5,000 words": ("model.hidden_size=64", "data/tokenizer=word", "data.tokenizer.max_size=5000"),
}
ROWS = (  # model, tokens a line, whether rank and entropy are asked for
    ("32 units, characters", 20, False),
    ("32 units, characters", 130, False),
    ("64 units, 5,000 words", 23, False),
    ("64 units, 5,000 words", 23, True),
)
LINES, SECONDS = 256, 10.0


def random_lines(vocabulary: list[str], length: int, between: str) -> list[str]:
    """Lines of half to one and a half times `length` tokens."""
    draw = random.Random(1)
    known = [token for token in vocabulary if token.isalpha()]
    return [between.join(draw.choices(known, k=draw.randint(length // 2, 3 * length // 2))) for _ in range(LINES)]


def microseconds(scorer: LineScorer, lines: list[str]) -> dict[str, float]:
    """Time of a token, in microseconds, by how the lines are read."""

    def timed(groups: Iterable[list[str]]) -> tuple[float, float]:
        start = time.perf_counter()
        tokens = sum(line.scored for group in groups for line in scorer.score(group))
        return 0.0, (time.perf_counter() - start) / tokens

    ways = {"alone": lambda: timed([line] for line in lines), "together": lambda: timed([lines])}
    return {way: 1e6 * seconds for way, (_, seconds) in take_turns(ways, SECONDS).items()}


def measure(folder: Path) -> list[dict[str, Any]]:
    """A row for each of ROWS, with the size of batches that the command has by itself."""
    runs = {
        name: seqlm.train(
            *words, "train.steps=1", "sample.tokens=0", {"run.root": str(folder), "run.name": f"{number}"}
        )
        for number, (name, words) in enumerate(MODELS.items())
    }
    rows = []
    for name, length, ranked in ROWS:
        run = runs[name]
        lines = random_lines(run.tokenizer.vocabulary, length, "" if "characters" in name else " ")
        times = microseconds(seqlm.load_scorer(run, ranked=ranked), lines)
        rows.append({"model": name, "vocabulary": len(run.tokenizer), "length": length, "ranked": ranked, **times})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder))
    record = {"hardware": hardware(torch.device("cpu")), "torch": torch.__version__, "threads": 1, "rows": rows}
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
