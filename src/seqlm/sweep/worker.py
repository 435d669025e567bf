"""The process of one job: its output goes to its log, its error is kept, and it stops when its launcher is gone."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing.connection import Connection, wait

from ..config.schema import Config
from ..config.values import load_config
from ..errors import SeqlmError, Stopped, describe, print_error
from ..runs.lock import LeaseLost
from .place import Taken
from .plan import Job


def work(job: Job, title: str, threads: int | None, environment: Mapping[str, str], launcher: Connection) -> None:
    """Run `job` to its end in this process, and leave it with the exit code of `seqlm train`, or that of Taken.

    A run that is there is resumed. `threads` is its share, which a run that has begun keeps as it was. It saves and
    stops once nobody holds the other end of `launcher`: it was closed, or the launcher has ended, however it did.
    """
    os.setsid()  # Ctrl-C of the terminal is for the launcher, which asks each job to stop
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # until the loop has its own way
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    received, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    threading.Thread(target=_stop_when_asked, args=(launcher, received), daemon=True).start()
    os.environ.update(environment)
    try:
        with job.place.held():
            if job.place.ended():  # by another launcher, since this one looked
                return
            begin_log(job, title)
            train_job(job, threads)
    except Taken as error:
        sys.exit(error.exit_code)


def begin_log(job: Job, title: str) -> None:
    """Send all output of this process to the log of a job, under its title, and forget how it failed before."""
    job.place.settle_log()
    with job.place.log.open("ab") as log:
        _write_to(log.fileno())
    print(title, flush=True)
    job.place.set_failure(None)


def train_job(job: Job, threads: int | None) -> None:
    """Train a job, or resume it; an error is kept and ends the process with its code.

    `threads` is for a run that has not begun and whose words give no number of its own.
    """
    from ..training.launch import train

    try:
        train(with_threads(job, threads), job.choices, job.words, job.callbacks())
    except Stopped as error:
        sys.exit(print_error(error))
    except LeaseLost as error:  # the failure of nobody: another machine runs this job
        print_error(error)
        sys.exit(Taken.exit_code)
    except (SeqlmError, OSError) as error:
        code = print_error(error)
        job.place.set_failure(describe(error), exit_code=code, words=job.words)
        sys.exit(code)
    except Exception as error:
        traceback.print_exc()
        job.place.set_failure(f"{type(error).__name__}: {error}", exit_code=1, words=job.words)
        sys.exit(1)


def with_threads(job: Job, threads: int | None) -> Config:
    """The config of a job with the threads of its run, if that has begun: another number may round differently."""
    if job.config.threads is not None:
        return job.config
    started = job.place.run.config.is_file()
    return replace(job.config, threads=load_config(job.place.run.config).threads if started else threads)


def _stop_when_asked(launcher: Connection, received: int) -> None:
    """Send a signal to this process, unless one has come already, to all processes at once: a second one would kill."""
    if received not in wait([launcher, received]):
        os.kill(os.getpid(), signal.SIGTERM)


def _write_to(descriptor: int) -> None:
    """Send all output of this process to a file."""
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        stream.flush()
        os.dup2(descriptor, number)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
