"""seqlm reproduce: train a published setting, score it as its paper did, and put both figures side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config.compose import experiment
from ..errors import ConfigError, SeqlmError, describe
from ..evaluation.reproduction import changes, check, experiment_of, file_name, finished, record, summary
from ..files import to_json, write_atomically
from ..runs.folder import RunFolder
from .eval import evaluate_run
from .train import main as train
from .words import is_place, pop_value


def main(words: Sequence[str]) -> None:
    """`seqlm reproduce RUN | experiment=NAME [key=value ...] [out=FOLDER]`."""
    out, words = pop_value("out", words, "reproduced")
    if words and is_place(words[0]):
        folder, rest = Path(words[0]), words[1:]
        if rest:
            raise ConfigError(f"seqlm reproduce RUN takes no {rest[0]}: a run is measured as it is")
    else:
        folder, words = _planned(words)
        if not finished(folder):
            train([*words, f"run.name={folder.name}", f"run.root={folder.parent}", "resume=auto"])
    reproduce(folder, experiment, Path(os.path.expanduser(out)))


def _planned(words: Sequence[str]) -> tuple[Path, Sequence[str]]:
    """The folder of the run that words with `experiment=NAME` train, and the words without its name."""
    name, own_words = pop_value("experiment", words, "")
    if not name:
        raise ConfigError("seqlm reproduce needs a run's folder, or experiment=NAME to train it first")
    if changed := changes(experiment(name, own_words), experiment(name)):  # before it is trained
        raise ConfigError(
            f"seqlm reproduce measures experiment={name} as it is, but the words change {'; '.join(changed)}; leave "
            "them out, or use seqlm train"
        )
    engine, precision, seed = (pop_value(key, words, "")[0] for key in ("engine", "precision", "seed"))
    parts = ["reproduce", name, engine, precision, f"seed{seed}" * bool(seed)]
    own = "-".join(part for part in parts if part)
    run_name, words = pop_value("run.name", words, own)
    root, words = pop_value("run.root", words, "outputs")
    return Path(root) / run_name, words


def reproduce(folder: str | Path, preset_of: Callable[[str], Mapping[str, Any]], out: Path) -> Path:
    """Score the best checkpoint of the finished run in `folder` and write its record into `out`.

    `preset_of` gives the configuration of an experiment by its name. Raises SeqlmError if the run is not that, or not
    finished.
    """
    run = RunFolder.open(folder)
    preset = preset_of(experiment_of(run))
    check(run, preset)
    if (status := run.info()["status"]) != "finished":
        raise SeqlmError(f"{run.path} is {status}, not finished")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out={out} cannot be made ({describe(error)}); give a folder") from None
    protocol = (preset.get("published") or {}).get("protocol", "seqlm")
    for split in ("valid", "test"):
        evaluate_run(str(folder), [f"split={split}", f"protocol={protocol}"], False)
        print()
    written = record(run, preset)
    path = out / file_name(run, preset)
    write_atomically(path, to_json(written, indent=1) + "\n")
    print(summary(written))
    print(f"record      {path}")
    return path
