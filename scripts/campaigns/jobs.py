"""Jobs: the product in processes that are forked from one that has loaded it, so that a job starts in milliseconds."""

from __future__ import annotations

import importlib
import io
import os
import pkgutil
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

Action = Callable[[], object]
TIMEOUT = 60.0  # seconds
# Modules that are imported when they are needed.
LATER = (
    "torch.utils.tensorboard", "torch._inductor.compiler_bisector", "multiprocessing.synchronize", "matplotlib.figure",
    "matplotlib.backends.backend_agg",
)  # fmt: skip
TIMED_OUT = -1000  # in place of an exit code


@dataclass(frozen=True)
class Done:
    """The end of a job: its exit code, or the negative number of the signal that ended it, and all that it printed."""

    code: int
    text: str
    seconds: float
    megabytes: float  # of memory at most, those of the process that it was forked from included

    @property
    def clean(self) -> bool:
        """Whether it ended by itself and without a traceback."""
        return self.code >= 0 and "Traceback (most recent call last)" not in self.text

    def tail(self, lines: int = 8) -> str:
        """The exit code and the last lines, for a report."""
        return f"exit {self.code}: " + " | ".join(self.text.strip().splitlines()[-lines:])


def preload() -> None:
    """Import all that a job may need. No thread pool is started: a child of a process that has one may hang."""
    os.environ["SEQLM_TUNE"] = "0"
    import torch
    import torch._dynamo  # every optimizer imports it, which takes seconds
    import yaml

    import seqlm

    yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # type: ignore[misc]  # omegaconf takes this one
    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(seqlm.__path__, "seqlm."):
        if "triton" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for encoding in ("utf-32-le", "utf-16", "utf-8-sig", "latin-1", "cp1252"):  # another user may not read Python's
        "".encode(encoding)
    for name in LATER:
        with suppress(ImportError):  # of an extra
            importlib.import_module(name)


def command(words: Sequence[object]) -> Action:
    """`seqlm WORDS`, as an action of a job."""

    def act() -> None:
        from seqlm.cli import main

        sys.argv = ["seqlm", *map(str, words)]
        main()

    return act


class Job:
    """A child process that acts in a folder of its own; standard output and error are one text."""

    def __init__(
        self,
        action: Action | Sequence[object],
        folder: Path,
        *,
        before: Action | None = None,
        input: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        """
        Args:
            action: What is done; a sequence: the words of a command.
            folder: Its working folder.
            before: Called first in the child: what goes wrong in it.
            input: Its standard input.
            env: Changes of its environment.
            timeout: Seconds until it is killed.
        """
        self._act = action if callable(action) else command(action)
        self._folder, self._before, self._env, self._timeout = folder, before, dict(env or {}), timeout
        self._output, self._input = (os.memfd_create(name) for name in ("output", "input"))
        os.write(self._input, input)
        os.lseek(self._input, 0, os.SEEK_SET)
        self._started = time.monotonic()
        self.pid = os.fork()
        if not self.pid:
            self._become()

    def wait(self) -> Done:
        """Wait for its end; it is killed when its time is over."""
        over = self._await_end()
        if over:
            os.kill(self.pid, signal.SIGKILL)
        _, status, usage = os.wait4(self.pid, 0)
        size = os.lseek(self._output, 0, os.SEEK_END)
        text = os.pread(self._output, size, 0).decode("utf-8", "replace")
        os.close(self._output)
        os.close(self._input)
        code = TIMED_OUT if over else os.waitstatus_to_exitcode(status)
        return Done(code, text, time.monotonic() - self._started, usage.ru_maxrss / 1024)

    def kill(self, number: int) -> None:
        """Send it a signal; nothing happens if it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def output(self) -> str:
        """All that it has printed so far."""
        return os.pread(self._output, 1 << 20, 0).decode("utf-8", "replace")

    def _await_end(self) -> bool:
        """Whether the time was over first."""
        watched = os.pidfd_open(self.pid)
        try:
            poll = select.poll()
            poll.register(watched, select.POLLIN)
            return not poll.poll(1000 * max(0.0, self._started + self._timeout - time.monotonic()))
        finally:
            os.close(watched)

    def _become(self) -> None:
        code = 1
        try:
            signal.setitimer(signal.ITIMER_REAL, self._timeout + 10)  # should nobody wait for it any more
            os.dup2(self._input, 0)
            os.dup2(self._output, 1)
            os.dup2(self._output, 2)
            os.environ.update(self._env)
            os.chdir(self._folder)
            sys.stdin = io.TextIOWrapper(os.fdopen(os.dup(0), "rb"), encoding="utf-8")
            sys.stdout = open(os.dup(1), "w", encoding="utf-8")  # noqa: SIM115
            sys.stderr = open(os.dup(2), "w", 1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
            signal.pthread_sigmask(signal.SIG_SETMASK, ())  # who forked this process may have blocked some
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup
            warnings.resetwarnings()
            for quiet in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
                warnings.simplefilter("ignore", quiet)
            if self._before is not None:
                self._before()
            code = _exit_code(self._act)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code & 0xFF)


def run(action: Action | Sequence[object], folder: Path, **options: object) -> Done:
    """A job, awaited; the options of `Job`."""
    return Job(action, folder, **options).wait()  # type: ignore[arg-type]


def _exit_code(action: Action) -> int:
    """The exit code that the interpreter would end with."""
    try:
        action()
    except SystemExit as leaving:
        if isinstance(leaving.code, int | None):
            return leaving.code or 0
        print(leaving.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return 130
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
    return 0
