"""The jobs of a sweep as job arrays: submitted once, with a script and a record of each array in the sweep's folder."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ..config.trust import typed_trust
from ..config.verb_schema import SlurmConfig
from ..errors import ConfigError, SeqlmError, describe
from ..files import read_json, to_json, write_atomically
from ..runs.lock import Held, held
from ..sweep.kept import Entry, entries_in, entry_of
from ..sweep.plan import Job, Plan
from .cluster import SlurmError, Task, largest_array, queue, submit
from .options import Options, sbatch_options
from .script import batch_script, comment
from .task import keep_job

FOLDER = "slurm"  # in that of the sweep


@dataclass(frozen=True)
class Array:
    """An array that was submitted: its number for SLURM, and the job of each of its tasks."""

    number: str
    jobs: list[Entry]


class Script(NamedTuple):
    """A batch script to be: its file, its options, its text, and the jobs of its tasks."""

    file: Path
    options: Options
    text: str
    jobs: Sequence[Job]
    entries: list[Entry]


def arrays(folder: Path) -> list[Array]:
    """The arrays of a sweep, oldest first. Raises ConfigError for a record that cannot be read."""
    found = []
    for file in sorted((folder / FOLDER).glob("array-*.json"), key=lambda file: int(file.stem.rpartition("-")[2])):
        try:
            record = read_json(file)
            found.append(Array(str(record["number"]), entries_in(record["jobs"])))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{file} is damaged ({describe(error)}); delete it if its jobs have ended") from None
    return found


def in_queue(folder: Path) -> dict[str, Task]:
    """How SLURM says that each job of a sweep stands, by digest; of several tasks of a job the last that has not ended.

    Raises SlurmError, ConfigError.
    """
    known = arrays(folder)
    tasks = queue({one.number for one in known})
    found: dict[str, Task] = {}
    for array in known:
        for index, entry in enumerate(array.jobs):
            task = tasks.get((array.number, index))
            if task is not None and (entry.digest not in found or found[entry.digest].ended):
                found[entry.digest] = task
    return found


def scripts(
    plan: Plan, jobs: Sequence[Job], config: SlurmConfig, words: Sequence[str], first: int, most: int
) -> list[Script]:
    """The scripts that submit some jobs of a plan, numbered from `first`; an array has `most` tasks at most."""
    parts = [jobs[start : start + most] for start in range(0, len(jobs), most)]
    if config.parallel:  # is for all of them
        config = replace(config, parallel=max(1, config.parallel // max(1, len(parts))))
    found = []
    for number, part in enumerate(parts, first):
        file = plan.folder / FOLDER / f"array-{number}.sh"
        options = sbatch_options(config, plan.folder.name, file.with_name("%A_%a.out"), len(part))
        entries = [entry_of(plan, job) for job in part]
        found.append(Script(file, options, _text(plan.folder, config, options, entries, words), part, entries))
    return found


def submit_jobs(plan: Plan, jobs: Sequence[Job], config: SlurmConfig, words: Sequence[str]) -> Iterator[str]:
    """Submit jobs that are due; yields a line for each array. Raises SlurmError: its script is kept, and named."""
    last = max((int(file.stem.rpartition("-")[2]) for file in (plan.folder / FOLDER).glob("array-*.json")), default=0)
    for script in scripts(plan, jobs, config, words, last + 1, largest_array() if jobs else 1):
        script.file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(script.file, script.text, 0o777)
        for job, entry in zip(script.jobs, script.entries, strict=True):
            keep_job(job, entry.title)
        try:
            number = submit(script.file, script.options)
        except SlurmError as error:
            raise SlurmError(f"{error}\nnothing was submitted by {script.file}, which is kept") from None
        record = {"number": number, "jobs": script.entries}
        write_atomically(script.file.with_suffix(".json"), to_json(record, indent=1) + "\n")
        at_once = (script.options["array"] or "").partition("%")[2]
        count = f"{len(script.jobs)} job{'s' * (len(script.jobs) != 1)}" + f", {at_once} at a time" * bool(at_once)
        yield f"submitted array {number}: {count}; {script.file}"


@contextmanager
def submitting(folder: Path) -> Iterator[None]:
    """Keep others from submitting the same sweep meanwhile. Raises SeqlmError if another process does."""
    (folder / ".sweep").mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(held(folder / ".sweep" / "submit.lock"))
        except Held:
            raise SeqlmError(f"{folder} is being submitted by another process; wait for it") from None
        yield


def _text(folder: Path, config: SlurmConfig, options: Options, entries: Sequence[Entry], words: Sequence[str]) -> str:
    about = [
        f"{len(entries)} jobs of the sweep {folder}; each task runs the one whose digest stands in its place.",
        "A run that is warned by USR1 saves, puts its task back into the queue, and resumes when that starts again.",
    ]
    trust = [f"trust=[{','.join(names)}]"] if (names := sorted(typed_trust(words))) else []
    command = ["job", shlex.quote(str(folder)), '"${jobs[$SLURM_ARRAY_TASK_ID]}"', *map(shlex.quote, trust)]
    table = ["jobs=(", *(f"  {entry.digest}  # {comment(entry.title)}" for entry in entries), ")"]
    return batch_script(config, options, about, command, table)
