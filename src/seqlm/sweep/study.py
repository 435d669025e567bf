"""The memory of a search: a study of Optuna's in a journal file, which several processes read and write at once.

Locks are files that are created exclusively, which holds on local file systems and on NFS from version 3 on. One whose
holder was killed is broken after 30 s.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from ..errors import ConfigError
from .search_plan import JOURNAL
from .space import Dimension

NAME = "search"
RANDOM_TRIALS = 10  # before TPE has enough to go by
COMPLETE_TRIALS = 5  # before the median of them means something
FIRST_PRUNED = 2  # evaluation: the first says little, and warm-up is not over

optuna.logging.set_verbosity(optuna.logging.ERROR)


class JournalLock(JournalFileOpenLock):
    """The lock of a journal; whoever gets it cuts off what a process killed in the middle of a line has left."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def acquire(self) -> bool:
        acquired = super().acquire()
        _cut_off_unfinished_line(self._path)
        return acquired


def journal_of(folder: Path) -> Path:
    """The journal file of the search in a sweep's folder."""
    return folder / JOURNAL


def open_study(folder: Path, pruner: str, directions: Sequence[str] | None = None) -> optuna.Study:
    """The study in a sweep's folder; with `directions` it is made if there is none.

    Raises ConfigError if its journal is damaged, KeyError if there is no study and none is to be made.
    """
    path = journal_of(folder)
    try:
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path), JournalLock(path)))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ConfigError(
            f"{path} is damaged ({type(error).__name__}: {error}); the runs beside it are not: seqlm runs {folder}. "
            "Choose another name for a new search"
        ) from error
    if directions is None:
        return optuna.load_study(study_name=NAME, storage=storage, pruner=make_pruner(pruner))
    return optuna.create_study(
        study_name=NAME,
        storage=storage,
        pruner=make_pruner(pruner),
        directions=[optuna.study.StudyDirection[direction.upper()] for direction in directions],
        load_if_exists=True,
    )


def make_pruner(name: str) -> optuna.pruners.BasePruner:
    """The pruner of that name; its steps are evaluations, counted from 1."""
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=COMPLETE_TRIALS, n_warmup_steps=FIRST_PRUNED)
    if name == "hyperband":  # the most evaluations are those of the first complete trial
        return optuna.pruners.HyperbandPruner(min_resource=FIRST_PRUNED)
    return optuna.pruners.NopPruner()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other launchers, here and on other machines, from choosing a trial meanwhile."""
    lock = JournalFileOpenLock(str(folder / ".sweep" / "choosing"))
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def draw(study: optuna.Study, trial: Trial, space: Sequence[Dimension], sampler: str, seed: int) -> list[str]:
    """The words of a trial; what is drawn already, before a kill, stays.

    The generator is seeded for each trial by its number: which command or process asks changes nothing.
    """
    number = int(numpy.random.SeedSequence([seed, trial.number]).generate_state(1)[0])
    if sampler == "tpe":
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=number)
    else:
        study.sampler = optuna.samplers.RandomSampler(seed=number)
    return [one.suggest(trial) for one in space]


def as_trial(study: optuna.Study, found: FrozenTrial) -> Trial:
    """A trial that is not told yet, to be drawn further or reported to."""
    return Trial(study, found._trial_id)


def trials_of(study: optuna.Study) -> list[FrozenTrial]:
    """All trials by number."""
    return study.get_trials(deepcopy=False)


def is_open(trial: FrozenTrial) -> bool:
    """Whether nobody has told yet how a trial came out."""
    return trial.state == TrialState.RUNNING


def report(study: optuna.Study, found: FrozenTrial, values: dict[int, float]) -> None:
    """Report the values of evaluations, by number, that are not reported yet."""
    new = {number: value for number, value in values.items() if number not in found.intermediate_values}
    if new and is_open(found):
        trial = as_trial(study, found)
        for number, value in new.items():
            trial.report(value, number)


def tell(study: optuna.Study, number: int, values: Sequence[float] | None, *, pruned: bool = False) -> None:
    """Settle a trial: complete with values, pruned, or failed; nothing if another process has told it."""
    state = TrialState.PRUNED if pruned else TrialState.COMPLETE if values else TrialState.FAIL
    given: Any = list(values) if values and not pruned else None
    study.tell(number, given, state=state, skip_if_finished=True)


def _cut_off_unfinished_line(path: Path) -> None:
    with path.open("rb+") as handle:
        size = handle.seek(0, os.SEEK_END)
        if not size:
            return
        handle.seek(-1, os.SEEK_END)
        if handle.read(1) != b"\n":
            handle.seek(0)
            handle.truncate(handle.read().rfind(b"\n") + 1)
