"""A job of a sweep in a batch job: as it was composed when it was submitted, run by its digest on any node."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from ..config.trust import typed_trust
from ..config.values import config_of, save_values
from ..config.yaml_files import read_saved
from ..errors import ConfigError, SeqlmError, Stopped, describe
from ..runs.lock import LeaseLost
from ..sweep.kept import Entry
from ..sweep.place import Place, Taken
from ..sweep.plan import Job
from ..sweep.worker import begin_log, train_job, with_threads
from ..training.torchrun import launched

LOOK_SECONDS = 2.0  # between two looks at a job that another process holds
PATIENCE_SECONDS = 300.0  # for that process: if its node was lost, its lease outlives it for a minute


def keep_job(job: Job, title: str) -> None:
    """Write a job into the folder of its sweep, for the process that will run it."""
    kept = {
        "title": title,
        "name": job.place.run.name,
        "words": job.words,
        "choices": dict(job.choices),
        "config": asdict(job.config),
    }
    save_values(kept, _file(job.place.run.path.parent, job.place.digest))


def read_job(folder: Path, digest: str) -> tuple[Job, str]:
    """The job that `keep_job` has written, and its title. Raises ConfigError."""
    kept = read_saved(_file(folder, digest))
    try:
        config = replace(config_of(kept["config"]), resume="auto")
        words, name = [str(word) for word in kept["words"]], Entry(digest, str(kept["name"]), "").name
        place = Place(folder, name, digest)
        return Job(0, words, "", config, dict(kept["choices"]), {}, place), str(kept["title"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{_file(folder, digest)} is damaged ({error}); submit the sweep again") from None


def run_job(words: Sequence[str], ranks: int) -> None:
    """`job FOLDER DIGEST [trust=[mylab.]]`: run a job to its end, once; leaves with the exit code of `seqlm train`.

    A job that is finished is left alone, one that has begun is resumed. What it prints goes to its log.
    """
    folder, digest, *trusted = words
    job, title = read_job(Path(folder), digest)
    job = replace(job, config=replace(job.config, trust=sorted(typed_trust(trusted))))  # no file may grant it
    threads = _cores(ranks)
    if launched():  # one of several, started below
        _train_together(job, threads)
        return
    print(f"{title}  on {socket.gethostname()}, log in {job.place.run.path}/log.txt", flush=True)
    with _held(job.place):
        if job.place.ended():
            print(f"{job.place.run.path} is finished already", flush=True)
            return
        begin_log(job, title)
        threading.Thread(target=_settle_log, args=(job.place,), daemon=True).start()
        try:
            if ranks > 1:
                _run_ranks(job, words, ranks)
            else:
                train_job(job, threads)
        finally:
            job.place.settle_log()


def _train_together(job: Job, threads: int | None) -> None:
    """Be one of the ranks of a job; the first of them keeps its error."""
    from ..training.joining import joined
    from ..training.launch import train

    with joined() as ranks:
        try:
            train(with_threads(job, threads), job.choices, job.words, ranks=ranks)
        except (Stopped, LeaseLost):
            raise
        except (SeqlmError, OSError) as error:
            if ranks.leads:
                job.place.set_failure(describe(error), words=job.words)
            raise


def _run_ranks(job: Job, words: Sequence[str], ranks: int) -> None:
    """Run the job with several ranks; if these could keep no error, how they ended is noted."""
    from .ranks import run_ranks

    code = run_ranks(ranks, ["-m", "seqlm.batch", "job", *words])
    if 0 < code < 128 and job.place.failure() == "see its log":
        job.place.set_failure(f"its ranks ended with code {code}; see its log", exit_code=code, words=job.words)
    if code:
        sys.exit(code)


@contextmanager
def _held(place: Place) -> Iterator[None]:
    """Hold a job, once the process that holds it has left, or was lost with its node. Raises Taken."""
    end = time.monotonic() + PATIENCE_SECONDS
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(place.held())
                break
            except Taken:
                if time.monotonic() >= end:
                    raise
                time.sleep(LOOK_SECONDS)
        while place.run.is_held() and time.monotonic() < end:  # its lease may be some seconds younger
            time.sleep(LOOK_SECONDS)
        yield


def _settle_log(place: Place) -> None:
    """Move the log into the run's folder, as soon as that is there."""
    while place.log.parent != place.run.path:
        time.sleep(LOOK_SECONDS)
        place.settle_log()


def _cores(ranks: int) -> int | None:
    """The cores that SLURM gave to each rank; None if it does not say: then torch decides."""
    given = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE", "")
    return max(1, int(given) // ranks) if given.isdigit() else None


def _file(folder: Path, digest: str) -> Path:
    if not digest.isalnum():
        raise SeqlmError(f"{digest!r} is no digest of a job")
    return folder / ".sweep" / f"{digest}.yaml"
