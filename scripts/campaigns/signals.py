"""Every signal in every phase of a run: what was computed is saved, and the resumed run ends as if none had come."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from .hooks import at_call, replace
from .jobs import Action, Done, Job
from .runner import Campaign, Case
from .settings import TASKS, difference, litter, outcome, train_or_resume, trained

STOPPING = {
    "HUP": (signal.SIGHUP,),
    "INT": (signal.SIGINT,),
    "QUIT": (signal.SIGQUIT,),
    "TERM": (signal.SIGTERM,),
    "USR1": (signal.SIGUSR1,),
    "USR2": (signal.SIGUSR2,),
    "XCPU": (signal.SIGXCPU,),
    "TERM twice": (signal.SIGTERM, signal.SIGTERM),
}
HARMLESS = {"WINCH": (signal.SIGWINCH,), "STOP, then CONT": (signal.SIGSTOP,)}
SIGNALS = {**STOPPING, **HARMLESS}


class Phase(NamedTuple):
    """A moment of a run: the call of a function, and whether a loop is there that can save."""

    function: str
    call: int
    saves: bool
    resumes: bool = False  # it is one of `seqlm resume`


PHASES = {
    "reading the data": Phase("seqlm.training.assemble:build_data", 1, False),
    "making the folder": Phase("seqlm.training.launch:save_config", 1, False),
    "first step": Phase("seqlm.training.loop:Loop._step", 1, True),
    "later step": Phase("seqlm.training.loop:descend", 9, True),
    "evaluation": Phase("seqlm.training.session:evaluate", 2, True),
    "saving": Phase("seqlm.runs.checkpoint:flush", 7, True),
    "restoring": Phase("seqlm.training.session:Session.restore", 1, False, resumes=True),
    "closing": Phase("seqlm.training.loggers.run_logger:RunLogger.close", 1, False),
}
CASES = [(name, phase) for phase in PHASES for name in SIGNALS]


def case(case: Case) -> None:
    name, phase = CASES[case.number * 11 % len(CASES)]  # 11: the short form meets every phase and every signal
    at, task = PHASES[phase], list(TASKS)[case.number % len(TASKS)]
    words, whole = trained(case, task, "dropout")
    run, where = case.folder / "run", f"SIG{name} while {phase}, {task}"
    if at.resumes:
        case.run(train_or_resume(case, words, run), before=_raising(PHASES["later step"], (signal.SIGTERM,)))
    job = case.start(train_or_resume(case, words, run), before=_raising(at, SIGNALS[name]))
    if signal.SIGSTOP in SIGNALS[name]:
        _continue(job)
    done = job.wait()
    case.count("signals")
    _judge(case, where, name, at, done, run)
    done = case.run(train_or_resume(case, words, run))
    if done.code or not done.clean:
        case.fail("lost", f"{where}: not resumed: {done.tail()}")
        return
    wanted = json.loads((whole / "outcome.json").read_text(encoding="utf-8"))["outcome"]
    if differs := difference(wanted, outcome(run)):
        case.fail("differs", f"{where}: {differs}")
    if left := litter(run) + sorted(path.name for path in case.folder.glob(".run-*")):
        case.fail("litter", f"{where}: {', '.join(left)}")


def _judge(case: Case, where: str, name: str, at: Phase, done: Done, run: Path) -> None:
    """Whether the process ended as it should."""
    number = SIGNALS[name][0]
    if name in HARMLESS:
        allowed: tuple[int, ...] = (0,)
    elif at.saves:
        allowed = (128 + number,)
    else:  # by the default of the signal, or after its end
        allowed = (128 + number, -number, *([0] if at is PHASES["closing"] else []))
    if done.code not in allowed or "Traceback" in done.text:
        case.fail("not left cleanly", f"{where}: {done.tail()}")
    elif name in STOPPING and at.saves:
        info = json.loads((run / "run.json").read_text(encoding="utf-8"))
        newest = max(path.name for path in (run / "checkpoints").glob("step-*"))
        if info["status"] != "interrupted" or int(newest.removeprefix("step-")) != info["steps"]:
            case.fail("not saved", f"{where}: {info['status']} after {info['steps']} steps, saved: {newest}")
        else:
            case.count("saved")
    else:
        case.count("left cleanly")


def _raising(at: Phase, numbers: tuple[int, ...]) -> Action:
    """The process sends itself these signals when it comes to a phase."""

    def act() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    return lambda: at_call(at.function, at.call, act)


def _continue(job: Job) -> None:
    """Wait until the job has been stopped, and let it run again."""
    os.waitid(os.P_PID, job.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    job.kill(signal.SIGCONT)


def _swallow() -> None:
    replace("seqlm.training.signals:StopSignal._handle", lambda *_: None)


def _default() -> None:
    replace("seqlm.training.signals:StopSignal.HANDLED", (signal.SIGINT, signal.SIGTERM))


MUTANTS: dict[str, Callable[[], None]] = {"swallow-signal": _swallow, "default-signal": _default}
CAMPAIGN = Campaign(
    "signals",
    f"{len(SIGNALS)} signals, each in {len(PHASES)} phases of a run",
    case,
    sizes={"short": 8, "full": len(CASES)},
    least={"signals": len(CASES)},
    mutants=MUTANTS,
)
