"""Files of a run that do not change by themselves: are config.yaml and tokenizer.json still as seqlm wrote them?

run.json keeps the SHA-256 of both. meta.json of each checkpoint, which its manifest protects, keeps the values of the
configuration too, so that a key that differs can be named, and the length and SHA-256 of metrics.jsonl at that step.
Runs of older versions have none of these and are believed. Imports no torch.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from ..config.comparison import differences, may_change, refused_changes
from ..config.schema import Config
from ..config.values import as_typed, config_of, load_config, save_config
from ..errors import ConfigError
from ..files import sha256_of
from . import finding
from .folder import RunFolder

SHOWN = 8  # keys that differ


def seal(run: RunFolder) -> None:
    """Keep the digests of config.yaml and tokenizer.json in run.json."""
    run.update(sha256={file.name: [sha256_of(file)] for file in (run.config, run.tokenizer) if file.is_file()})


def write_config(run: RunFolder, config: Config) -> None:
    """Replace config.yaml by that of a run that is about to be trained on, by who holds it.

    A kill on the way leaves the old one or the new, both of which are known then, and a run that is not finished.
    """
    aside = run.config.with_name(".config.new.yaml")
    try:
        save_config(config, aside)
        before, after = sha256_of(run.config), sha256_of(aside)
        if before != after:
            run.update(status="running", sha256={**_digests(run), run.config.name: [before, after]})
            aside.replace(run.config)
    finally:
        aside.unlink(missing_ok=True)
    if before != after or not _digests(run):
        seal(run)


def meta(run: RunFolder, config: Config) -> dict[str, Any]:
    """Entries of the meta.json of every checkpoint of a session."""
    return {"config": asdict(config), "sha256": {run.tokenizer.name: sha256_of(run.tokenizer)}}


def is_as_written(run: RunFolder) -> bool:
    """Whether config.yaml is as run.json knows it, or run.json is of an older version."""
    known = _digests(run).get(run.config.name)
    return not isinstance(known, list) or sha256_of(run.config) in known


def saved_config(run: RunFolder) -> Config:
    """The config of a run. Raises ConfigError, with the keys that differ, if config.yaml is not as seqlm wrote it.

    Where run.json and the newest checkpoint disagree, the checkpoint is believed, because it has a manifest.
    """
    believed = is_as_written(run)
    step, then = _in_checkpoint(run)
    if then is None and believed:
        return load_config(run.config)
    try:
        now = load_config(run.config)
    except ConfigError as error:
        raise ConfigError(f"{error}\n{_way_out(run, step, then, [])}") from None
    if then is None:
        raise ConfigError(
            f"{run.config} is not as seqlm wrote it: it was edited or damaged.\n{_way_out(run, 0, None, [])}"
        )
    # A run that was resumed under other keys, and killed before it saved, has them in config.yaml alone.
    differing = refused_changes(then, now) if believed else differences(asdict(then), asdict(now))
    if not differing:
        return now
    lines = [f"  {key}={as_typed(old)}, and the file has {as_typed(new)}" for key, old, new in differing[:SHOWN]]
    lines += [f"  and {len(differing) - SHOWN} more"] * (len(differing) > SHOWN)
    words = [f"{key}={as_typed(new)}" for key, _, new in differing if may_change(key)]
    raise ConfigError(
        f"{run.config} was edited or damaged. The checkpoint of step {step:,} was trained with:\n"
        + "\n".join(lines)
        + f"\n{_way_out(run, step, then, words)}"
    )


def check_tokenizer(run: RunFolder) -> None:
    """Raise ConfigError if tokenizer.json is not as seqlm wrote it, by run.json and by the newest checkpoint."""
    known = [_digests(run).get(run.tokenizer.name)]
    found = finding.newest_meta(run.checkpoints) or {}
    known += [[digest] for digest in [(found.get("sha256") or {}).get(run.tokenizer.name)] if digest]
    lists = [one for one in known if isinstance(one, list)]
    if lists and run.tokenizer.is_file() and not any(sha256_of(run.tokenizer) in one for one in lists):
        raise ConfigError(
            f"{run.tokenizer} was edited or damaged: its tokens may not be those that the model has learned. "
            "Put it back from a copy, or start a new run"
        )


def _digests(run: RunFolder) -> dict[str, Any]:
    known = run.info().get("sha256")
    return known if isinstance(known, dict) else {}


def _in_checkpoint(run: RunFolder) -> tuple[int, Config | None]:
    """The step of the newest checkpoint whose meta.json is whole, and the config in it; None if there is none."""
    found = finding.newest_meta(run.checkpoints)
    if found is None or not isinstance(found.get("config"), Mapping):
        return 0, None
    return int(found["step"]), config_of(found["config"])


def _way_out(run: RunFolder, step: int, then: Config | None, words: list[str]) -> str:
    """How to put config.yaml back, and how a change is made instead."""
    if then is None:
        return "Put it back from a copy, or start a new run"
    kept = run.path / "config.kept.yaml"
    lines = []
    with suppress(OSError):  # a folder that may only be read
        save_config(then, kept)
        lines = [f"To put it back as it was at step {step:,}: {shlex.join(['cp', str(kept), str(run.config)])}"]
    if words:
        command = shlex.join(["seqlm", "resume", str(run.path), *words])
        lines += [f"To change a key, put it back and type the key: {command}"]
    return "\n".join(lines) or "Put these keys back"
