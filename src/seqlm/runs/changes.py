"""Keys that a run may not be resumed with, and the command for a new run that has them. Imports no torch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..config.comparison import RESUMABLE, differences, refused_changes
from ..config.compose import compose_values, compose_words
from ..config.keys import dotted
from ..config.schema import DATA_PATHS, PARTS, Config
from ..config.words import Words, as_word, words_of
from ..errors import ConfigError
from .folder import RunFolder

# Keys that weights of another run have no use for: they would not fit, or there would be nothing new in it.
FROM_SCRATCH = ("seed", "model.", "init_from")


def check_changes(run: RunFolder, saved: Config, changed: Config) -> None:
    """Raise ConfigError, with the command for a new run, if `changed` is another experiment than the run's `saved`."""
    refused = refused_changes(saved, changed)
    if not refused:
        return
    choices = run.info().get("choices", {})
    parts = {part: value for part in PARTS if isinstance(value := getattr(changed, part), str)}  # model=gru
    lines = [f"  {part}: {choices.get(part)} -> {value}" for part, value in parts.items()]
    lines += [f"  {key}: {old} -> {new}" for key, old, new in refused if key.partition(".")[0] not in parts]
    raise ConfigError(
        f"{run.path} goes on as it was begun; these keys cannot change on resume:\n"
        + "\n".join(lines[:8] + [f"  and {len(lines) - 8} more"] * (len(lines) > 8))
        + f"\n{_way_out(run, changed, [key for key, _, _ in refused])}"
        + "\nOr change only: "
        + ", ".join(key + "*" if key.endswith(".") else key for key in RESUMABLE)
    )


def _way_out(run: RunFolder, changed: Config, keys: list[str]) -> str:
    """The command that starts a new run with the changed keys."""
    info = run.info()
    words = words_that_compose(changed, info.get("overrides") or _chosen(info.get("choices", {})))
    if words is None:
        return "start a new run with `seqlm train ...`"
    if any(f"{key}.".startswith(FROM_SCRATCH) for key in keys):
        return f"A new run from scratch:\n  {shlex.join(['seqlm', 'train', *words])}"
    command = shlex.join(["seqlm", "train", f"init_from={run.path}", *words])
    return f"A new run that begins with its weights (and optimizer: init_from.optimizer=true):\n  {command}"


def words_that_compose(config: Config, begin: Words) -> list[str] | None:
    """Words from which `seqlm train` composes `config`, without its name and what it begins with; None if none do.

    `begin` are words that are known to come near. A part of `config` may be the name of a choice, as in model=gru.
    """
    target = {key: value for key, value in asdict(config).items() if key not in ("run", "resume", "init_from")}
    named = {part: target.pop(part) for part in PARTS if isinstance(target[part], str)}
    data = target.get("data", {})
    files = {f"data.{key}": data[key] for key in DATA_PATHS if isinstance(data.get(key), str)}
    replaced = ("run.name=", "resume=", "init_from", *(f"{key}=" for key in files), *(f"{key}." for key in named))
    words = [word for word in begin if not word.startswith(replaced)] + words_of({**named, **files})
    try:
        changed = _words_between(words, target)
        keys = {word.partition("=")[0] for word in changed}
        words = [word for word in words if word.partition("=")[0] not in keys] + changed
        return None if _words_between(words, target) else words
    except ConfigError:
        return None


def _words_between(words: Words, target: Mapping[str, Any]) -> list[str]:
    """The words that `words` lack to compose the values of `target`."""
    found, wanted = (dotted({key: one[key] for key in target}) for one in (compose_values(words), target))
    return [
        ("" if key in found else "+") + f"{key}={as_word(new)}" if key in wanted else f"~{key}"
        for key, _, new in differences(found, wanted)
    ]


def _chosen(choices: dict[str, str]) -> list[str]:
    """Words for the choices of a run that are not those that are taken without any words."""
    experiment = [f"experiment={choices['experiment']}"] if "experiment" in choices else []
    try:
        usual = compose_words(experiment)[1]
    except ConfigError:  # an experiment of the user's own, or one that needs to know where its data is
        usual = {}
    return experiment + [f"{key}={value}" for key, value in choices.items() if usual.get(key) != value]
