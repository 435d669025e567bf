"""Ways to break in: at a call, at a system call inside a save, and by changing the product's own source."""

from __future__ import annotations

import importlib
import inspect
import os
import resource
import signal
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Audit events of the interpreter that stand for a change on the disk, or for opening a file.
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree", "os.truncate"}


def target(name: str) -> tuple[Any, str]:
    """The owner and the attribute that `package.module:Class.attribute` names. Raises AttributeError."""
    module, _, path = name.partition(":")
    owner: Any = importlib.import_module(module)
    *between, attribute = path.split(".")
    for each in between:
        owner = getattr(owner, each)
    getattr(owner, attribute)
    return owner, attribute


def replace(name: str, value: object) -> None:
    """Put `value` in the place of what `package.module:Class.attribute` names."""
    owner, attribute = target(name)
    setattr(owner, attribute, value)


def at_call(name: str, number: int, act: Callable[[], object]) -> None:
    """Call `act` when the function is called for the `number`th time, from 1 on, before it does anything."""
    owner, attribute = target(name)
    original, calls = getattr(owner, attribute), 0

    def called(*args: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            act()
        return original(*args, **keywords)

    static = isinstance(inspect.getattr_static(owner, attribute), staticmethod)
    setattr(owner, attribute, staticmethod(called) if static else called)


def mutate(name: str, old: str, new: str) -> None:
    """Change the source of a function. Raises ValueError if `old` does not stand in it: the mutant would be none."""
    owner, attribute = target(name)
    function = inspect.unwrap(getattr(owner, attribute))
    source = textwrap.dedent(inspect.getsource(function))
    if old not in source:
        raise ValueError(f"{name} does not hold {old!r} any more")
    space = function.__globals__
    code = compile(f"from __future__ import annotations\n{source.replace(old, new)}", name, "exec")
    made: dict[str, Any] = {}
    exec(code, space, made)
    setattr(owner, attribute, made[attribute])


@dataclass(frozen=True)
class Ending:
    """Where a process is ended: inside a save, at a system call of it or while a file is written.

    Args:
        save: Which save of the process, from 1 on.
        event: Which system call of it, from 1 on; the end of the save if it has fewer.
        byte: Or at which byte of a file; the end of the save if all are shorter.
        kept: Share that is left of what was not flushed to the disk: the power fails. None: it does not.
    """

    save: int
    event: int = 0
    byte: int = 0
    kept: float | None = None


class Saves:
    """Keeps the steps of saves that are complete, in a file, and ends the process inside one of them."""

    def __init__(self, run: Path, done: Path, ending: Ending | None = None) -> None:
        self._run, self._done, self._ending = run, done, ending
        self._calls = self._left = 0
        self._flushed: dict[int, int] = {}  # inode of a file, and when it had been changed last

    def install(self) -> None:
        """Watch the saves of this process from now on."""
        self._flushed = {stat.st_ino: stat.st_mtime_ns for _, stat in self._files()}  # a minute has passed since a kill
        owner, attribute = target("seqlm.training.session:Session.save")
        save, fsync = getattr(owner, attribute), os.fsync

        def watched(*args: Any, **keywords: Any) -> None:
            self._calls += 1
            due = self._ending is not None and self._calls == self._ending.save
            if due:
                self._arm()
            save(*args, **keywords)
            if due:
                self._end()
            newest = max(path.name for path in (self._run / "checkpoints").glob("step-*"))
            with self._done.open("a", encoding="utf-8") as handle:
                handle.write(f"{newest}\n")

        def flushed(file: Any) -> None:
            self._event()
            fsync(file)
            stat = os.fstat(file)
            self._flushed[stat.st_ino] = stat.st_mtime_ns

        setattr(owner, attribute, watched)
        os.fsync = flushed  # type: ignore[assignment]
        sys.addaudithook(lambda name, _: self._event() if name in EVENTS else None)

    def _arm(self) -> None:
        assert self._ending is not None
        self._left = self._ending.event
        if self._ending.byte:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (self._ending.byte, resource.RLIM_INFINITY))

    def _event(self) -> None:
        if self._left:
            self._left -= 1
            if not self._left:
                self._end()

    def _end(self) -> None:
        assert self._ending is not None
        if self._ending.kept is not None:
            for path, stat in self._files():
                if self._flushed.get(stat.st_ino) != stat.st_mtime_ns:
                    os.truncate(path, int(stat.st_size * self._ending.kept))
        os.kill(os.getpid(), signal.SIGKILL)

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        """The files of all checkpoints, and what the system knows of them."""
        found = sorted((self._run / "checkpoints").rglob("*"))
        return [(path, path.stat()) for path in found if path.is_file()]
