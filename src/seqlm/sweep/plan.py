"""The jobs of a sweep: what each is, where its run lies, and how it stands. Starts nothing, writes nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..config.comparison import IGNORED_KEYS, canonical, telling_config, with_missing_options
from ..config.compose import compose_jobs, differing_words, expand
from ..config.keys import dotted
from ..config.schema import RANDOM_SEED, Config, RunConfig
from ..config.values import as_typed, load_config, with_absolute_paths
from ..config.words import Choices, overrides
from ..errors import ConfigError
from ..files import file_stem
from ..runs.folder import RunFolder
from ..runs.naming import name_part
from .place import Place

LONGEST_NAME, DIGITS = 60, 8  # of a job's folder; of the hash that ends it
# Keys that never tell two jobs apart. All that an identity leaves out otherwise does where nothing else differs.
NEVER = ("run.", "resume", "trust", "published", "tags", "note", "logger")
KEPT = tuple(key for key in IGNORED_KEYS if key != "seed")


@dataclass(frozen=True)
class Job:
    """A run to be: all its words, those that other jobs do not have, and the values that make it what it is."""

    number: int
    words: list[str]
    differing: str
    config: Config
    choices: Choices
    identity: dict[str, str]
    place: Place
    callbacks: Callable[[], Sequence[Any]] = tuple  # makes those of its run, in its process


@dataclass(frozen=True)
class Stray:
    """A run in the folder of a sweep that is none of its jobs, and why: the values that no job has."""

    run: RunFolder
    why: str


@dataclass
class Plan:
    """All jobs of a sweep, each composed and checked; how many repeated another; runs in its folder that are no job."""

    folder: Path
    jobs: list[Job] = field(default_factory=list)
    repeated: int = 0
    strays: list[Stray] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many jobs there will be."""
        return len(self.jobs)

    def title(self, job: Job) -> str:
        """A job in a line: `[3/8] model=gru seed=2`."""
        return f"[{job.number}/{self.count}] {job.differing}".rstrip()


def make_plan(name: str, words: Sequence[str]) -> Plan:
    """The jobs of `seqlm sweep NAME WORDS`. Raises ConfigError that lists every mistake of every job."""
    jobs = expand(words)
    if any(f"seed={RANDOM_SEED}" in job for job in jobs):
        raise ConfigError(f"seed={RANDOM_SEED}: a sweep finds its runs again by their seeds; give some, seed=1,2,3")
    differing = differing_words(jobs)
    configs, choices = checked_jobs(jobs, differing, [word for word in words if word not in overrides(words)])
    plan = Plan(sweep_folder(name, configs))
    runs = {path.parent.name: RunFolder(path.parent) for path in sorted(plan.folder.glob("[!.]*/run.json"))}
    by_digest = {folder_name.rpartition("-")[2]: folder_name for folder_name in runs}
    known: set[str] = set()
    identities = _identities(configs)
    for words, own, config, taken, identity in zip(jobs, differing, configs, choices, identities, strict=True):
        digest = digest_of(identity)
        if digest not in known:
            known.add(digest)
            folder_name = by_digest.get(digest) or f"{readable_name(own, taken)}-{digest}"
            job = Job(
                len(known), words, " ".join(own), config, taken, identity, Place(plan.folder, folder_name, digest)
            )
            plan.jobs.append(placed(job, job.place))
    plan.repeated = len(jobs) - len(plan.jobs)
    for job in plan.jobs:
        runs.pop(job.place.run.name, None)
    for run in runs.values():
        _find_its_job(run, plan)
    return plan


def digest_of(identity: Mapping[str, str]) -> str:
    """The hash in the name of a job's folder."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:DIGITS]


def identity_of(config: Config, like: Job | None = None) -> dict[str, str]:
    """A configuration without paths, devices and all that changes no result, as text by dotted key.

    With `like` it has the keys of the identity of that job: options that are younger than the config at their defaults.
    """
    plain = asdict(with_absolute_paths(config))
    parts = telling_config(plain)
    if like is not None:
        parts = with_missing_options(parts, telling_config(asdict(like.config)))
    found = {key: text for key, text in _texts(parts).items() if not key.startswith(KEPT)}
    if like is not None:
        found |= {key: text for key, text in _texts(plain).items() if key in like.identity and key not in found}
    return found


def placed(job: Job, place: Place) -> Job:
    """The job with its run in another place."""
    run = RunConfig(name=place.run.name, root=str(place.run.path.parent))
    return replace(job, place=place, config=replace(job.config, run=run, resume="auto"))


def _find_its_job(run: RunFolder, plan: Plan) -> None:
    """Give a run whose folder has no job's hash to the job that it is a run of (older, renamed), or call it a stray."""
    try:
        config = load_config(run.config)
    except ConfigError as error:
        plan.strays.append(Stray(run, f"it cannot be read: {error}"))
        return
    values = identity_of(config).items()
    index, nearest = min(enumerate(plan.jobs), key=lambda pair: len(values ^ pair[1].identity.items()))
    found = identity_of(config, nearest)
    keys = [key for key in sorted({*found, *nearest.identity}) if found.get(key) != nearest.identity.get(key)]
    if not keys and not nearest.place.run.path.exists():
        plan.jobs[index] = placed(nearest, Place(plan.folder, run.name, digest_of(nearest.identity)))
        return
    lines = []
    for key in keys:
        now = sorted({text_as_typed(job.identity.get(key)) for job in plan.jobs})
        lines.append(f"{key}={text_as_typed(found.get(key))}, now {' or '.join(now[:3])}" + ", ..." * (len(now) > 3))
    few = lines[:4] + [f"and {len(lines) - 4} more keys"] * (len(lines) > 4)
    plan.strays.append(Stray(run, "; ".join(few) or f"it repeats {nearest.place.run.name}"))


def _identities(configs: Sequence[Config]) -> list[dict[str, str]]:
    """The identity of each; where two are the same, with the paths and the like in which these differ."""
    found = [identity_of(config) for config in configs]
    alike: dict[str, list[int]] = {}
    for index, identity in enumerate(found):
        alike.setdefault(digest_of(identity), []).append(index)
    for indices in (each for each in alike.values() if len(each) > 1):
        whole = [_texts(asdict(with_absolute_paths(configs[index]))) for index in indices]
        keys = {key for one in whole for key in one if not key.startswith(NEVER)}
        telling = [key for key in sorted(keys) if len({one.get(key) for one in whole}) > 1]
        for index, values in zip(indices, whole, strict=True):
            found[index] = found[index] | {key: values[key] for key in telling if key in values}
    return found


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Values by dotted key as texts; null is left out, as for a part without the key."""
    return {key: canonical(value) for key, value in dotted(values).items() if value is not None}


def text_as_typed(text: str | None) -> str:
    """A text of `_texts` as its value stands on a command line."""
    value = None if text is None else json.loads(text)
    return as_typed(int(value) if isinstance(value, float) and value.is_integer() else value)


def checked_jobs(
    jobs: Sequence[Sequence[str]], differing: Sequence[Sequence[str]], flags: Sequence[str]
) -> tuple[list[Config], list[Choices]]:
    """Every job composed and its parts checked."""
    from ..runs.assemble import check_parts  # loads torch, which those do without that only read sweeps

    configs, choices = [], []
    problems: dict[str, list[str]] = {}  # the jobs that each is a mistake of
    for words, made in zip(differing, compose_jobs(jobs, flags), strict=True):
        try:
            if isinstance(made, ConfigError):
                raise made
            check_parts(made[0])
            configs.append(made[0])
            choices.append(made[1])
        except ConfigError as error:
            problems.setdefault(str(error), []).append(" ".join(words))
    if problems:
        count = len(jobs) - len(configs)
        lines = [f"{count} of {len(jobs)} jobs cannot be run, so none was started:"]
        for text, which in problems.items():
            named = "; ".join(which[:3]) + f"; and {len(which) - 3} more" * (len(which) > 3)
            lines.append(f"{text}\n  in {'every job' if len(which) == len(jobs) else named}")
        raise ConfigError("\n".join(lines) if len(jobs) > 1 else next(iter(problems)))
    return configs, choices


def sweep_folder(name: str, configs: Sequence[Config]) -> Path:
    roots = {config.run.root for config in configs}
    if len(roots) > 1:
        raise ConfigError(f"run.root={','.join(sorted(roots))}: a sweep is in one folder; give one")
    for key in ("run.name", "resume"):
        if any((config.run.name if key == "run.name" else config.resume) is not None for config in configs):
            raise ConfigError(f"{key}=...: a sweep names its runs and resumes them itself; leave it out")
    folder = Path(roots.pop()) / name
    if (folder / "run.json").is_file():
        raise ConfigError(f"{folder} is a run, so it cannot be a sweep; choose another name")
    return folder


def readable_name(words: Sequence[str], choices: Choices) -> str:
    """The words that make a job, as the beginning of a file name: `gru-lr0.01-s2`."""
    pairs = [word.lstrip("+~").partition("=")[::2] for word in words]
    parts = [f"s{value}" if key == "seed" else name_part(key.partition("@")[0], value) for key, value in pairs]
    text = "-".join(parts or [file_stem(choices.get(group, group)) for group in ("data", "model")])
    return text[: LONGEST_NAME - DIGITS - 1].rstrip("-_.")
