"""The command run here, as if in a process of its own: no interpreter and no torch has to start for it."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

FRESH_SEED = 67280421310721  # of torch's generator in a new process


def run(
    words: Sequence[str], cwd: Path, *, input: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Call seqlm.cli.main as `python -m seqlm WORDS` in `cwd` would, and leave everything as it was."""
    from seqlm.cli import main

    with ExitStack() as held:
        for context in (
            _environment(env),
            _folder(cwd),
            _modules(cwd, env),
            _signals(),
            _warnings(),
            _hydra(),
            _torch(),
        ):
            held.enter_context(context)
        stdout, stderr = (held.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        held.enter_context(_streams(words, input, stdout, stderr))
        code = _exit_code(main)
        sys.stdout.flush()
        sys.stderr.flush()
        return subprocess.CompletedProcess(["seqlm", *words], code, _text(stdout), _text(stderr))


def _exit_code(main) -> int:
    """The exit code of the interpreter."""
    try:
        main()
    except SystemExit as leaving:
        if isinstance(leaving.code, int | None):
            return leaving.code or 0
        print(leaving.code, file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _text(file) -> str:
    file.seek(0)
    return io.TextIOWrapper(io.BytesIO(file.read()), encoding="utf-8").read()


@contextmanager
def _environment(env: Mapping[str, str] | None) -> Iterator[None]:
    before = dict(os.environ)
    try:
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _folder(cwd: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(cwd)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _modules(cwd: Path, env: Mapping[str, str] | None) -> Iterator[None]:
    """The working folder and PYTHONPATH come first; what is imported from there is forgotten."""
    given = (env or {}).get("PYTHONPATH", "").split(os.pathsep)
    folders = [folder for folder in (str(cwd), *given) if folder and folder not in sys.path]
    path, loaded = sys.path[:], set(sys.modules)
    sys.path[:0] = folders
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - loaded:
            if (getattr(sys.modules[name], "__file__", None) or "").startswith(tuple(f"{one}/" for one in folders)):
                del sys.modules[name]


@contextmanager
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _warnings() -> Iterator[None]:
    """Those that a new process shows, on its standard error."""

    def show(message, category, filename, lineno, file=None, line=None):
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))

    with warnings.catch_warnings():
        warnings.resetwarnings()
        for quiet in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", quiet)
        warnings.showwarning = show
        yield


@contextmanager
def _hydra() -> Iterator[None]:
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().clear()


@contextmanager
def _torch() -> Iterator[None]:
    """torch as it is when it has just been imported, but on one thread."""
    import torch

    numbers, threads, exact = random.getstate(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    parts = (torch.backends.cuda.matmul, torch.backends.cudnn)
    tf32 = [part.allow_tf32 for part in parts]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(FRESH_SEED)
        try:
            yield
        finally:
            random.setstate(numbers)
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(exact)
            for part, allowed in zip(parts, tf32, strict=True):
                part.allow_tf32 = allowed


@contextmanager
def _streams(words: Sequence[str], input: str, stdout, stderr) -> Iterator[None]:
    """Files in place of the standard streams: they have an encoding and a number, and are no terminal."""
    before = sys.argv, sys.stdin, sys.stdout, sys.stderr
    sys.argv = ["seqlm", *words]
    sys.stdin = io.TextIOWrapper(io.BytesIO(input.encode()), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(stdout, encoding="utf-8")
    sys.stderr = io.TextIOWrapper(stderr, encoding="utf-8", errors="backslashreplace", write_through=True)
    try:
        yield
    finally:
        sys.stdout.detach()
        sys.stderr.detach()
        sys.argv, sys.stdin, sys.stdout, sys.stderr = before
