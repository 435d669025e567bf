"""The callback of a trial's run: it reports each evaluation, and ends the run if the pruner says so."""

from __future__ import annotations

import sys
from pathlib import Path

from ..training.callbacks import Callback, PruneTraining, TrainingState
from . import study as studies
from .objective import Objective


class ReportTrial(Callback):
    """Reports the objective to the search in `folder` at each evaluation, and asks it whether to go on.

    An evaluation that was reported before the run was resumed is not reported again. A journal that cannot be written
    ends no run: what is missing is reported when the run has ended.
    """

    def __init__(self, folder: Path, number: int, objective: Objective, pruner: str) -> None:
        self._objective, self._number = objective, number
        self._study = studies.open_study(folder, pruner)

    def on_evaluation(self, state: TrainingState) -> None:
        evaluation = len(state.progress.ranks)
        value = self._objective.at_evaluation(state.metrics)
        if evaluation == 0 or value is None:
            return
        try:
            trial = studies.trials_of(self._study)[self._number]
            studies.report(self._study, trial, {evaluation: value})
            trial = studies.trials_of(self._study)[self._number]
            prune = studies.is_open(trial) and self._study.pruner.prune(self._study, trial)
        except (OSError, RuntimeError) as error:  # the latter: its lock was broken, after this process was stopped
            print(f"note: evaluation {evaluation} was not reported to the search: {error}", file=sys.stderr)
            return
        if prune and not state.ended:
            raise PruneTraining(f"{self._objective.text(value)} at evaluation {evaluation} is worse than other trials")


def report_trial(folder: Path, number: int, objective: Objective, pruner: str) -> list[Callback]:
    """The callbacks of the run of a trial."""
    return [ReportTrial(folder, number, objective, pruner)]
