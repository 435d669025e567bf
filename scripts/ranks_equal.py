"""How far the training of two ranks with 16 rows each is from that of one process with 32, over 200 steps.

    python scripts/ranks_equal.py [CASE ...]

For each case, in float32 and in float64: the same words by one process, by two ranks of torchrun, and, to tell ranks
from rounding, by one process that takes its rows in twice as many parts (`train.accumulate`). Writes
results/ranks-equal.json: the largest difference of a loss that was logged, in shares of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from seqlm.cli import main  # noqa: E402
from seqlm.device import hardware  # noqa: E402

STEPS = 200
COMMON = [
    "train.batch_size=32", f"train.steps={STEPS}", "train.log_every=1", "train.eval_every=20", "sample.tokens=0",
    "threads=1", "checkpoint.every=1000", "engine=scan", "optim.lr=0.001", "model.hidden_size=32",
]  # fmt: skip
TEXT = ["data=markov", "data.tokens=50000", "train.bptt=20"]
TAGS = ["task=tagging", "model=tagger", "data=taipei"]
COPY = ["task=seq2seq", "model=seq2seq", "data=copy"]
CASES = {
    "lm": TEXT,
    "lm, 2 parts": [*TEXT, "train.accumulate=2"],
    "lm, 2 parts, NT-ASGD": [
        *TEXT, "train.accumulate=2", "optim=sgd", "optim.lr=20", "averaging=nt_asgd", "averaging.patience=0",
        "eval_weights=average",
    ],
    "bilm": [*TEXT, "task=bilm", "model=bilm"],
    "cloze": [*TEXT, "task=cloze", "model=cloze"],
    "tagging": TAGS,
    "tagging, 2 parts": [*TAGS, "train.accumulate=2"],
    "seq2seq": COPY,
    "seq2seq, optim.lr=0.01": [*COPY, "optim.lr=0.01"],
}  # fmt: skip
DOUBLE = "SEQLM_SCRIPT_DOUBLE"  # set in a process that trains in float64


def train(words: list[str], ranks: int, folder: Path, double: bool) -> tuple[dict[tuple[int, str], float], bool]:
    """Every loss that a training logs, by step and name, and whether an average of weights had begun."""
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *(["-m", *launcher] if launcher else []), __file__, "train", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", DOUBLE: "1" if double else ""}
    done = subprocess.run(
        [*command, f"run.root={folder}", "run.name=run"], env=environment, cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    records = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = {
        (record["step"], name): record[name]
        for record in records
        for name in ("train/loss", "valid/loss")
        if name in record
    }
    state = torch.load(next((folder / "run" / "checkpoints").glob(f"step-*{STEPS}")) / "state.pt", weights_only=True)
    return losses, state["averaging"]["begun"]


def apart(found: dict[tuple[int, str], float], expected: dict[tuple[int, str], float]) -> float:
    """The largest difference, in shares of the expected number."""
    assert found.keys() == expected.keys() and len(found) > STEPS
    return max(abs(found[key] - value) / abs(value) for key, value in expected.items())


def compare(words: list[str], double: bool) -> dict[str, Any]:
    """One case: how far two ranks, and twice as many parts, are from one process."""
    parts = 2 * (2 if "train.accumulate=2" in words else 1)
    ways = {"one": (words, 1), "ranks": (words, 2), "parts": ([*words, f"train.accumulate={parts}"], 1)}
    found = {}
    for way, (given, ranks) in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            found[way] = train([*COMMON, *given], ranks, Path(folder), double)
    (one, begun), (of_ranks, _), (in_parts, _) = found.values()
    return {"two_ranks": apart(of_ranks, one), "twice_the_parts": apart(in_parts, one), "average_begun": begun}


def measure(names: list[str]) -> None:
    """Compare the cases, print a line for each, and write the record if they are all."""
    rows = []
    print(f"{'case':<28}{'type':<10}{'two ranks':>12}{'more parts':>12}  of 1 process")
    for name in names or CASES:
        for double in (False, True):
            row = {"case": name, "dtype": "float64" if double else "float32"} | compare(CASES[name], double)
            rows.append(row)
            print(
                f"{name:<28}{row['dtype']:<10}{row['two_ranks']:>12.1e}{row['twice_the_parts']:>12.1e}"
                f"{'  averaged' if row['average_begun'] else ''}",
                flush=True,
            )
    if not names:
        record = {"hardware": hardware(torch.device("cpu")), "steps": STEPS, "rows": rows}
        (ROOT / "results" / "ranks-equal.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    if DOUBLE in os.environ:
        if os.environ[DOUBLE]:
            torch.set_default_dtype(torch.float64)
        main()
    else:
        measure(sys.argv[1:])
