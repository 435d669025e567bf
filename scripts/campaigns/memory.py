"""No memory left, by a limit of the process and by what allocators raise: a few lines with advice, and a whole run."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable
from pathlib import Path

from .hooks import at_call, replace
from .jobs import Action, Done
from .kill import damage_of
from .runner import Campaign, Case
from .settings import train_or_resume, training, words_of

LINES = 8
# A run whose steps need tens of megabytes.
LARGE = (
    "data.tokens=60000", "train.batch_size=256", "train.bptt=64", "model.hidden_size=64", "train.steps=4",
    "train.eval_every=2", "checkpoint.every=1", "train.eval_batch_size=64", "train.log_every=1",
)  # fmt: skip
MOMENTS = {
    "the model": ("seqlm.training.assemble:build_model", 1),
    "the first step": ("seqlm.training.loop:Loop._step", 1),
    "a later step": ("seqlm.training.loop:Loop._step", 3),
    "an evaluation": ("seqlm.training.session:evaluate", 1),
    "a save": ("seqlm.runs.checkpoint:save", 2),
    "the data": ("seqlm.training.assemble:build_data", 1),
}


def _cpu() -> Exception:
    return RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 51200000000 bytes. Error code 12 (Cannot allocate memory)"
    )


def _cuda() -> Exception:
    import torch

    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of ...")


ERRORS: dict[str, Callable[[], Exception]] = {
    "MemoryError": MemoryError,
    "torch on a CPU": _cpu,
    "torch on a GPU": _cuda,
    "numpy": lambda: MemoryError(
        "Unable to allocate 37.3 GiB for an array with shape (5000000000,) and data type int64"
    ),
}


def case(case: Case) -> None:
    moment = list(MOMENTS)[case.number // 2 % len(MOMENTS)]
    function, call = MOMENTS[moment]
    if case.number % 2:
        words, room = words_of(case, "lm", "plain", *LARGE), case.rng.randrange(1 << 20, 24 << 20)
        before, what = _at(function, call, lambda: _limit(room)), f"{room >> 20} MB left at {moment}"
    else:
        words, kind = words_of(case, case.rng.choice(("lm", "tagging", "seq2seq"))), list(ERRORS)[case.number // 12 % 4]
        before, what = _at(function, call, lambda: _raise(ERRORS[kind]())), f"{kind} at {moment}"
    run = case.folder / "run"
    done = case.run(training(case, words), before=before)
    case.count("cases of no memory" if done.code else "enough after all")
    _judge(case, what, done, run)
    done = case.run(train_or_resume(case, words, run))
    if done.code or not done.clean:
        case.fail("lost", f"{what}: not resumed with memory: {done.tail()}")


def _judge(case: Case, where: str, done: Done, run: Path) -> None:
    lines = [line for line in done.text.splitlines() if line.startswith("seqlm:")]
    after = done.text[done.text.find("seqlm:") :].strip().splitlines() if lines else []
    there = sorted((run / "checkpoints").glob("step-*"))
    if not done.clean:
        case.fail("traceback", f"{where}: {done.tail()}")
    elif done.code not in (0, 1):
        case.fail("exit code", f"{where}: {done.tail()}")
    elif done.code and not re.search("memory", " ".join(after)):
        case.fail("no advice", f"{where}: memory is not named: {done.tail()}")
    elif done.code and not re.search(r"batch_size|bptt|accumulate|precision", " ".join(after)):
        case.fail("no advice", f"{where}: {done.tail()}")
    elif done.code and len(after) > LINES:
        case.fail("long refusal", f"{where}: {done.tail()}")
    elif done.code and there and not re.search(r"checkpoint|resume", " ".join(after)):
        case.fail("no advice", f"{where}: names no checkpoint, though there is {there[-1].name}: {done.tail()}")
    for path in there:
        if damage := damage_of(path):
            case.fail("partial", f"{where}: {path.name}: {damage}")


def _at(function: str, call: int, act: Callable[[], object]) -> Action:
    return lambda: at_call(function, call, act)


def _limit(room: int) -> None:
    """Let the process have so many bytes more."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + room
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _raise(error: Exception) -> None:
    raise error


def _as_it_is() -> None:
    """Nobody explains that the memory is full."""
    replace("seqlm.cli:main", lambda: __import__("seqlm.commands.train", fromlist=["main"]).main([]))


CAMPAIGN = Campaign(
    "memory",
    "no memory left at six moments of a run, by a limit of the process and by the errors of four allocators",
    case,
    sizes={"short": 4, "full": 96},
    mutants={"let-it-through": _as_it_is},
)
