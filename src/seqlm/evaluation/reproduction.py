"""What a run shows beside what was published, as a record that holds no path and no text."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..config.build import build
from ..config.metrics import Metric, by_name
from ..config.migrate import METRICS, migrate_score
from ..config.values import HARMLESS, differences, dotted, find_configs, grown, load_config, plain_dict, recorded
from ..errors import SeqlmError
from ..runs.folder import RunFolder
from ..runs.table import table
from ..tasks.base import Task

FACTS = ("seqlm", "torch", "python", "git", "device", "hardware", "seed", "parameters", "steps", "tokens", "seconds")
# How the code of a recipe counts: by the beginning of its name.
PROTOCOLS = {
    "awd": "awd", "qrnn": "awd", "mos": "awd", "zaremba": "zaremba", "gal": "zaremba", "wlm": "wlm", "melis": "lamb",
    "mogrifier": "lamb",
}  # fmt: skip


def protocol_of(experiment: str) -> str:
    """How the code that an experiment comes from counts."""
    return PROTOCOLS.get(experiment.partition("_")[0], "seqlm")


def finished(folder: Path) -> bool:
    """Whether there is a run, and it came to its end."""
    return (folder / "run.json").is_file() and RunFolder.open(folder).info().get("status") == "finished"


def experiment_of(run: RunFolder) -> str:
    """The name of a run's experiment; `default` if it has none."""
    return str(run.info().get("choices", {}).get("experiment") or "default")


def file_name(run: RunFolder, preset: Mapping[str, Any]) -> str:
    """<experiment>[-<engine>][-seed<seed>].json: the engine if one was forced, the seed if it is not the preset's."""
    config = load_config(run.config)
    engine = [] if config.engine == "auto" else [config.engine]
    seed = [] if config.seed == preset["seed"] else [f"seed{config.seed}"]
    return "-".join([experiment_of(run), *engine, *seed]) + ".json"


def changes(config: Mapping[str, Any], preset: Mapping[str, Any]) -> list[str]:
    """What makes of a configuration another experiment than the preset, as "key: old -> new"."""
    wanted = recorded(preset)
    return [
        f"{key}: {old} -> {new}"
        for key, old, new in differences(wanted, grown(recorded(config), wanted))
        if not key.startswith(HARMLESS) and key != "engine"
    ]


def check(run: RunFolder, preset: Mapping[str, Any]) -> None:
    """Raise SeqlmError unless the run is the experiment it says it is, and does not go on as we look."""
    if changed := changes(plain_dict(load_config(run.config)), preset):
        raise SeqlmError(f"{run.path} is not {experiment_of(run)} as published here: {'; '.join(changed)}")
    if (status := run.info()["status"]) not in ("finished", "interrupted"):
        raise SeqlmError(f"{run.path} is {status}, not finished")


def record(run: RunFolder, preset: Mapping[str, Any]) -> dict[str, Any]:
    """What a run showed: settings, scores of its best checkpoint, curve, versions, hardware, time.

    A text is scored as one stream, and as the code of the recipe counts. Scores hold metrics, not the tables of
    `seqlm eval`. A run that was interrupted has that as its status; what it shows so far may be of valid alone, because
    test is scored once.
    """
    check(run, preset)
    info, config, name = run.info(), load_config(run.config), experiment_of(run)
    task: Task = build(config.task, "task")
    scores: dict[str, dict[str, Any]] = {}
    is_text = "protocol" in task.eval_options
    protocol = protocol_of(name) if is_text else "seqlm"
    wanted = {"checkpoint": info["best_step"]}
    if "window" in task.eval_options:  # one stream; where nothing is carried, pieces as they were in training
        wanted |= {"batch_size": 1} if task.stateful else {"window": config.train.window}
    for split in ("valid", "test"):
        for kind in ("", "-adapted"):  # with dynamic evaluation, cache or temperature
            score = run.eval_result(split + kind)
            counted = kind or score.get("protocol", {}).get("name", "seqlm") == protocol
            if counted and {key: score.get(key) for key in wanted} == wanted:
                kept = {key: value for key, value in score.items() if key not in ("run", "report")}
                scores[(split + kind).replace("-", "_")] = kept
        if split not in scores and (split == "valid" or info["status"] == "finished"):
            words = f"split={split}" + (f" protocol={protocol}" if protocol != "seqlm" else "")
            raise SeqlmError(f"{run.path} has no score of its best checkpoint; run: seqlm eval {run.path} {words}")
    reported = headlines(task, scores["valid"])
    curve = [one for one in run.records() if "valid/loss" in one]
    metrics = [key for key in (curve or [{}])[0] if key.startswith("valid/")]
    written: dict[str, Any] = {
        "experiment": name,
        "task": info.get("choices", {}).get("task") or task_of(name),
        "reported": reported,
        "metrics": [metric._asdict() for metric in task.metrics],
        "engine": config.engine,
        "status": info["status"],
        "published": published(name, "" if is_text else reported[0]),
        **{key: info.get(key) for key in (*FACTS, "resumed")},
        **{key: info[key] for key in ("began_with", "language_models") if key in info},
        "tokens_per_s": round(info["tokens"] / info["seconds"], 1),
        "scores": scores,
        "curve_columns": ["step", "seconds", *(key.replace("/", "_") for key in metrics)],
        "curve": [[one["step"], one["seconds"], *(one.get(key) for key in metrics)] for one in curve],
        "config": dotted(recorded(plain_dict(config))),
    }
    return {**written, "difference": difference(written)}


def headlines(task: Task, metrics: Container[str]) -> list[str]:
    """Those of the metrics that a table of results shows; the loss if there is nothing else."""
    names = [name for name in dict.fromkeys([task.monitor, *task.reported]) if name in metrics]
    return [name for name in names if name != "loss"] or ["loss"]


def quoted(name: str) -> dict[str, str]:
    """What the header of an experiment quotes for valid and test, as it stands there.

    "114.5", "about 136", or with the names of metrics: "frame 82.6, f1 95.2".
    """
    number = r"(?:about )?\d+(?:\.\d+)?"
    metric = rf"(?i:{'|'.join(metric.name for metric in METRICS)}) {number}"
    found = re.findall(rf"\b(valid|test) ({number}|{metric}(?:, {metric})*)", _header(name))
    return dict(reversed(found))  # the first of each


def published(name: str, metric: str = "") -> dict[str, Any]:
    """The same as numbers. Of language models with their unit: perplexity (ppl) or bits per character (bpc).

    Of other tasks by metric, {"test": {"f1": 95.2}}, which is `metric` where no name stands; shares in percent.
    """
    numbers = {split: text.replace("about ", "").lower() for split, text in quoted(name).items()}
    if metric:
        pairs = {split: [f"{metric} {one}".split()[-2:] for one in text.split(", ")] for split, text in numbers.items()}
        return {split: {known: float(number) for known, number in found} for split, found in pairs.items()}
    unit = "bpc" if " bits " in _header(name) else "ppl"
    return {"unit": unit, **{split: float(text) for split, text in numbers.items()}} if numbers else {}


def metrics_of(written: Mapping[str, Any]) -> dict[str, Metric]:
    """The metrics that the task of a record declares; those of version 0.1.0 if the record is older."""
    return by_name(written.get("metrics", METRICS))


def task_of(name: str) -> str:
    """The task that an experiment chooses, or the one it is made from: lm if none does."""
    text = _text(name)
    chosen, parent = re.search(r"^  - override /task: (\w+)$", text, re.M), re.search(r"^  - (\w+)$", text, re.M)
    return chosen[1] if chosen else task_of(parent[1]) if parent else "lm"


def _header(name: str) -> str:
    """The line of an experiment that begins with Published."""
    header = re.search(r"^# Published:(.*)$", _text(name), re.M)
    return header[1] if header else ""


def _text(name: str) -> str:
    path = find_configs() / "experiment" / f"{name}.yaml"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def summary(written: Mapping[str, Any]) -> str:
    """Published and measured, side by side."""
    lines = [["", "published", "measured", "difference"]]
    for name, value, theirs in _side_by_side(written):
        quoted, difference = ("-", "-") if theirs is None else (f"{theirs:.2f}", f"{value - theirs:+.2f}")
        lines.append([name, quoted, f"{value:.3f}", difference])
    return table(lines, 1)


def difference(written: Mapping[str, Any]) -> dict[str, float]:
    """Measured less published, of everything that was published."""
    return {name: round(value - theirs, 4) for name, value, theirs in _side_by_side(written) if theirs is not None}


def _side_by_side(written: Mapping[str, Any]) -> Iterator[tuple[str, float, float | None]]:
    """What was measured, its value, and the published one; of a text also as the recipe's own code counts."""
    quoted, metrics = written["published"], metrics_of(written)
    unit = quoted.get("unit", "ppl")
    for split in ("valid", "test"):
        if split not in written["scores"]:
            continue
        score = migrate_score(written["scores"][split])
        if written.get("task", "lm") == "lm":
            yield split, score[unit], quoted.get(split)
            if "protocol" in score and unit != "bpc":
                yield f"{split}, theirs", score["protocol"]["ppl"], quoted.get(split)
        else:
            by_metric = quoted.get(split, {})
            for name in written["reported"]:
                yield f"{split} {name}", metrics[name].quoted(score[name]), by_metric.get(name)
