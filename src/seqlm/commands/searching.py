"""The part of `seqlm sweep` and `seqlm compare` that is about a search: trials run, and what came out of them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.verb_schema import SweepConfig
from ..errors import SeqlmError, Stopped, install_hint
from ..sweep.search_plan import JOURNAL, SearchPlan, check_same_search, plan_search
from ..terminal import labelled

if TYPE_CHECKING:
    from ..sweep.findings import Findings
    from ..sweep.search import Search

PICTURE = "search.svg"


def run_search(name: str, settings: SweepConfig, words: Sequence[str], dry_run: bool) -> None:
    """`seqlm sweep NAME WORDS search=... trials=N`: run trials until N have come to their end.

    Raises ConfigError before anything is started, SeqlmError if trials were killed or none is complete, Stopped after
    a signal.
    """
    from ..sweep import launcher

    if not dry_run:
        launcher.prepare(["optuna"])
    plan = plan_search(name, settings, words)
    if dry_run:
        print("\n".join([_description(plan), *_standing_there(plan)]))
        return
    from ..sweep.display import Display
    from ..sweep.search import Search

    search = Search(plan)
    print(f"{_description(plan)}\n{_standing(search)}", flush=True)
    number, problems = 0, {}
    if search:
        print(f"watch  tensorboard --logdir {shlex.quote(str(plan.folder))}", flush=True)
        slots = min(settings.jobs, len(search))
        with Display(plan, search.told, slots) as display:
            search.settled = display.settled
            running = launcher.Launcher(plan, slots, display)
            number, problems = running.run(search), running.problems
    print(f"\n{_standing(search)}")
    print_findings(plan.folder)
    if number and search.told < plan.trials:
        left = f"{search.told} of {plan.trials} trials have ended; the same command resumes the search"
        raise Stopped(f"stopped: {left}", number)
    if search.told < plan.trials:
        killed = plan.trials - search.told
        raise SeqlmError(f"{killed} of {plan.trials} trials were killed; the same command resumes them")
    if "complete" not in search.counts():
        raise SeqlmError("no trial is complete: " + next(iter(problems.values()), "all have failed, see their logs"))


def _description(plan: SearchPlan) -> str:
    aims = (f"{one.name}, {'higher' if one.metric.higher_is_better else 'lower'} is better" for one in plan.objectives)
    return labelled(
        [
            ("search", str(plan.folder)),
            *(("" if index else "space", one.typed) for index, one in enumerate(plan.space)),
            ("objective", "; ".join(aims)),
            ("chosen by", f"{plan.sampler}, search_seed={plan.seed}; pruner {plan.pruner}"),
        ],
        sys.stdout,
    )


def _standing_there(plan: SearchPlan) -> list[str]:
    """A line about the trials that are there already; writes nothing. Raises ConfigError if the search is another."""
    if not (plan.folder / JOURNAL).is_file():
        return []
    from ..sweep.findings import findings_in

    found = findings_in(plan.folder)
    if found is None:
        return []
    check_same_search(plan, found.study.user_attrs["search"])
    return [f"{sum(one.state.is_finished() for one in found.trials)} of {plan.trials} trials have ended"]


def _standing(search: Search) -> str:
    counts = search.counts()
    return f"{search.told} of {search.plan.trials} trials have ended" + f": {counts}" * bool(counts)


def print_findings(folder: Path) -> None:
    """Print what came out of the search in a folder, and draw it beside its runs; nothing if there is no search."""
    try:
        found = _findings(folder)
    except ImportError:
        print(f"{folder} is a search; what came out of it is shown after {install_hint('sweep')}")
        return
    if found is not None:
        from ..sweep.findings import rows

        print("\n" + labelled([*rows(found), ("picture", _picture(found))], sys.stdout))


def search_record(folder: Path) -> dict[str, Any] | None:
    """The findings of the search in a folder, as JSON; None if there is no search, or its extra is not installed."""
    try:
        found = _findings(folder)
    except ImportError:
        return None
    if found is None:
        return None
    from ..sweep.findings import record

    return record(found)


def _findings(folder: Path) -> Findings | None:
    """The findings of the search in a folder; None if there is no search, or it was killed before it was one."""
    if not (folder / JOURNAL).is_file():
        return None
    from ..sweep.findings import findings_in

    return findings_in(folder)


def _picture(found: Findings) -> str:
    from ..sweep.picture import draw

    if not found.ranked:
        return ""
    try:
        draw(found, found.folder / PICTURE)
    except ImportError:
        return f"needs matplotlib: {install_hint('plots')}"
    except OSError as error:
        return f"could not be written: {error}"
    return str(found.folder / PICTURE)
