"""How fast training and evaluation are while other processes keep the processors busy.

OpenMP's threads wait for each other by spinning. Beside a busy process one of them is off its processor often, and the
other burns time that the system then takes from both. How long they spin before they sleep is GOMP_SPINCOUNT.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch

from ..config.verb_schema import BenchConfig
from ..tasks.base import EVALUATED_AT_ONCE
from .steps import Recipe, seqlm_model, seqlm_step

DEFAULT_RUN = Recipe(320, [320], bptt=64, batch=32, vocabulary=113)  # about what `seqlm train` trains
BUSY = "while True: pass"
ROUNDS = 3


def measure_neighbour(options: BenchConfig) -> list[dict[str, Any]]:
    """Measure beside no, one and two busy processes, with spinning as it is set and as OpenMP has it by itself."""
    print("\nbeside busy processes: tokens/s of training and of evaluation, and the share of an idle machine's")
    print(f"  {'GOMP_SPINCOUNT':<16}{'busy':>5}{'training':>15}{'evaluation':>15}")
    spins = (os.environ.get("GOMP_SPINCOUNT"), None)
    found: dict[Any, list[tuple[float, float]]] = {(spin, busy): [] for spin in spins for busy in (0, 1, 2)}
    for _ in range(ROUNDS):  # in turns: the machine may change meanwhile
        for (spin, busy), speeds in found.items():
            with _busy(busy):
                speeds.append(_child(spin, options.seconds / 6))
    rows = []
    medians_of = {
        key: dict(zip(("training", "evaluation"), map(median, zip(*speeds, strict=True)), strict=True))
        for key, speeds in found.items()
    }
    for (spin, busy), medians in medians_of.items():
        shares = {what: round(speed / medians_of[spin, 0][what], 3) for what, speed in medians.items()}
        rows.append({"spin": spin, "busy": busy, "tokens_per_s": medians, "of_idle": shares})
        shown = "".join(f"{medians[what]:>10,.0f} {100 * share:>3.0f}%" for what, share in shares.items())
        print(f"  {spin or 'not set':<16}{busy:>5}{shown}", flush=True)
    return rows


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Some processes that do nothing but compute."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def _child(spin: str | None, seconds: float) -> tuple[float, float]:
    """Tokens a second of training and evaluation in a process of its own, where OpenMP reads its environment."""
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    environment |= {} if spin is None else {"GOMP_SPINCOUNT": spin}
    code = f"from seqlm.bench.neighbour import speeds; print(*speeds({seconds!r}))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    training, evaluation = (round(float(speed), 1) for speed in done.stdout.split())
    return training, evaluation


def speeds(seconds: float) -> tuple[float, float]:
    """Tokens a second of training steps, and of reading with one stream."""
    recipe = DEFAULT_RUN
    model: Any = seqlm_model(recipe, "auto")
    step = seqlm_step(recipe, model, torch.device("cpu"), "float32")
    tokens = torch.randint(recipe.vocabulary, (recipe.bptt + 1, recipe.batch))
    training = _rate(lambda: step(tokens), recipe.bptt * recipe.batch, seconds)
    stream = torch.randint(recipe.vocabulary, (EVALUATED_AT_ONCE + 1, 1))
    carry = model.init_carry(1)
    with torch.no_grad():
        evaluation = _rate(lambda: model.nll(stream[:-1], stream[1:], carry), EVALUATED_AT_ONCE, seconds)
    return training, evaluation


def _rate(function: Any, tokens: int, seconds: float) -> float:
    for _ in range(3):
        function()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        function()
        done += tokens
    return done / (time.perf_counter() - start)
