"""Many trainings, evaluations and resumes in one process: nothing grows."""

from __future__ import annotations

import gc
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from .hooks import replace
from .runner import Campaign, Case
from .settings import TASKS, training, words_of

WARM, ROUNDS = 6, {"short": 3, "full": 25}  # rounds that are not counted, and those that are
MEGABYTES = 24.0  # that a process may grow by: allocators keep some
TASKS_HERE = tuple(TASKS)[:4]


def case(case: Case) -> None:
    task = TASKS_HERE[case.number % len(TASKS_HERE)]
    rounds = ROUNDS["short" if case.number < 1 else "full"]
    words = words_of(case, task, "dropout", "train.steps=8", "checkpoint.every=1", "train.eval_every=2")
    act = training(case, words)

    def live() -> None:
        from seqlm import cli

        sizes = []
        for number in range(WARM + rounds):
            act()
            _call(cli.main, "resume", "run", "train.steps=10")
            _call(cli.main, "eval", "run")
            shutil.rmtree("run")
            gc.collect()
            if number >= WARM - 1:
                sizes.append(_size())
        Path("sizes").write_text(json.dumps(sizes), encoding="utf-8")

    done = case.run(live, timeout=280)
    if done.code:
        raise AssertionError(done.tail(20))
    sizes = json.loads((case.folder / "sizes").read_text(encoding="utf-8"))
    case.count("rounds", rounds)
    for index, (what, allowed) in enumerate((("MB", MEGABYTES), ("open files", 0), ("threads", 0))):
        values = [size[index] for size in sizes]
        if values[-1] - values[0] > allowed:
            case.fail("grows", f"{task}: {what}: {values[0]:.0f} -> {values[-1]:.0f} in {rounds} rounds")


def _call(main: Callable[[], None], *words: str) -> None:
    import sys

    sys.argv = ["seqlm", *words]
    main()


def _size() -> tuple[float, int, int]:
    """Resident megabytes, open files, threads."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20, len(os.listdir("/proc/self/fd")), threading.active_count()


def _keep_files() -> None:
    """Whatever is evaluated leaves a file open."""
    kept = []
    original = __import__("seqlm.runs.checkpoint", fromlist=["verify"]).verify

    def verify(path: Path) -> str:
        kept.append(open(path / "meta.json"))  # noqa: SIM115
        return str(original(path))

    replace("seqlm.runs.checkpoint:verify", verify)


CAMPAIGN = Campaign(
    "soak",
    "trainings, resumes and evaluations one after the other in one process",
    case,
    sizes={"short": 1, "full": 5},
    mutants={"keep-files-open": _keep_files},
)
