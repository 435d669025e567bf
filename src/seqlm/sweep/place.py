"""Files of one job: its run, its lock, its log, and what is kept of a failure. Its state is read from them alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import ConfigError, SeqlmError
from ..files import read_json, to_json, write_atomically
from ..runs.folder import RunFolder
from ..runs.lock import Held, held, is_held

NEW, RUNNING, INTERRUPTED, FINISHED, FAILED = "new", "running", "interrupted", "finished", "failed"
DIVERGED = "diverged"  # failed by a number that is not finite
PRUNED = "pruned"  # ended by a search, because others are better
ENDED = (FINISHED, PRUNED)
FAILURES = (FAILED, DIVERGED)  # left alone, unless they are to be retried


class Taken(SeqlmError):
    """Another process runs this job."""

    exit_code = 75


class Place:
    """Where a job lives: its run in <folder>/<name>, all else in the hidden folder .sweep beside it, by `digest`."""

    def __init__(self, folder: Path, name: str, digest: str) -> None:
        self.run, self.digest = RunFolder(folder / name), digest
        self._aside = folder / ".sweep"
        self._lock, self._failure = self._aside / f"{digest}.lock", self._aside / f"{digest}.json"
        self._early_log = self._aside / f"{digest}.log"  # until there is a run folder

    def state(self) -> str:
        """NEW, RUNNING (by anybody), INTERRUPTED (killed, too), FINISHED, PRUNED, FAILED or DIVERGED."""
        if self._is_held():
            return RUNNING
        if not self._exists:
            return FAILED if self._failure.is_file() else NEW
        try:
            status = str(self.run.info().get("status"))
        except ConfigError:  # damaged
            return FAILED
        if status in (*ENDED, DIVERGED):
            return status
        if status == RUNNING:  # or its process is gone, on whichever machine that was
            if self.run.is_held():
                return RUNNING
            status = INTERRUPTED
        return FAILED if status == FAILED or self._failure.is_file() else INTERRUPTED

    def ended(self) -> bool:
        """Whether its run is finished or pruned, said without looking at locks."""
        try:
            return self._exists and self.run.info().get("status") in ENDED
        except ConfigError:
            return False

    @property
    def log(self) -> Path:
        """The file that its output goes to: log.txt of the run, once there is one."""
        return self.run.path / "log.txt" if self._exists and not self._early_log.is_file() else self._early_log

    def settle_log(self) -> None:
        """Move the log into the folder of the run, once there is one; who writes to it goes on doing so."""
        if self._exists:
            with suppress(FileNotFoundError):
                self._early_log.rename(self.run.path / "log.txt")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the job, so that it runs once; raises Taken if another process does. Released even by kill -9."""
        self._aside.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(held(self._lock))
            except Held:
                raise Taken(f"{self.run.path} is being run by another process") from None
            for leftover in self.run.path.parent.glob(f".{self.run.name}-*"):  # of a kill before there was a run
                shutil.rmtree(leftover, ignore_errors=True)
            yield

    def _is_held(self) -> bool:
        return is_held(self._lock)

    def failure(self) -> str:
        """The error that the job ended with, as far as it is known."""
        try:
            return str(read_json(self._failure)["error"])
        except (OSError, ValueError, KeyError, TypeError, ConfigError):
            return "see its log"

    def set_failure(self, error: str | None, **facts: Any) -> None:
        """Keep the error that the job ended with, or with None forget the last one."""
        if error is None:
            self._failure.unlink(missing_ok=True)
        else:
            write_atomically(self._failure, to_json({"error": error, **facts}, indent=1) + "\n")

    @property
    def _exists(self) -> bool:
        return (self.run.path / "run.json").is_file()
