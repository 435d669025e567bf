"""How each job of a sweep stands: what its files say, joined with what SLURM's queue says of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..sweep.display import last_record, result
from ..sweep.kept import Entry, kept
from ..sweep.place import DIVERGED, ENDED, FAILED, FINISHED, INTERRUPTED, NEW, PRUNED, RUNNING, Place
from .array import arrays, in_queue
from .cluster import SlurmError, Task

PENDING, REQUEUED, LOST = "pending", "requeued", "lost"  # states that only a queue makes
ORDER = (FINISHED, PRUNED, FAILED, DIVERGED, RUNNING, REQUEUED, PENDING, INTERRUPTED, LOST, NEW)
WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD", "CONFIGURING"}


class Standing(NamedTuple):
    """A job, its state, and in a few words how it goes: its result, its node, why it waits, its error."""

    job: Entry
    state: str
    detail: str


def standings(folder: Path) -> tuple[list[Standing], str]:
    """Every job of the last command for a sweep, and of arrays before it; and why SLURM could not be asked, if so.

    Raises ConfigError if the folder is no sweep.
    """
    jobs = {entry.digest: entry for entry in kept(folder)[1]}
    submitted = [entry for array in arrays(folder) for entry in array.jobs]
    known = {entry.digest for entry in submitted}
    for entry in submitted:
        jobs.setdefault(entry.digest, entry)
    tasks: Mapping[str, Task] = {}
    problem = ""
    try:
        tasks = in_queue(folder)
    except SlurmError as error:
        problem = str(error)
    found = [
        _standing(entry, entry.place(folder), tasks.get(entry.digest), entry.digest in known and not problem)
        for entry in jobs.values()
    ]
    return found, problem


def _standing(job: Entry, place: Place, task: Task | None, submitted: bool) -> Standing:
    """The state of one job; `submitted`: SLURM was given it, and could be asked."""
    state = place.state()
    if state in ENDED:
        return Standing(job, state, f"valid {found}" if (found := result(place.run)) else "")
    if task is not None and not task.ended:
        if task.state in WAITING:
            begun = state == INTERRUPTED
            return Standing(
                job, REQUEUED if begun else PENDING, " ".join([_come(place)] * begun + [f"({task.reason})"])
            )
        return Standing(
            job, RUNNING, " ".join(part for part in (f"on {task.node}" * bool(task.node), _come(place)) if part)
        )
    if state in (NEW, INTERRUPTED) and submitted:
        ended = f"by SLURM: {task.state}, {task.reason}" if task else "by SLURM, which knows it no more"
        return Standing(job, LOST, f"{ended}; the same command submits it again")
    if state in (NEW, RUNNING, INTERRUPTED):
        return Standing(job, state, _come(place))
    return Standing(job, state, place.failure().partition("\n")[0])


def _come(place: Place) -> str:
    """How far it has come, by the last line of its metrics."""
    record = last_record(place.run)
    return f"step {record['step']:,}" if record else ""
