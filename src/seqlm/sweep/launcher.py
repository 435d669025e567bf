"""Processes for the jobs of a plan, on this machine: forked from one that has imported torch, several at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from ..training.signals import StopSignal
from .display import Display
from .place import ENDED, FAILURES, Taken
from .plan import Job, Plan
from .queue import Queue
from .worker import work

POLL_SECONDS = 0.25
ELSEWHERE_SECONDS = 1.0  # between two looks at jobs that another launcher runs
PRELOAD = [  # dynamo: by the first step of an optimizer
    "seqlm.training.launch", "seqlm.training.loggers.tensorboard", "seqlm.sweep.worker", "torch._dynamo",
]  # fmt: skip
STOPPING = {
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU,
}  # fmt: skip


def prepare(also: Sequence[str] = ()) -> None:
    """Start the process that the others are forked from, which imports torch meanwhile, and what is named `also`."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([*PRELOAD, *also])
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # to ask for GPUs in it would keep its forks from them
    resource_tracker.ensure_running()  # which the fork server starts otherwise, and that unblocks signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # those that come to all processes do not end it
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass
class Running:
    """A job that runs, where, and since when. It stops once its `leash` is closed."""

    job: Job
    process: Any
    leash: Connection
    slot: int
    since: float


class Launcher:
    """Runs jobs of a plan, `slots` at once, each with its share of the cores and a GPU, if there are some."""

    def __init__(self, plan: Plan, slots: int, display: Display) -> None:
        self.plan, self.display = plan, display
        self.problems: dict[int, str] = {}  # of jobs that failed now, by number
        self._threads = max(1, _cores() // slots) if slots > 1 else None  # alone: torch's choice
        self._gpus = _gpus()
        self._free = list(range(slots))
        self._stopping = False
        self._running: list[Running] = []

    def run(self, queue: Queue) -> int:
        """Run the jobs of a queue until none is left; those that run elsewhere are waited for.

        Returns the number of the signal that stopped it, or 0. Every job that ran has then stopped, at a checkpoint.
        """
        (self.plan.folder / ".sweep").mkdir(parents=True, exist_ok=True)
        look_again = 0.0
        with StopSignal() as stop:
            while self._running or (queue and not stop.number):
                if stop.number:
                    self._stop(len(queue))
                while queue and self._free and not stop.number and time.monotonic() >= look_again:
                    if (job := queue.take()) is not None:
                        self._start(job)
                    elif queue:
                        look_again = time.monotonic() + ELSEWHERE_SECONDS
                        self.display.waiting(len(queue), bool(self._running))
                self._wait()
                for one in [one for one in self._running if not one.process.is_alive()]:
                    self._end(one, queue)
                    look_again = 0.0
                self.display.refresh()
            return stop.number

    def _wait(self) -> None:
        """Until a job ends, or it is time to look how they do."""
        for one in self._running:
            one.job.place.settle_log()
            self.display.progress(one.slot, one.job, time.monotonic() - one.since)
        if self._running:
            wait([one.process.sentinel for one in self._running], POLL_SECONDS)
        else:
            time.sleep(POLL_SECONDS)

    def _start(self, job: Job) -> None:
        slot = self._free.pop(0)
        shared = self._gpus and job.config.device in ("auto", "cuda")
        environment = {"CUDA_VISIBLE_DEVICES": self._gpus[slot % len(self._gpus)]} if shared else {}
        context = multiprocessing.get_context("forkserver")
        end, leash = context.Pipe(duplex=False)
        words = (job, self.plan.title(job), self._threads, environment, end)
        process = context.Process(target=work, args=words, daemon=True)
        process.start()
        end.close()
        self._running.append(Running(job, process, leash, slot, time.monotonic()))
        self.display.started(slot, job)

    def _end(self, one: Running, queue: Queue) -> None:
        one.process.join()
        one.leash.close()
        code = one.process.exitcode
        self._running.remove(one)
        self._free = sorted([*self._free, one.slot])
        one.job.place.settle_log()
        if code == Taken.exit_code:
            queue.give_back(one.job)
            self.display.dropped(one.slot)
            return
        state = one.job.place.state()
        if state in FAILURES:
            self.problems[one.job.number] = one.job.place.failure()
        elif state not in ENDED and not self._stopping:
            how = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
            self.problems[one.job.number] = f"{how}; the same command resumes it"
        queue.ended(one.job, state)
        self.display.ended(one.slot, one.job, state, time.monotonic() - one.since, self.problems.get(one.job.number))

    def _stop(self, left: int) -> None:
        """Ask all that run to stop at a checkpoint, once."""
        if not self._stopping:
            self._stopping = True
            self.display.stopping(len(self._running), left)
            for one in self._running:
                one.leash.close()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> list[str]:
    """The CUDA devices that this process may use, by the names that CUDA_VISIBLE_DEVICES knows them by."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible is not None else list(map(str, range(torch.cuda.device_count())))
    return [name.strip() for name in names if name.strip()]
