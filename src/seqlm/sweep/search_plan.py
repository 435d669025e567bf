"""A search as it is planned: the words that its trials share, the space, the objectives; the job of a trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..config.comparison import canonical
from ..config.compose import compose_jobs, differing_words, expand
from ..config.keys import dotted
from ..config.schema import Config
from ..config.verb_schema import SweepConfig
from ..config.words import overrides
from ..errors import ConfigError, install_hint
from .objective import Objective, objectives
from .place import Place
from .plan import (
    NEVER,
    Job,
    Plan,
    checked_jobs,
    digest_of,
    identity_of,
    placed,
    readable_name,
    sweep_folder,
    text_as_typed,
)
from .space import Dimension, parse_space

JOURNAL = Path(".sweep") / "search.journal"


@dataclass
class SearchPlan(Plan):
    """A search of so many trials.

    Args:
        trials: how many there will be, over all commands.
        words: those that all trials share, without the flags.
        base: the identity of the first corner of the space, by which the search is known again.
    """

    trials: int = 0
    words: Sequence[str] = ()
    flags: Sequence[str] = ()
    space: Sequence[Dimension] = ()
    objectives: Sequence[Objective] = ()
    sampler: str = "tpe"
    pruner: str = "none"
    seed: int = 0
    base: dict[str, str] | None = None

    @property
    def count(self) -> int:
        return self.trials

    @property
    def kept(self) -> dict[str, Any]:
        """The facts that the study keeps of it: a command with another of these is another search."""
        names = [one.name for one in self.objectives]
        return {
            "search": " ".join(one.typed for one in self.space),
            "objective": ",".join(names),
            "metrics": [one.metric._asdict() for one in self.objectives],
            "base": self.base or {},
        }

    def job(self, number: int, own: Sequence[str]) -> Job:
        """The job of a trial with these words of its own. Raises ConfigError if they do not go together."""
        from ..runs.assemble import check_parts  # loads torch, which those do without that only read sweeps

        words = [*self.words, *own]
        made = next(iter(compose_jobs([words], self.flags)))
        if isinstance(made, ConfigError):
            raise made
        config, choices = made
        check_parts(config)
        identity = _identity(config, own)
        digest = digest_of(identity)
        place = Place(self.folder, f"{readable_name(own, choices)}-{digest}", digest)
        job = placed(Job(number + 1, words, " ".join(own), config, choices, identity, place), place)
        if len(self.objectives) > 1 or not self.objectives[0].is_metric:
            return job
        return replace(job, callbacks=partial(_callbacks, self.folder, number, self.objectives[0], self.pruner))


def plan_search(name: str, settings: SweepConfig, words: Sequence[str]) -> SearchPlan:
    """The search of `seqlm sweep NAME WORDS search=...`, every key checked at both of its ends; writes nothing.

    Raises ConfigError.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise ConfigError(f"search=... needs Optuna: {install_hint('sweep')}") from None
    if settings.trials is None:
        raise ConfigError("search=... needs a number of trials; give trials=40")
    if settings.retry:
        raise ConfigError("retry=true is not for a search, where a failed trial counts; give more: trials=...")
    space, jobs = parse_space(settings.search), expand(words)
    if len(jobs) > 1:
        keys = [word.partition("=")[0] for word in differing_words(jobs)[0]]
        raise ConfigError(
            f"{keys[0]} has several values, but a trial is one run; give one value, or search {keys[0]}=choice(...)"
        )
    flags = [word for word in words if word not in overrides(words)]
    config = _check_space(space, jobs[0], flags)
    chosen = objectives(settings.objective, config)
    plan = SearchPlan(sweep_folder(name, [config]), trials=settings.trials, words=jobs[0], flags=flags, space=space)
    plan.objectives, plan.pruner = chosen, _pruner(settings.pruner, chosen)
    plan.sampler, plan.seed, plan.base = settings.sampler, settings.search_seed, identity_of(config)
    if not (plan.folder / JOURNAL).is_file() and next(plan.folder.glob("[!.]*/run.json"), None):
        raise ConfigError(f"{plan.folder} holds runs that are no search; choose another name")
    return plan


def _check_space(space: Sequence[Dimension], shared: Sequence[str], flags: Sequence[str]) -> Config:
    """The config of the first corner; raises ConfigError unless that and all ends of each key can be composed."""
    given = {word.lstrip("+~").partition("=")[0]: word for word in shared}
    for one in space:
        key = one.key.lstrip("+")
        if key in given:
            raise ConfigError(f"search: {one.typed} is searched, and given as {given[key]}; leave one of them out")
        if key.startswith(NEVER):
            raise ConfigError(f"search: {one.typed}: {key} makes no difference to a run; leave it out")
    corner = [one.ends[0] for one in space]
    samples = [corner]
    for index, one in enumerate(space):
        samples += [[*corner[:index], end, *corner[index + 1 :]] for end in one.ends[1:]]
    try:
        return checked_jobs([[*shared, *sample] for sample in samples], samples, flags)[0][0]
    except ConfigError as error:
        raise ConfigError(f"search: {error}") from None


def _pruner(name: str | None, chosen: Sequence[Objective]) -> str:
    """The pruner that is meant. Raises ConfigError where none is possible."""
    several, unmeasured = len(chosen) > 1, not chosen[0].is_metric
    if name in (None, "none"):
        return "none" if name or several or unmeasured else "median"
    if several:
        raise ConfigError(
            f"pruner={name} needs one objective: Optuna cannot say which of two trials is worse before both have "
            "ended; leave out pruner=..., or all but one objective"
        )
    if unmeasured:
        raise ConfigError(f"pruner={name}: {chosen[0].name} is not measured at evaluations; write pruner=none")
    return str(name)


def _identity(config: Config, own: Sequence[str]) -> dict[str, str]:
    """The identity of a trial's run: that of its config, and what is searched beside it, such as a path."""
    found, whole = identity_of(config), dotted(asdict(config))
    searched = [word.lstrip("+").partition("=")[0] for word in own]
    return found | {key: canonical(whole[key]) for key in searched if key in whole and key not in found}


def check_same_search(plan: SearchPlan, known: dict[str, Any]) -> None:
    """Raise ConfigError if the folder holds a search of something else, whose trials could not be compared."""
    now = plan.kept
    lines = [f"{key}='{known[key]}', now '{now[key]}'" for key in ("search", "objective") if known[key] != now[key]]
    if not lines:
        base, new = known["base"], now["base"]
        keys = [key for key in sorted({*base, *new}) if base.get(key) != new.get(key)]
        lines = [f"{key}={text_as_typed(base.get(key))}, now {text_as_typed(new.get(key))}" for key in keys]
    if lines:
        few = lines[:3] + [f"and {len(lines) - 3} more keys"] * (len(lines) > 3)
        raise ConfigError("\n".join([f"{plan.folder} holds another search; choose another name, or:", *few]))


def _callbacks(folder: Path, number: int, objective: Objective, pruner: str) -> list[Any]:
    from .pruning import report_trial

    return list(report_trial(folder, number, objective, pruner))
