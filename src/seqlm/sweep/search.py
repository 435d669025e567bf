"""A search under way: Optuna chooses each trial while others run, and is told how each came out.

All that is known of it is in the journal (`study.py`) and in its runs, so that any command may take it up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from optuna.trial import FrozenTrial

from ..errors import ConfigError
from . import study as studies
from .place import ENDED, FAILURES, PRUNED, RUNNING
from .plan import Job
from .search_plan import SearchPlan, check_same_search

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "not ended"}


class Search:
    """A queue of trials, each a job: those that were begun and that nobody runs, then new ones.

    `settled` hears of a trial that nothing has to be run for.
    """

    def __init__(self, plan: SearchPlan, settled: Callable[[str], None] = lambda text: None) -> None:
        self.plan, self.settled = plan, settled
        self._taken: set[int] = set()  # by this process; one that was killed is left to the next command
        (plan.folder / ".sweep").mkdir(parents=True, exist_ok=True)
        with studies.alone(plan.folder):
            directions = [one.direction for one in plan.objectives]
            self.study = studies.open_study(plan.folder, plan.pruner, directions)
            if "search" in self.study.user_attrs:
                check_same_search(plan, self.study.user_attrs["search"])
            else:
                self.study.set_user_attr("search", plan.kept)
            for trial in self._trials():
                if studies.is_open(trial):
                    self._startable(trial)

    @property
    def told(self) -> int:
        """How many trials have come to their end."""
        return sum(not studies.is_open(trial) for trial in self._trials())

    def counts(self) -> str:
        """How the trials stand, as `20 complete, 17 pruned, 3 failed`."""
        states = Counter(trial.state.name for trial in self._trials())
        return ", ".join(f"{states[state]} {word}" for state, word in STATES.items() if states[state])

    def __len__(self) -> int:
        trials = self._trials()
        waiting = sum(studies.is_open(trial) and trial.number not in self._taken for trial in trials)
        return max(0, self.plan.trials - len(trials)) + waiting

    def take(self) -> Job | None:
        with studies.alone(self.plan.folder):
            for trial in self._trials():
                if studies.is_open(trial) and trial.number not in self._taken and (job := self._startable(trial)):
                    return self._take(job)
            while len(self._trials()) < self.plan.trials:
                number = self.study.ask().number
                if job := self._startable(self._trials()[number]):
                    return self._take(job)
        return None

    def give_back(self, job: Job) -> None:
        self._taken.discard(job.number - 1)

    def ended(self, job: Job, state: str) -> None:
        if state in ENDED or state in FAILURES:
            self._tell(job, state)

    def _take(self, job: Job) -> Job:
        self._taken.add(job.number - 1)
        return job

    def _trials(self) -> list[FrozenTrial]:
        return studies.trials_of(self.study)

    def _startable(self, found: FrozenTrial) -> Job | None:
        """The job of an open trial, whose words are drawn if they are not; None if it runs, or is settled now."""
        trial = studies.as_trial(self.study, found)
        own = studies.draw(self.study, trial, self.plan.space, self.plan.sampler, self.plan.seed)
        title = f"[{found.number + 1}/{self.plan.count}] {' '.join(own)}"
        try:
            job = self.plan.job(found.number, own)
        except ConfigError as error:
            trial.set_user_attr("error", str(error))
            studies.tell(self.study, found.number, None)
            self.settled(f"{title}  failed: {error}")
            return None
        if "run" not in found.user_attrs:
            trial.set_user_attr("words", job.words)
            trial.set_user_attr("run", job.place.run.name)
        state = job.place.state()
        if state in ENDED or state in FAILURES:  # before a kill, elsewhere, or as another trial with these values
            self._tell(job, state)
            self.settled(f"{title}  {state}{self._other(job)}")
        return None if state in (RUNNING, *ENDED, *FAILURES) else job

    def _other(self, job: Job) -> str:
        """The trial that had the values of this one, if there is one."""
        before = self._trials()[: job.number - 1]
        same = [one.number + 1 for one in before if one.user_attrs.get("run") == job.place.run.name]
        return f", as trial {same[0]} with the same values" if same else ""

    def _tell(self, job: Job, state: str) -> None:
        """Report all evaluations of a run that has ended, and how it came out: never a value for one that failed."""
        number, chosen = job.number - 1, self.plan.objectives
        if state in FAILURES:
            studies.tell(self.study, number, None)
            return
        info = job.place.run.info()
        if len(chosen) == 1 and chosen[0].is_metric:
            records = [one for one in job.place.run.records() if "valid/loss" in one and one["step"] > 0]
            values = {n: chosen[0].at_evaluation(one, "valid/") for n, one in enumerate(records, 1)}
            known = {n: value for n, value in values.items() if value is not None}
            studies.report(self.study, self._trials()[number], known)
        found = [value for one in chosen if (value := one.of_run(info)) is not None]
        studies.tell(self.study, number, found if len(found) == len(chosen) else None, pruned=state == PRUNED)
