"""seqlm rm: delete runs, once it was said which. Imports no torch."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from ..runs.folder import OUTPUTS, RunFolder, find_runs
from .words import pop_flag, pop_option, refuse_flags

# Finished runs are deleted by name only.
STATUSES = ("crashed", "failed", "diverged", "pruned", "interrupted", "damaged")


def main(words: Sequence[str]) -> None:
    """`seqlm rm RUN ... | --status crashed [DIR] [--yes]`: delete runs, after asking. A run that trains is kept.

    Raises ConfigError where nobody can answer and there is no --yes.
    """
    words, status = pop_option(words, "--status", f"one of {', '.join(STATUSES)}")
    words, sure = pop_flag(words, "--yes")
    refuse_flags("rm", words, "runs, --status and --yes")
    runs = _with_status(words, status) if status else [RunFolder.open(word) for word in words]
    if not runs and not status:
        raise ConfigError("seqlm rm needs a run: seqlm rm RUN ..., or --status crashed; `seqlm runs` lists them")
    if not runs:
        print(f"no run is {status}")
        return
    for run in runs:
        print(f"  {run.path}  {_status(run)}, {sum(file.is_file() for file in run.path.rglob('*'))} files")
    if not sure and not _confirmed(len(runs)):
        print("nothing was deleted")
        return
    for run in runs:
        with run.locked():  # raises ConfigError for a run that trains
            shutil.rmtree(run.path)
    print(f"deleted {len(runs)} {'run' if len(runs) == 1 else 'runs'}")


def _with_status(words: Sequence[str], status: str) -> list[RunFolder]:
    if status not in STATUSES:
        raise ConfigError(f"--status={status} is unknown; allowed: {', '.join(STATUSES)}; delete other runs by name")
    places = [Path(word) for word in words] or [OUTPUTS]
    return [run for place in places for run in find_runs(place) if _status(run) == status]


def _status(run: RunFolder) -> str:
    try:
        return run.status()
    except ConfigError:
        return "damaged"


def _confirmed(count: int) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("seqlm rm asks before it deletes, and nobody can answer here; say --yes")
    return input(f"delete {'this run' if count == 1 else f'these {count} runs'}? [y/N] ").strip().lower() in (
        "y",
        "yes",
    )
