"""sweep.json in the folder of a sweep: the words that were given last, and the jobs that they make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError, describe
from ..files import read_json, to_json, write_atomically
from .place import Place
from .plan import Job, Plan


class Entry(NamedTuple):
    """A job as files name it: its digest, the name of its run, and the words that make it, as a title."""

    digest: str
    name: str
    title: str

    def place(self, folder: Path) -> Place:
        return Place(folder, self.name, self.digest)


def entry_of(plan: Plan, job: Job) -> Entry:
    return Entry(job.place.digest, job.place.run.name, plan.title(job))


def entries_in(values: Iterable[Any]) -> list[Entry]:
    """Entries that were written as JSON. Raises TypeError if these are none."""
    found = [Entry(*map(str, value)) for value in values]
    if any("/" in part or part.startswith(".") for one in found for part in (one.digest, one.name)):
        raise TypeError("a job is in no other folder")
    return found


def keep(plan: Plan, words: Sequence[str]) -> None:
    """Write what a sweep consists of into its folder."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    kept = {"words": list(words), "jobs": [entry_of(plan, job) for job in plan.jobs]}
    write_atomically(plan.folder / "sweep.json", to_json(kept, indent=1) + "\n")


def kept(folder: Path) -> tuple[list[str], list[Entry]]:
    """The words and the jobs of the last command for a sweep; its runs if none were kept, as of a search.

    Raises ConfigError if there is neither.
    """
    file = folder / "sweep.json"
    try:
        found = read_json(file)
        return [str(word) for word in found["words"]], entries_in(found["jobs"])
    except FileNotFoundError:
        if runs := [path.parent.name for path in sorted(folder.glob("[!.]*/run.json"))]:
            return [], [Entry(name.rpartition("-")[2], name, name) for name in runs]
        raise ConfigError(f"{folder} is no sweep: it has no {file.name}; seqlm sweep NAME WORDS begins one") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} cannot be read ({describe(error)}); the words of the sweep write it again") from None
