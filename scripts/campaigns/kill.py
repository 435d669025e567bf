"""kill -9 at random moments and inside saves: nothing is lost, and the resumed run ends as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from functools import partial
from pathlib import Path

from .hooks import Ending, Saves, replace
from .jobs import Job
from .runner import Campaign, Case
from .settings import SETTINGS, TASKS, difference, litter, outcome, train_or_resume, trained

PAIRS = [(task, setting) for setting in SETTINGS for task in TASKS]
KILLS = 2  # of the training, and of its resumption
EVENTS, BYTES = 60, 24_000  # the system calls of a save, the size of its files: a little more than there are


def case(case: Case) -> None:
    task, setting = PAIRS[case.number * 10 % len(PAIRS)] if case.number < 7 else PAIRS[case.number % len(PAIRS)]
    words, wanted = trained(case, task, setting)
    whole = json.loads((wanted / "outcome.json").read_text(encoding="utf-8"))
    run, kills = case.folder / "run", 0
    for _ in range(KILLS):
        inside = case.rng.random() < 0.6
        done = case.folder / "saved"
        saves = Saves(run, done, _ending(case) if inside else None)
        job = case.start(train_or_resume(case, words, run), before=partial(_prepare, saves))
        if not inside:
            _kill_later(job, case.rng.uniform(0, whole["seconds"]))
        code = job.wait().code
        if code in (-signal.SIGKILL, -signal.SIGXFSZ):
            kills += 1
            case.count("kills")
            case.count("inside a save", int(inside))
            _check_kept(case, run, done)
        elif code:
            case.fail("differs", f"{task}, {setting}: a job ended with {code} before it was killed")
    done_now = case.run(train_or_resume(case, words, run), before=_a_minute_later)
    if done_now.code or not done_now.clean:
        case.fail("lost", f"{task}, {setting}: not resumed: {done_now.tail()}")
        return
    if "damaged" in done_now.text:
        case.fail("lost", f"{task}, {setting}: {done_now.tail()}")
    if differs := difference(whole["outcome"], outcome(run)):
        case.fail("differs", f"{task}, {setting}, {kills} kills: {differs}")
    left = litter(run) + sorted(path.name for path in case.folder.glob(".*-*"))
    if left:
        case.fail("litter", f"{task}, {setting}: {', '.join(left)}")


def _prepare(saves: Saves) -> None:
    _a_minute_later()
    saves.install()


def _a_minute_later() -> None:
    """As if a minute had passed: only then is swept what a kill has left of a run that was about to be made."""
    replace("seqlm.runs.folder:UNFINISHED_SECONDS", 0.0)


def _ending(case: Case) -> Ending:
    """A place inside one of the first saves."""
    save = case.rng.randint(1, 4)
    if case.rng.random() < 0.25:
        return Ending(save, byte=case.rng.randrange(1, BYTES))
    return Ending(save, event=case.rng.randint(1, EVENTS), kept=case.rng.random() if case.rng.random() < 0.5 else None)


def _kill_later(job: Job, seconds: float) -> None:
    """Kill it after a while; it may have ended by then."""
    time.sleep(seconds)
    job.kill(signal.SIGKILL)


def _check_kept(case: Case, run: Path, done: Path) -> None:
    """Every checkpoint is whole, and none is missing that was complete before the kill."""
    there = sorted((run / "checkpoints").glob("step-*"))
    for path in there:
        if damage := damage_of(path):
            case.fail("lost", f"after a kill {path.name} is not whole: {damage}")
    complete = done.read_text(encoding="utf-8").split() if done.is_file() else []
    if complete and (not there or there[-1].name < max(complete)):
        case.fail("lost", f"after a kill the newest is {[path.name for path in there]}, {max(complete)} was complete")


def damage_of(path: Path) -> str:
    """The damage in the files of a checkpoint, found without the product; empty if there is none."""
    try:
        lines = (path / "MANIFEST.sha256").read_text(encoding="utf-8").splitlines()
        listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        if len(listed) < 3:
            return "its manifest is short"
        wrong = [name for name, digest in listed.items()
                 if hashlib.sha256((path / name).read_bytes()).hexdigest() != digest]  # fmt: skip
    except (OSError, ValueError) as error:
        return str(error)
    return ", ".join(wrong)


def _forget_random_state() -> None:
    replace("seqlm.training.shares:set_random_state", lambda *_: None)


def _skip_flush() -> None:
    replace("seqlm.runs.checkpoint:flush", lambda path: None)


CAMPAIGN = Campaign(
    "kill",
    "kill -9 and power failures, at random moments and inside saves, of every task in every setting",
    case,
    sizes={"short": 5, "full": 200},
    least={"kills": 300, "inside a save": 100},
    mutants={"forget-random-state": _forget_random_state, "skip-flush": _skip_flush},
)
