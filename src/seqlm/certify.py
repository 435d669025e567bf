"""seqlm certify: what a finished run shows, beside what was published, as a record that holds no path and no text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .config import DATA_PATHS, differences, dotted, find_configs, load_config, plain_dict
from .errors import SeqlmError
from .evaluate import main as evaluate
from .run import RunFolder, to_json, write_atomically

# Keys that may differ from the preset without making it another experiment.
HARMLESS = ("seed", "sample.", "checkpoint.", "train.log_every", "train.default_steps")
FACTS = ("seqlm", "torch", "python", "git", "device", "hardware", "seed", "parameters", "steps", "tokens", "seconds")
# How the code of a recipe counts: by the beginning of its name.
LENSES = {
    "awd": "awd", "qrnn": "awd", "mos": "awd", "zaremba": "zaremba", "wlm": "wlm", "melis": "lamb", "mogrifier": "lamb",
}  # fmt: skip


def certify(folder: str | Path, preset_of: Callable[[str], Mapping[str, Any]], out: Path) -> Path:
    """Score the best checkpoint of the finished run in `folder` and write its record into `out`.

    `preset_of` gives the configuration of an experiment by its name. Raises SeqlmError if the run is not that, or not
    finished.
    """
    run = RunFolder.open(folder)
    preset = preset_of(experiment_of(run))
    check(run, preset)
    lens = LENSES.get(experiment_of(run).partition("_")[0], "seqlm")
    for split in ("valid", "test"):
        evaluate(str(folder), [f"split={split}", f"lens={lens}"], False)
        print()
    written = record(run, preset)
    out.mkdir(parents=True, exist_ok=True)
    path = out / file_name(run, preset)
    write_atomically(path, to_json(written, indent=1) + "\n")
    print(summary(written))
    print(f"record      {path}")
    return path


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


def check(run: RunFolder, preset: Mapping[str, Any]) -> None:
    """Raise SeqlmError unless the run is finished, and is the experiment it says it is."""
    changed = [
        f"{key}: {old} -> {new}"
        for key, old, new in differences(recorded(preset), recorded(plain_dict(load_config(run.config))))
        if not key.startswith(HARMLESS) and key != "engine"
    ]
    if changed:
        raise SeqlmError(f"{run.path} is not {experiment_of(run)} as published here: {'; '.join(changed)}")
    if run.info()["status"] != "finished":
        raise SeqlmError(f"{run.path} is {run.info()['status']}, not finished")


def record(run: RunFolder, preset: Mapping[str, Any]) -> dict[str, Any]:
    """What a run showed: settings, scores of its best checkpoint by one stream, curve, versions, hardware, time."""
    check(run, preset)
    info, config, name = run.info(), load_config(run.config), experiment_of(run)
    scores = {}
    for split in ("valid", "test"):
        scores[split] = run.eval_result(split)
        wanted = {"batch_size": 1, "checkpoint": info["best_step"]}
        if {key: scores[split].get(key) for key in wanted} != wanted:
            raise SeqlmError(
                f"{run.path} has no score of its best checkpoint; run: seqlm eval {run.path} split={split}"
            )
        scores[split].pop("run")
        adapted = run.path / f"eval-{split}-adapted.json"  # with dynamic evaluation, cache or temperature
        if adapted.is_file():
            scores[f"{split}_adapted"] = json.loads(adapted.read_text(encoding="utf-8"))
            scores[f"{split}_adapted"].pop("run")
    curve = [[r["step"], r["seconds"], r["valid/ppl"], r["valid/bpc"]] for r in run.records() if "valid/ppl" in r]
    return {
        "experiment": name,
        "engine": config.engine,
        "status": info["status"],
        "published": published(name),
        **{key: info.get(key) for key in (*FACTS, "resumed")},
        "tokens_per_s": round(info["tokens"] / info["seconds"], 1),
        "scores": scores,
        "curve_columns": ["step", "seconds", "valid_ppl", "valid_bpc"],
        "curve": curve,
        "config": dotted(recorded(plain_dict(config))),
    }


def recorded(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what says where, not what."""
    where = ("run", "trust", "resume", "threads", "device", "init_from")
    kept = {key: value for key, value in config.items() if key not in where}
    return {**kept, "data": {key: value for key, value in kept["data"].items() if key not in DATA_PATHS}}


def quoted(name: str) -> dict[str, str]:
    """What the header of an experiment quotes for valid and test, as it stands there: "114.5", "about 136"."""
    header = _header(name)
    found = re.findall(r"\b(valid|test) ((?:about )?\d+(?:\.\d+)?)", header)
    return dict(reversed(found))  # the first of each


def published(name: str) -> dict[str, Any]:
    """The same as numbers, and their unit: perplexity (ppl) or bits per character (bpc)."""
    unit = "bpc" if " bits " in _header(name) else "ppl"
    numbers = {split: float(text.removeprefix("about ")) for split, text in quoted(name).items()}
    return {"unit": unit, **numbers} if numbers else {}


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
    quoted, lines = written["published"], [f"{'':<12}{'published':>12}{'measured':>12}{'difference':>12}"]
    unit = quoted.get("unit", "ppl")
    for split in ("valid", "test"):
        score = written["scores"][split]
        for name, value in {split: score[unit], f"{split}, theirs": score.get("lens", {}).get("ppl")}.items():
            if value is None or (unit == "bpc" and "theirs" in name):
                continue
            theirs = quoted.get(split)
            texts = ("-", "-") if theirs is None else (f"{theirs:.2f}", f"{value - theirs:+.2f}")
            lines.append(f"{name:<12}{texts[0]:>12}{value:>12.3f}{texts[1]:>12}")
    return "\n".join(lines)
