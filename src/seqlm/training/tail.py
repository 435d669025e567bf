"""A run as its folder shows it: the lines that its training prints, made of its records. Imports no torch."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..config.metrics import Metric, Results, by_name
from ..config.values import load_config
from ..config.verb_schema import TailConfig
from ..errors import ConfigError
from ..files import read_bounded
from ..runs.folder import RunFolder
from ..runs.follow import Follower
from ..runs.table import share_done
from .console import Console, clock

LOOK_SECONDS = 1.0  # between two looks
ENDED = {"finished": False, "pruned": False, "failed": True, "diverged": True}  # whether it is a failure
OWN = ("train/loss", "train/lr", "train/grad_norm", "train/tokens_per_s")  # of a record of steps


def watch_run(run: RunFolder, options: TailConfig) -> bool:
    """Print the records of a run until it has ended, or once; returns whether it has failed."""
    watched, follower = Watched(run, options.samples), Follower(run)
    watched.take(follower.news().records, last=options.lines)
    while True:
        status = watched.status()
        # What was written before the status: its last records.
        news = follower.news()
        if news.back_to is not None:
            watched.go_back(news.back_to)
        watched.take(news.records)
        watched.tell(status)
        if status in ENDED:
            return ENDED[status]
        if not options.follow:
            return status == "crashed"
        time.sleep(LOOK_SECONDS)


class Watched:
    """A run whose records are printed as its training would; where it stands, and which evaluation is the best."""

    def __init__(self, run: RunFolder, samples: bool) -> None:
        self._run, self._samples, self._told = run, samples, ""
        self._info = run.info()
        declared = [Metric(**one) for one in self._info["declared_metrics"]]
        self._results = Results(declared, str(self._info["monitor"]), str(self._info.get("unit", "")))
        self._limits = load_config(run.config).train.limits
        self._record: Mapping[str, Any] = {}
        self._bests: list[tuple[tuple[float, float], dict[str, float], int]] = []  # rank, metrics, step: each better
        self._console = Console(self._results.headline, self._share, lambda: self._record.get("seconds", 0.0), 0.0)

    def status(self) -> str:
        """The status of the run now: crashed, if it says that it is running and its process is gone."""
        try:
            self._info = self._run.info()
        except ConfigError:  # deleted, perhaps
            return "unknown"
        return self._run.status(self._info)

    def take(self, records: Sequence[Mapping[str, Any]], last: int | None = None) -> None:
        """Print records, or only the `last` of them."""
        shown = 0 if last is None else max(0, len(records) - last)
        for place, record in enumerate(records):
            self._record = record
            self._console.at(record["step"])
            if "valid/loss" in record:
                self._evaluation(record, place >= shown)
            elif place >= shown:
                self._steps(record)

    def go_back(self, step: int) -> None:
        """Say that what follows comes again, or in another way."""
        self._bests = [best for best in self._bests if best[2] <= step]
        self._console.back_to(step)
        self._console.write(f"back to step {step:,}: a resume, or a rollback")

    def tell(self, status: str) -> None:
        """Print the status if it is another one than before."""
        told = f"{self._run.path}  {status}"
        if status in ("failed", "diverged"):
            told += f": {self._info.get('error') or 'see its output'}"
        elif status in ("interrupted", "crashed"):
            why = ": its process is gone" * (status == "crashed")
            told += f"{why}; resume it with: seqlm resume {shlex.quote(str(self._run.path))}"
        elif status in ENDED and self._bests:
            told += f"  best {self._results.best(self._bests[-1][1])} @ {self._bests[-1][2]:,}"
            told += f"  [{clock(self._info.get('seconds') or 0.0)}]"
        if told != self._told:
            self._console.write(told)
            self._told = told

    def _evaluation(self, record: Mapping[str, Any], shown: bool) -> None:
        values = {name: value for name in by_name(self._results.metrics) if (value := record.get(f"valid/{name}"))
                  is not None}  # fmt: skip
        monitored = by_name(self._results.metrics)[self._results.monitor]
        rank = (_rank(monitored, values), values.get("loss", math.inf))
        better = rank < (self._bests[-1][0] if self._bests else (math.inf, math.inf))
        if better:
            self._bests.append((rank, values, record["step"]))
        if shown and {"loss", self._results.monitor} <= values.keys():
            verdict = "best so far" if better else "no improvement"
            text = self._sample(record["step"]) if self._samples else ""
            summary = self._results.summary(values)
            self._console.evaluation(record["step"], summary, verdict, record.get("seconds", 0.0), text)

    def _steps(self, record: Mapping[str, Any]) -> None:
        if "train/rollbacks" in record:
            self._console.write(f"step {record['step']:>7,}  rolled back, {record['train/rollbacks']} times by now")
        elif "train/skipped" in record:
            self._console.write(f"step {record['step']:>7,}  batch skipped, {record['train/skipped']} by now")
        elif all(isinstance(record.get(name), (int, float)) for name in OWN):
            targets = self._info.get("epoch_tokens")
            epoch = record["tokens"] / targets if targets and "tokens" in record else None
            best = self._results.best(self._bests[-1][1]) if self._bests else ""
            self._console.training(epoch, record, best, self._bests[-1][2] if self._bests else 0)

    def _sample(self, step: int) -> str:
        try:
            return read_bounded(self._run.samples / f"step-{step:09d}.txt", 1 << 20).decode("utf-8", "replace")
        except (OSError, ConfigError):
            return ""

    def _share(self) -> float:
        return share_done(self._limits, self._record, self._info.get("epoch_tokens"))


def _rank(monitored: Metric, values: Mapping[str, float]) -> float:
    """The monitored metric, lower is better; infinite where it is not known."""
    return monitored.rank(values[monitored.name]) if monitored.name in values else math.inf
