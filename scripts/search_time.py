"""The time that pruning spares: the same forty trials of a search twice, pruned and trained to their ends.

    python scripts/search_time.py [TRIALS]

Trials are drawn at random, so that both searches have the same; two at a time, by the command that users type. Writes
results/search-time.json; to be run on a machine that has nothing else to do.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from seqlm.device import hardware
from seqlm.runs.folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "results" / "search-time.json"
WORDS = [
    "data=markov", "data.tokens=20000", "model.num_layers=1", "train.steps=600", "train.eval_every=30", "jobs=2",
    "search=optim.lr=log(1e-3,1e-1) model.hidden_size=int(8,48,8) model=choice(lstm,gru)", "sampler=random",
]  # fmt: skip
PRUNERS = ("none", "median")


def search(pruner: str, trials: int) -> dict[str, Any]:
    """One search: seconds by the clock, steps of training, and the best loss that it found."""
    with tempfile.TemporaryDirectory() as folder:
        words = [*WORDS, f"pruner={pruner}", f"trials={trials}"]
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "seqlm", "sweep", "s", *words], cwd=folder, check=True)
        seconds = time.perf_counter() - start
        infos = [RunFolder(path.parent).info() for path in Path(folder, "outputs", "s").glob("*/run.json")]
        return {
            "pruner": pruner,
            "seconds": round(seconds, 1),
            "trials": len(infos),
            "pruned": sum(info["status"] == "pruned" for info in infos),
            "steps": sum(info["steps"] for info in infos),
            "best": min(info["metrics"]["valid/loss"] for info in infos if info["status"] == "finished"),
        }


def main(trials: int) -> None:
    """Do both searches, and keep what came of them if they were whole."""
    rows = [search(pruner, trials) for pruner in PRUNERS]
    whole, pruned = rows
    spared = {key: 1 - pruned[key] / whole[key] for key in ("seconds", "steps")}
    record = {"hardware": hardware(torch.device("cpu")), "torch": torch.__version__, "spared": spared, "rows": rows}
    print(json.dumps(record, indent=1))
    if trials == 40:
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
