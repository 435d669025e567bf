"""Keys that a run may not be resumed with, and the command for a new run that has them. Imports no torch."""

from __future__ import annotations

import shlex

from ..config.comparison import RESUMABLE, refused_changes
from ..config.compose import compose_words, words_that_compose
from ..config.schema import PARTS, Config
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


def _chosen(choices: dict[str, str]) -> list[str]:
    """Words for the choices of a run that are not those that are taken without any words."""
    experiment = [f"experiment={choices['experiment']}"] if "experiment" in choices else []
    try:
        usual = compose_words(experiment)[1]
    except ConfigError:  # an experiment of the user's own, or one that needs to know where its data is
        usual = {}
    return experiment + [f"{key}={value}" for key, value in choices.items() if usual.get(key) != value]
