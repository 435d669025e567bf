"""The price of losing and believing nothing: checkpoints checked and saved, caches verified; and that of logs."""

from __future__ import annotations

import io
import math
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from ..cache import entries
from ..config.compose import compose_words
from ..config.verb_schema import BenchConfig
from ..training.launch import train
from ..training.loggers.base import Opening
from ..training.loggers.run_logger import RunLogger
from ..training.loggers.tensorboard import TensorBoard

SAVES, STEPS_BETWEEN = 3, 4
MODELS = {"default": [], "650 units, words": ["data/tokenizer=word", "model.hidden_size=650"]}
LARGEST = 2**30  # bytes of a cache entry
RECORDS = 500
TAGS = ("loss", "ppl", "bpc", "grad_norm", "lr", "tokens_per_s")
BYTES_A_SECOND = 2**27  # of the time there is


def measure_safety(options: BenchConfig) -> list[dict[str, Any]]:
    """Measure short runs that save often, and the opening of a cache; prints a line for each.

    The share of the time of training is that of a run which saves at the default interval and does nothing else.
    """
    print("\nmilliseconds of a checkpoint and of a step, and the share of checkpoints at the default interval")
    rows = [_saving(name, words) for name, words in MODELS.items()]
    opening = _opening(min(LARGEST, int(BYTES_A_SECOND * options.seconds)))
    return [*rows, opening, _logging(rows[0]["step_ms"])]


def _saving(name: str, words: Sequence[str]) -> dict[str, Any]:
    every = compose_words(words)[0].checkpoint.every or math.inf
    with tempfile.TemporaryDirectory() as folder:
        short = [
            f"train.steps={SAVES * STEPS_BETWEEN}",
            f"checkpoint.every={STEPS_BETWEEN}",
            "train.eval_every=1000000",
        ]
        config, choices = compose_words([*words, *short, f"train.log_every={STEPS_BETWEEN}", f"run.root={folder}"])
        with redirect_stdout(io.StringIO()):
            run = train(config, choices).run
        facts, records = run.info(), run.records()
    save = facts["saving_seconds"] / (SAVES + 1)  # one at the beginning
    speed = statistics.median(record["train/tokens_per_s"] for record in records if "train/loss" in record)
    step = facts["tokens"] / facts["steps"] / speed
    share = save / (save + every * step)
    print(f"  {name:<26}{1e3 * save:>8.0f}{1e3 * step:>8.0f}{share:>9.2%}", flush=True)
    return {"what": "saving", "model": name, "save_ms": round(1e3 * save, 1), "step_ms": round(1e3 * step, 1),
            "every": every, "share": round(share, 5)}  # fmt: skip


def _opening(size: int) -> dict[str, Any]:
    """Seconds of opening a cache entry for the first time in a process, its bytes in the memory of the system."""

    def make(aside: Path) -> None:
        piece = os.urandom(2**20)
        with (aside / "tokens.bin").open("wb") as file:
            for _ in range(max(1, size // len(piece))):
                file.write(piece)

    with tempfile.TemporaryDirectory() as folder:
        entry = Path(folder) / "entry"
        entries.entry(entry, make, lambda _: None)
        start = time.perf_counter()
        assert entries.is_whole(entry)
        seconds = (time.perf_counter() - start) * 1e9 / size
    print(f"opening a cache that is verified: {seconds:.2f} seconds a GB ({size / 1e9:.2g} GB)", flush=True)
    return {"what": "opening", "gb": round(size / 1e9, 3), "seconds_per_gb": round(seconds, 3)}


def _logging(step_ms: float) -> dict[str, Any]:
    """Milliseconds of a record in metrics.jsonl and TensorBoard, and its share of the steps between two."""
    every = compose_words([])[0].train.log_every
    with tempfile.TemporaryDirectory() as folder:
        logger = RunLogger(Opening(Path(folder)), {"tensorboard": TensorBoard()})
        start = time.perf_counter()
        for step in range(RECORDS):
            logger.scalars(step, step, float(step), {f"train/{tag}": 1.0 + step for tag in TAGS})
        logger.flush()
        record_ms = 1e3 * (time.perf_counter() - start) / RECORDS
        logger.close("finished")
    share = record_ms / (record_ms + every * step_ms)
    print(f"logs: {record_ms:.2f} milliseconds a record, {share:.3%} of the time of training", flush=True)
    return {"what": "logging", "record_ms": round(record_ms, 3), "every": every, "share": round(share, 6)}
