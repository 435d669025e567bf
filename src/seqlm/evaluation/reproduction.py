"""A run beside what was published, as a record that holds no path and no text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.build import build
from ..config.comparison import IGNORED_KEYS, comparable_config, differences, with_missing_options
from ..config.keys import dotted, nested
from ..config.metrics import Metric, by_name
from ..config.migrate import METRICS, migrate_flat, migrate_score
from ..config.tree import find_configs
from ..config.values import load_config
from ..config.yaml_files import read_yaml
from ..errors import SeqlmError
from ..runs.folder import RunFolder
from ..runs.table import table

if TYPE_CHECKING:
    from ..tasks.base import Task

SPLITS = ("valid", "test")  # that are scored
FACTS = ("seqlm", "torch", "python", "git", "device", "hardware", "seed", "parameters", "steps", "tokens", "seconds")
COMPUTED = ("engine", "precision")  # keys of how, not what: with another value it is the same experiment


def finished(folder: Path) -> bool:
    """Whether there is a run, and it came to its end."""
    return (folder / "run.json").is_file() and RunFolder.open(folder).info().get("status") == "finished"


def experiment_of(run: RunFolder) -> str:
    """The name of a run's experiment; `default` if it has none."""
    return str(run.info().get("choices", {}).get("experiment") or "default")


def file_name(run: RunFolder, preset: Mapping[str, Any]) -> str:
    """<experiment>[-<engine>][-<precision>][-seed<seed>].json: what was forced, or is not as in the preset."""
    config = load_config(run.config)
    engine = [] if config.engine == "auto" else [config.engine]
    engine += [] if config.precision == preset.get("precision", "float32") else [config.precision]
    seed = [] if config.seed == preset["seed"] else [f"seed{config.seed}"]
    return "-".join([experiment_of(run), *engine, *seed]) + ".json"


def changes(config: Mapping[str, Any], preset: Mapping[str, Any]) -> list[str]:
    """Every key in which a configuration is another experiment than the preset, as "key: old -> new"."""
    return _changes(comparable_config(config), comparable_config(preset))


def record_changes(written: Mapping[str, Any], preset: Mapping[str, Any]) -> list[str]:
    """The same of a record, whose configuration may have the keys of an older version."""
    config = nested(migrate_flat(written["config"]))
    whole = {**config, "init_from": config.get("init_from") or None}  # comparable_config keeps whether there is one
    return _changes(comparable_config(whole), comparable_config(preset))


def _changes(config: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    return [
        f"{key}: {old} -> {new}"
        for key, old, new in differences(expected, with_missing_options(config, expected))
        if not key.startswith(IGNORED_KEYS) and key not in COMPUTED
    ]


def check(run: RunFolder, preset: Mapping[str, Any]) -> None:
    """Raise SeqlmError unless the run is the experiment of its name, and finished or interrupted."""
    if changed := changes(asdict(load_config(run.config)), preset):
        raise SeqlmError(f"{run.path} is not {experiment_of(run)} as published here: {'; '.join(changed)}")
    if (status := run.info()["status"]) not in ("finished", "interrupted"):
        raise SeqlmError(f"{run.path} is {status}, not finished")


def record(run: RunFolder, preset: Mapping[str, Any]) -> dict[str, Any]:
    """Record of a run: settings, scores of its best checkpoint, curve, versions, hardware, time.

    A text is scored as one stream, and as the code of the recipe counts. Scores hold metrics, not the tables of
    `seqlm eval`. A run that was interrupted has that as its status; what it shows so far may be of valid alone, because
    test is scored once.
    """
    check(run, preset)
    info, config, name = run.info(), load_config(run.config), experiment_of(run)
    task: Task = build(config.task, "task")
    scores: dict[str, dict[str, Any]] = {}
    figures = preset.get("published") or {}
    protocol = figures.get("protocol", "seqlm") if "protocol" in task.eval_options else "seqlm"
    expected = {"checkpoint": info["best_step"]}
    if "bptt" in task.eval_options:  # one stream; where nothing is carried, pieces as they were in training
        expected |= {"batch_size": 1} if task.stateful else {"bptt": config.train.bptt}
    for split in SPLITS:
        for kind in ("", "-adapted"):  # with dynamic evaluation, cache or temperature
            score = run.eval_result(split + kind)
            counted = kind or score.get("protocol", {}).get("name", "seqlm") == protocol
            if counted and {key: score.get(key) for key in expected} == expected:
                kept = {key: value for key, value in score.items() if key not in ("run", "report")}
                scores[(split + kind).replace("-", "_")] = kept
        if split not in scores and (split == "valid" or info["status"] == "finished"):
            words = f"split={split}" + (f" protocol={protocol}" if protocol != "seqlm" else "")
            raise SeqlmError(f"{run.path} has no score of its best checkpoint; run: seqlm eval {run.path} {words}")
    reported = task.headlines(scores["valid"])
    curve = [one for one in run.records() if "valid/loss" in one]
    metrics = [key for key in (curve or [{}])[0] if key.startswith("valid/")]
    written: dict[str, Any] = {
        "experiment": name,
        "task": info.get("choices", {}).get("task") or task_of(name),
        "reported": reported,
        "metrics": [metric._asdict() for metric in task.metrics],
        "engine": config.engine,
        "status": info["status"],
        "published": {key: figures[key] for key in ("unit", "valid", "test") if key in figures},
        **{key: info.get(key) for key in (*FACTS, "resumed")},
        **{key: info[key] for key in ("began_with", "language_models") if key in info},
        "tokens_per_s": round(info["tokens"] / info["seconds"], 1),
        "scores": scores,
        "curve_columns": ["step", "seconds", *(key.replace("/", "_") for key in metrics)],
        "curve": [[one["step"], one["seconds"], *(one.get(key) for key in metrics)] for one in curve],
        "config": dotted(comparable_config(asdict(config))),
    }
    return {**written, "difference": difference(written)}


def metrics_of(written: Mapping[str, Any]) -> dict[str, Metric]:
    """The metrics that the task of a record declares; those of version 0.1.0 if the record is older."""
    return by_name(written.get("metrics", METRICS))


def task_of(name: str) -> str:
    """The task that an experiment chooses, or the one it is made from: lm if none does."""
    chosen, parents = None, []
    for entry in _read(name).get("defaults", []):
        if isinstance(entry, str):
            parents.append(entry)
        else:
            chosen = entry.get("override /task", chosen)
    return chosen or (task_of(parents[0]) if parents and parents[0] != "_self_" else "lm")


def published_of(name: str) -> dict[str, Any]:
    """The published figures of an experiment, and of those it is made from; empty if there are none."""
    values = _read(name)
    parents = [entry for entry in values.get("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    inherited = published_of(parents[0]) if parents else {}
    return {**inherited, **(values.get("published") or {})}


def _read(name: str) -> dict[str, Any]:
    path = find_configs() / "experiment" / f"{name}.yaml"
    return read_yaml(path) if path.is_file() else {}


def summary(written: Mapping[str, Any]) -> str:
    """Published and measured, side by side."""
    lines = [["", "published", "measured", "difference"]]
    for name, value, published in _side_by_side(written):
        quoted, difference = ("-", "-") if published is None else (f"{published:.2f}", f"{value - published:+.2f}")
        lines.append([name, quoted, f"{value:.3f}", difference])
    return table(lines, 1)


def difference(written: Mapping[str, Any]) -> dict[str, float]:
    """Measured less published, of everything that was published."""
    return {
        name: round(value - published, 4) for name, value, published in _side_by_side(written) if published is not None
    }


def _side_by_side(written: Mapping[str, Any]) -> Iterator[tuple[str, float, float | None]]:
    """Each measured metric, its value, and the published one; a perplexity also as the recipe's own code counts."""
    figures, metrics = written["published"], metrics_of(written)
    unit = figures.get("unit")
    for split, scores in written["scores"].items():
        score = migrate_score(scores)
        for name in dict.fromkeys([*written["reported"], *([unit] if unit else [])]) if split in SPLITS else ():
            published = figures.get(split) if name == unit else None
            yield f"{split} {name}", metrics[name].quoted(score[name]), published
            if name == "ppl" and "protocol" in score:
                yield f"{split} {name}, as they count", score["protocol"]["ppl"], published
