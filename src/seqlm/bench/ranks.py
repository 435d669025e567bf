"""Training by several ranks, on as many cores as by one process: tokens a second, and the time that ranks wait."""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from ..config.verb_schema import BenchConfig
from ..device import keep_freed_memory
from ..training.distributed import Pending, Ranks
from .neighbour import DEFAULT_RUN
from .steps import STEPS, TURN, WARM_UP, Recipe, seqlm_model, seqlm_step
from .timing import MOST_RUNS, Run, take_turns

RECIPES = {"default": DEFAULT_RUN, "zaremba_small": STEPS["zaremba_small"]}  # the second with 10,000 words
FIRST = "1 process, 2 threads"
GROUPS = {FIRST: (1, 2), "2 ranks, 1 thread each": (2, 1), "1 process, 1 thread": (1, 1)}  # processes, threads of each
PATIENCE = timedelta(minutes=10)
START = "spawn"  # how processes come into being


class _Timed(Pending):
    """An operation whose waiting is added up."""

    def __init__(self, pending: Pending, ranks: TimedRanks) -> None:
        self._pending, self._ranks = pending, ranks

    def wait(self) -> None:
        start = time.perf_counter()
        self._pending.wait()
        self._ranks.waited += time.perf_counter() - start


class TimedRanks(Ranks):
    """Ranks that know how long they have waited for each other, in seconds."""

    waited = 0.0

    def begin_adding(self, tensor: Tensor) -> Pending:
        """Add over all ranks, and count the time from `wait` to its end."""
        return _Timed(super().begin_adding(tensor), self)


def measure_ranks(options: BenchConfig) -> list[dict[str, Any]]:
    """Measure whole training steps of the same batch by one process and by two; prints a line for each."""
    rows = []
    for name, recipe in RECIPES.items():
        with ExitStack() as held:
            groups = {
                label: held.enter_context(_group(recipe, count, threads)) for label, (count, threads) in GROUPS.items()
            }
            found = take_turns(groups, options.seconds)
        size = recipe.bptt * recipe.batch
        print(f"\ntraining by ranks: {name}, {recipe.batch} rows of {recipe.bptt}, vocabulary {recipe.vocabulary:,}")
        print(f"  {'processes':<24}{'ms':>9}{'tokens/s':>10}{'x first':>9}{'waiting':>9}")
        for label, (waited, seconds) in found.items():
            row = {
                "model": name,
                "processes": label,
                "ms": round(1e3 * seconds, 3),
                "tokens_per_s": round(size / seconds, 1),
                "times_first": round(found[FIRST][1] / seconds, 3),
                "waiting": round(waited / seconds, 4),
            }
            rows.append(row)
            shown = f"{row['ms']:>9.1f}{row['tokens_per_s']:>10,.0f}{row['times_first']:>9.2f}"
            print(f"  {label:<24}{shown}{100 * waited / seconds:>8.1f}%", flush=True)
    return rows


@contextmanager
def _group(recipe: Recipe, count: int, threads: int) -> Iterator[Run]:
    """Processes that are ready: a call has them do a turn; seconds of a step that rank 0 waited, and of all of it."""
    context: Any = multiprocessing.get_context(START)
    with tempfile.TemporaryDirectory(prefix="seqlm-") as folder:
        pairs = [context.Pipe() for _ in range(count)]
        processes = [
            context.Process(target=_serve, args=(theirs, recipe, rank, count, threads, folder), daemon=True)
            for rank, (_, theirs) in enumerate(pairs)
        ]
        for process in processes:
            process.start()

        def turn(steps: int) -> tuple[float, float]:
            for ours, _ in pairs:
                ours.send(steps)
            return [ours.recv() for ours, _ in pairs][0]  # type: ignore[no-any-return]

        try:
            for _, theirs in pairs:
                theirs.close()
            turn(WARM_UP)
            steps = max(1, min(MOST_RUNS, round(TURN / turn(1)[1])))
            yield lambda: turn(steps)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _serve(connection: Connection, recipe: Recipe, rank: int, count: int, threads: int, folder: str) -> None:
    """Do as many steps as asked, after one that warms the caches; answers the mean seconds of waiting and of a step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks; it ends this one
    torch.set_num_threads(threads)
    keep_freed_memory()  # as `seqlm train` does
    if count > 1:
        meeting = (Path(folder) / "meeting").as_uri()
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count, timeout=PATIENCE)
    ranks = TimedRanks(rank, count)
    torch.manual_seed(0)
    step = seqlm_step(recipe, seqlm_model(recipe, "auto"), torch.device("cpu"), "float32", ranks)
    generator = torch.Generator().manual_seed(0)
    with suppress(EOFError):
        while True:
            steps = connection.recv()
            batches = [
                torch.randint(recipe.vocabulary, (recipe.bptt + 1, recipe.batch), generator=generator).chunk(count, 1)
                for _ in range(steps + 1)
            ]
            step(batches.pop()[rank])
            ranks.waited, start = 0.0, time.perf_counter()
            for batch in batches:
                step(batch[rank])
            connection.send((ranks.waited / steps, (time.perf_counter() - start) / steps))
