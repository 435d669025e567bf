"""Times and memory of functions that are run in turns."""

from __future__ import annotations

import random
import statistics
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..config.verb_schema import BenchConfig
from ..engines.product import ways_to_map

LEAST_ROUNDS = 5
MOST_RUNS = 20  # of a turn
Run = Callable[[], tuple[float, float]]  # seconds of the forward pass, and of all


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def with_bf16(names: Iterable[str], options: BenchConfig) -> dict[str, tuple[str, str]]:
    """Name and precision of contestants by label: beside each in float32 one in bfloat16, but for the reference."""
    found = {name: (name, options.precision) for name in names}
    if options.precision == "float32":
        found |= {f"{name} bf16": (name, "bf16") for name in found if name != "scan"}
    return found


def warmed(run: Run, seconds: float) -> Run:
    """A turn of about so many seconds: the first run warms the caches, as in a training; the mean of the others counts.

    A run that is longer is a turn. It is run now, to see how many are one.
    """
    count = min(MOST_RUNS, round(seconds / run()[1]))

    def turn() -> tuple[float, float]:
        found = [run() for _ in range(1 + count)]
        forward, both = (statistics.mean(times) for times in zip(*(found[1:] or found), strict=True))
        return forward, both

    return turn


def take_turns(contestants: Mapping[Any, Run], seconds: float) -> dict[Any, tuple[float, float]]:
    """Medians of forward pass and both, of runs taken in turns until the time is over.

    Each round has an order of its own: what ran before leaves caches warm for its like, and cold for others.
    """
    times: dict[Any, list[tuple[float, float]]] = {key: [] for key in contestants}
    order, dice = list(contestants.items()), random.Random(0)
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < LEAST_ROUNDS or time.perf_counter() < end:
        dice.shuffle(order)
        for key, run in order:
            times[key].append(run())
        rounds += 1
    return {
        key: (statistics.median(f for f, _ in found), statistics.median(b for _, b in found))
        for key, found in times.items()
    }


def gemm_peak(device: torch.device) -> float:
    """Floating-point operations a second of a large product in float32, by whichever library is the fastest at it."""
    x, weight = torch.randn(2, 2048, 2048, device=device)
    ways, best = ways_to_map(weight, len(x)).values(), float("inf")
    for _ in range(10):
        for multiply in ways:
            start = now(device)
            multiply(x, weight, None)
            best = min(best, now(device) - start)
    return float(2 * 2048**3 / best)


class _Live(TorchDispatchMode):
    """Bytes of tensors that are alive, and their maximum, counting storages made while this is on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.most = 0, 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(tensor, Tensor):
                try:
                    storage = tensor.untyped_storage()
                except NotImplementedError:  # a weight in a library's own order
                    continue
                if storage._cdata not in self.seen:
                    self.seen.add(storage._cdata)
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return result

    def _gone(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def peak_bytes(run: Run, device: torch.device) -> float:
    """Peak memory of a forward and backward pass, besides parameters and inputs."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return float(torch.cuda.max_memory_allocated(device) - before)
    with _Live() as live:
        run()
    return float(live.most)
