"""Jobs that wait to be run, and which of them may start next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from .place import ENDED, FAILURES, RUNNING
from .plan import Job


class Queue(Protocol):
    """Where a launcher takes its jobs from."""

    def __len__(self) -> int:
        """How many are left that nobody has finished, those that run elsewhere included."""
        ...

    def take(self) -> Job | None:
        """The next job to start; None if all that are left run elsewhere, or none is left."""
        ...

    def give_back(self, job: Job) -> None:
        """A job that was taken, but runs elsewhere."""

    def ended(self, job: Job, state: str) -> None:
        """A job that was taken has come to its end, or was stopped."""


class PlannedJobs:
    """The jobs of a plan that are neither finished nor, without `retry`, failed; `settled` hears of all others."""

    def __init__(self, jobs: Iterable[Job], retry: bool, settled: Callable[[Job, str], None]) -> None:
        self._waiting, self._settled = deque(jobs), settled
        self._retried = {job.number for job in self._waiting if retry}

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> Job | None:
        for _ in range(len(self._waiting)):
            job = self._waiting.popleft()
            state = job.place.state()
            if state == RUNNING:
                self._retried.discard(job.number)  # whoever runs it tries it again
                self._waiting.append(job)
            elif state in ENDED or (state in FAILURES and job.number not in self._retried):
                self._settled(job, state)
            else:
                return job
        return None

    def give_back(self, job: Job) -> None:
        self._waiting.append(job)

    def ended(self, job: Job, state: str) -> None:
        return None
