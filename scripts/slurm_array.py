"""A sweep of 24 jobs as a job array of SLURM, disturbed at random; each loss is compared with an undisturbed run's.

    python scripts/slurm_array.py [JOBS] [--real FOLDER] [--seed=N]

On four nodes of the stand-in for a cluster (tests/slurm/standin.py), or with --real on a SLURM that is started in
FOLDER on this machine alone (scripts/slurm_here.py; as root). Jobs get SIGUSR1, as before their time limit, are
preempted, and lose their nodes. Writes results/slurm-standin.json or results/slurm-real.json. Exit code 0 if every
number is the same.
"""

from __future__ import annotations

import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import slurm_here  # noqa: E402

from tests.slurm.standin import StandIn  # noqa: E402

WORDS = [
    "data=markov", "data.tokens=4000", "data.symbols=5", "model.hidden_size=12", "model.num_layers=1", "optim.lr=0.01",
    "train.batch_size=4", "train.bptt=7", "train.eval_batch_size=3", "train.steps=1000", "train.eval_every=500",
    "train.log_every=50", "checkpoint.every=100", "sample.tokens=0", "threads=1",
]  # fmt: skip
TAGS = ("step", "tokens", "train/loss", "train/grad_norm", "valid/loss")


class RealSlurm:
    """The same disturbances for a real SLURM with two nodes of one core."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> RealSlurm:
        slurm_here.start(self.folder)
        return self

    def __exit__(self, *error: object) -> None:
        subprocess.run(["scancel", "--me"], check=False)
        time.sleep(3)
        slurm_here.stop(self.folder)

    def left(self) -> int:
        return len(self._queue())

    def disturb(self, how: str, draw: random.Random) -> bool:
        """Disturb a job that runs; False if none does."""
        running = [(name, node) for name, state, node in self._queue() if state == "RUNNING" and "_" in name]
        if not running:
            return False
        name, node = draw.choice(running)
        if how == "USR1":
            with suppress(subprocess.TimeoutExpired):  # it tries for minutes while the job is ending
                words = ["scancel", "--batch", "--signal=USR1", name]
                subprocess.run(words, check=False, timeout=5, stderr=subprocess.DEVNULL)
        elif how == "preemption":
            words = ["--partition=high", f"--nodelist={node}", "--time=1", "--output=/dev/null", "--wrap=sleep 1"]
            subprocess.run(["sbatch", *words], check=False, stdout=subprocess.DEVNULL)
        else:
            slurm_here.kill_node(self.folder, node)
            time.sleep(1)
            slurm_here.start_node(self.folder, node)
        return True

    def ended(self) -> tuple[list[str], int]:
        """The states of all tasks, and how often they were started again."""
        shown = subprocess.run(["scontrol", "show", "job", "--oneliner"], capture_output=True, text=True).stdout
        facts = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in shown.splitlines()]
        tasks = [one for one in facts if "ArrayTaskId" in one]
        return [one["JobState"] for one in tasks], sum(int(one["Restarts"]) for one in tasks)

    def _queue(self) -> list[tuple[str, str, str]]:
        words = ["squeue", "--array", "--noheader", "--format=%i|%T|%N"]
        lines = subprocess.run(words, capture_output=True, text=True).stdout.splitlines()
        return [(name, state, node) for name, state, node in (line.split("|") for line in lines)]


class FourNodes(StandIn):
    """The stand-in with the same disturbances."""

    def left(self) -> int:
        return sum(job.state in ("PENDING", "RUNNING", "COMPLETING") for job in self.jobs)

    def disturb(self, how: str, draw: random.Random) -> bool:
        """Disturb a job that runs; False if none does."""
        if running := self.running():
            job = draw.choice(running)
            if how == "USR1":
                self.warn(job)
            elif how == "preemption":
                self.preempt(job)
            else:
                self.lose(job.node)
        return bool(running)

    def ended(self) -> tuple[list[str], int]:
        """The states of all tasks, and how often they were started again."""
        return [job.state for job in self.jobs], sum(job.restarts for job in self.jobs)


def seqlm(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "seqlm", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def losses(sweep: Path) -> dict[str, list[list[Any]]]:
    """Every logged loss of every run, by the name of its folder, without clock readings."""
    found = {}
    for file in sorted(sweep.glob("*/metrics.jsonl")):
        records = [json.loads(line) for line in file.read_text().splitlines()]
        found[file.parent.name] = [[record.get(tag) for tag in TAGS] for record in records]
    return found


def main(words: list[str]) -> int:
    real = Path(words[words.index("--real") + 1]).resolve() if "--real" in words else None
    seed = int(next((word.partition("=")[2] for word in words if word.startswith("--seed=")), "1"))
    count = int(next((word for word in words if word.isdigit()), "24"))
    os.environ["PYTHONPATH"] = str(ROOT / "src")
    draw, pause = random.Random(seed), (8.0, 20.0) if real else (5.0, 15.0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        grid = [*WORDS, "model=lstm,gru", f"seed=range(1,{count // 2 + 1})"]
        cluster = RealSlurm(real) if real else FourNodes(folder / "cluster")
        done: Counter[str] = Counter()
        with cluster:
            os.environ["PATH"] = f"{folder / 'cluster' / 'bin'}{os.pathsep}{os.environ['PATH']}"
            began = time.monotonic()
            print(seqlm(folder, "sweep", "grid", *grid, "slurm=true", "slurm.time=1:00:00"), flush=True)
            while cluster.left():
                time.sleep(draw.uniform(*pause))
                how = draw.choice(("USR1", "preemption", "lost node"))
                done[how] += cluster.disturb(how, draw)
            seconds = time.monotonic() - began
            states, restarts = cluster.ended()
            told = seqlm(folder, "sweep", "grid", "status")
        print(told, flush=True)
        seqlm(folder, "sweep", "straight", *grid, "jobs=2")
        disturbed, straight = (losses(folder / "outputs" / name) for name in ("grid", "straight"))
    same = sum(disturbed.get(name) == found for name, found in straight.items())
    version = subprocess.run(["sbatch", "--version"], capture_output=True, text=True).stdout.strip() if real else ""
    typed = ["FOLDER" if "/" in word else word for word in words]
    record = {
        "command": " ".join(["python scripts/slurm_array.py", *typed]),
        "cluster": f"{version}, two nodes of one core on one machine" if real else "tests/slurm/standin.py, four nodes",
        "jobs": len(straight), "disturbances": dict(done), "starts": len(states) + restarts, "states": Counter(states),
        "status": told.splitlines()[0], "same_numbers": same, "seconds": round(seconds), "seed": seed,
        "python": platform.python_version(),
    }  # fmt: skip
    file = ROOT / "results" / f"slurm-{'real' if real else 'standin'}.json"
    file.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))
    return 0 if same == len(straight) == count and set(states) == {"COMPLETED"} else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
