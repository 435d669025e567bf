"""seqlm sweep: many runs from one command, which resumes them all when it is given again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

from ..config.flags import check_words, is_multirun
from ..config.values import verb_config
from ..config.verb_schema import SlurmConfig, SweepConfig
from ..config.words import overrides
from ..errors import ConfigError, SeqlmError, Stopped
from ..runs.folder import OUTPUTS
from ..runs.table import table
from ..slurm import array
from ..slurm.options import slurm_words
from ..sweep.kept import keep
from ..sweep.place import DIVERGED, ENDED, FAILED, FAILURES, FINISHED, INTERRUPTED, NEW, PRUNED, RUNNING
from ..sweep.plan import Job, Plan, make_plan
from ..sweep.queue import PlannedJobs
from . import compare
from .searching import run_search
from .words import pop_value

STATES = (FINISHED, PRUNED, FAILED, DIVERGED, INTERRUPTED, RUNNING, NEW)
OF_A_SEARCH = ("trials", "sampler", "search_seed", "pruner", "objective")
SHOWN = 10  # lines of a list that may be long


def main(words: Sequence[str]) -> None:
    """`seqlm sweep NAME [group=option,...] [key=value,...] [jobs=1] [search=... trials=N] [--dry-run]`.

    `seqlm sweep NAME status` lists how its jobs stand. With `slurm=true slurm.key=value ... [--print]` they are
    submitted, and not waited for.
    Raises ConfigError before anything is started, SeqlmError if a job failed, Stopped after a signal.
    """
    if words[1:2] == ["status"]:
        _print_status(words[0], words[2:])
        return
    slurm, words, print_only = slurm_words(words)
    name, settings, train_words, dry_run = _read(words)
    if slurm is not None and settings.search:
        raise ConfigError(
            "slurm=true submits jobs that are known, not a search; let each task of an array of your own give this "
            "command without it, with jobs=1: launchers share the trials"
        )
    if slurm is not None and not dry_run:
        _submit(name, settings, train_words, slurm, print_only)
        return
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
    keep(plan, train_words)
    due = _due(plan, states, settings.retry)
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


def _due(plan: Plan, states: dict[int, str], retry: bool) -> list[Job]:
    """Jobs that are neither finished nor, without `retry`, failed."""
    settled = ENDED if retry else (*ENDED, *FAILURES)
    return [job for job in plan.jobs if states[job.number] not in settled]


def _submit(name: str, settings: SweepConfig, words: list[str], slurm: SlurmConfig, print_only: bool) -> None:
    """Submit the jobs that are due and neither in the queue nor running, or print their scripts."""
    if settings.jobs > 1:
        raise ConfigError(f"jobs={settings.jobs} is for processes of this machine; use slurm.parallel={settings.jobs}")
    plan = make_plan(name, words)
    with ExitStack() as stack:
        if not print_only:
            stack.enter_context(array.submitting(plan.folder))
        queued = {digest for digest, task in array.in_queue(plan.folder).items() if not task.ended}
        states = {job.number: job.place.state() for job in plan.jobs}
        due = [job for job in _due(plan, states, settings.retry) if states[job.number] != RUNNING]
        waiting = [job for job in due if job.place.digest in queued]
        due = [job for job in due if job.place.digest not in queued]
        if print_only:
            for script in array.scripts(plan, due, slurm, words, 1, max(1, len(due))):
                print(script.text, end="")
            return
        print(_overview(plan, states), flush=True)
        keep(plan, words)
        if waiting:
            print(f"{_count(len(waiting), 'job')} in the queue already")
        for line in array.submit_jobs(plan, due, slurm, words):
            print(line, flush=True)
        root = [f"run.root={word.partition('=')[2]}" for word in words if word.startswith("run.root=")][-1:]
        print(f"status  {shlex.join(['seqlm', 'sweep', name, 'status', *root])}")
        print(f"watch   {shlex.join(['tensorboard', '--logdir', str(plan.folder)])}")


def _print_status(name: str, words: Sequence[str]) -> None:
    """The jobs of a sweep with their states, as files and SLURM's queue have them."""
    from ..slurm.status import ORDER, standings

    root, rest = pop_value("run.root", words, str(OUTPUTS))
    if rest:
        raise ConfigError(f"seqlm sweep {name} status takes no {rest[0]}; only run.root=DIR")
    folder = Path(root) / name
    found, problem = standings(folder)
    counts = Counter(one.state for one in found)
    stand = ", ".join(f"{counts[state]} {state}" for state in sorted(counts, key=ORDER.index))
    print(f"sweep {folder}: {_count(len(found), 'job')}, {stand}")
    print(table([(one.job.title, one.state, one.detail) for one in found], 3))
    if problem:
        print(f"SLURM could not be asked, so these are the states in our files alone: {problem}")


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
