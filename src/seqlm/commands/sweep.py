"""seqlm sweep: many runs from one command, which resumes them all when it is given again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from ..config.flags import check_words, is_multirun
from ..config.schema import SweepConfig
from ..config.values import verb_config
from ..config.words import overrides
from ..errors import ConfigError, SeqlmError, Stopped
from ..runs.table import table
from ..sweep.place import DIVERGED, ENDED, FAILED, FAILURES, FINISHED, INTERRUPTED, NEW, PRUNED, RUNNING
from ..sweep.plan import Job, Plan, make_plan
from ..sweep.queue import PlannedJobs
from . import compare
from .searching import run_search

STATES = (FINISHED, PRUNED, FAILED, DIVERGED, INTERRUPTED, RUNNING, NEW)
OF_A_SEARCH = ("trials", "sampler", "search_seed", "pruner", "objective")
SHOWN = 10  # lines of a list that may be long


def main(words: Sequence[str]) -> None:
    """`seqlm sweep NAME [group=option,...] [key=value,...] [jobs=1] [retry=false] [search=... trials=N] [--dry-run]`.

    Raises ConfigError before anything is started, SeqlmError if a job failed, Stopped after a signal.
    """
    name, settings, train_words, dry_run = _read(words)
    if settings.search:
        run_search(name, settings, train_words, dry_run)
        return
    if not dry_run:
        from ..sweep import launcher

        launcher.prepare()
    plan = make_plan(name, train_words)
    states = {job.number: job.place.state() for job in plan.jobs}
    print(_overview(plan, states), flush=True)
    if dry_run:
        print(table([(plan.title(job), states[job.number], job.place.run.name) for job in plan.jobs], 3))
        return
    settled = ENDED if settings.retry else (*ENDED, *FAILURES)
    due = [job for job in plan.jobs if states[job.number] not in settled]
    number, problems = 0, {}
    if due:
        from ..sweep.display import Display

        if any("tensorboard" in job.config.logger for job in due):
            print(f"watch  tensorboard --logdir {shlex.quote(str(plan.folder))}", flush=True)
        slots = min(settings.jobs, len(plan.jobs))
        with Display(plan, len(plan.jobs) - len(due), slots) as display:
            running = launcher.Launcher(plan, slots, display)
            queue = PlannedJobs(due, settings.retry, lambda job, state: display.ended(None, job, state, 0.0))
            number, problems = running.run(queue), running.problems
    states = {job.number: job.place.state() for job in plan.jobs}
    _print_results(plan, states)
    failed = [job for job in plan.jobs if states[job.number] in FAILURES or job.number in problems]
    for job in failed:
        text = problems.get(job.number) or job.place.failure()
        how = DIVERGED if states[job.number] == DIVERGED else FAILED
        print(f"{plan.title(job)} {how}: {text.splitlines()[0] if text else ''}\n  {job.place.log}")
    if number and {NEW, INTERRUPTED, RUNNING} & set(states.values()):
        _stop(plan, states, number)
    if failed:
        retried = all(job.number in problems for job in failed) and settings.retry
        diverged = sum(states[job.number] == DIVERGED for job in failed)
        told = f", {diverged} of them diverged" * bool(diverged) + "; retry=true runs them again" * (not retried)
        raise SeqlmError(f"{len(failed)} of {_count(len(plan.jobs), 'job')} failed{told}")


def _read(words: Sequence[str]) -> tuple[str, SweepConfig, list[str], bool]:
    """The name, the keys of this verb, the words for `seqlm train`, and whether to list jobs only."""
    if not words or "=" in words[0] or words[0].startswith("-"):
        raise ConfigError("seqlm sweep needs a name first: seqlm sweep NAME model=lstm,gru seed=1,2,3")
    name, *rest = words
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise ConfigError(f"seqlm sweep {name}: the name leaves run.root; set run.root to where the sweep should be")
    rest = [word for word in rest if not is_multirun([word])]
    dry_run, rest = "--dry-run" in rest, [word for word in rest if word != "--dry-run"]
    keys = {one.name for one in fields(SweepConfig)}
    own = [word for word in rest if word.partition("=")[0] in keys]
    train = [word for word in rest if word not in own]
    check_words(train, keys)
    flags = [word.partition("=")[0] for word in train if word.startswith("-")]
    if others := [flag for flag in flags if flag not in ("--config-dir", "-cd")]:
        raise ConfigError(f"{others[0]} is for `seqlm train`; seqlm sweep takes --dry-run and --config-dir DIR")
    if refused := [word for word in overrides(train) if word.lstrip("+~").startswith(("hydra.", "hydra/"))]:
        raise ConfigError(f"{refused[0]}: seqlm sweep runs the jobs itself; this is for `seqlm train -m`")
    settings = verb_config("sweep", SweepConfig, own)
    if not settings.search and (alone := [word for word in own if word.partition("=")[0] in OF_A_SEARCH]):
        raise ConfigError(f"{alone[0]} is for a search; give search='optim.lr=log(1e-4,1e-1)' too, or leave it out")
    return name, settings, train, dry_run


def _overview(plan: Plan, states: dict[int, str]) -> str:
    """The lines above the jobs: how many there are and how they stand, and runs that are none of them."""
    counts = Counter(states.values())
    stand = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    lines = [f"sweep {plan.folder}: {_count(len(plan.jobs), 'job')}, {stand}"]
    if plan.repeated:
        lines.append(f"{_count(plan.repeated, 'combination')} repeat another; each job is run once")
    if plan.strays:
        lines.append(f"{_count(len(plan.strays), 'run')} in it belong to no job of this command, and stay as they are:")
        for why in dict.fromkeys(one.why for one in plan.strays):
            names = [one.run.name for one in plan.strays if one.why == why]
            lines += [f"  {why}", f"    {_some(names)}"]
    return "\n".join(lines)


def _print_results(plan: Plan, states: dict[int, str]) -> None:
    """The closing table: finished jobs, best first, those that differ in the seed alone as one."""
    finished = [str(job.place.run.path) for job in plan.jobs if states[job.number] == FINISHED]
    if len(finished) > 1:
        print()
        try:
            compare.main(finished)
        except ConfigError as error:  # all but one are damaged
            print(error)
        print()


def _stop(plan: Plan, states: dict[int, str], number: int) -> None:
    """List what a signal has left undone; raises Stopped."""
    left: dict[str, list[Job]] = {state: [job for job in plan.jobs if states[job.number] == state] for state in STATES}
    if left[NEW]:
        print("not started:")
        for job in left[NEW][:SHOWN]:
            print(f"  {plan.title(job)}")
        if len(left[NEW]) > SHOWN:
            print(f"  and {len(left[NEW]) - SHOWN} more")
    raise Stopped(
        f"stopped: {len(left[FINISHED])} of {len(plan.jobs)} jobs finished, {len(left[INTERRUPTED])} begun, "
        f"{len(left[NEW])} not started; the same command resumes the sweep",
        number,
    )


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + f", and {len(names) - 3} more" * (len(names) > 3)
