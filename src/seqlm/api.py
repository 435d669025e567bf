"""The Python interface: train and evaluate runs from a program, with the keys and the checks of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .config.compose import compose_words, words_of
from .config.values import load_config
from .config.yaml_files import read_yaml
from .errors import ConfigError
from .evaluation.evaluate import evaluate as evaluate_batches
from .runs.load import LoadedRun, load_run
from .training import launch


def train(config: Mapping[str, Any] | str | Path | None = None) -> LoadedRun:
    """Train a run to its end and return it, loaded from its folder with its best weights.

    Progress is printed as by `seqlm train`. Raises SeqlmError for all that the command refuses.

    Args:
        config: keys of `seqlm train` and their values, nested or dotted; a YAML file of such keys; or the config.yaml
            of a run, which is trained anew. None: the defaults.

    >>> import seqlm
    >>> run = seqlm.train({"data": "markov", "data.tokens": 2000, "model": "gru", "model.hidden_size": 8,
    ...                    "train": {"steps": 20, "batch_size": 4}, "run.name": "first"})
    run ...
    >>> run.config.model["hidden_size"], run.checkpoint.step
    (8, 20)
    """
    if isinstance(config, (str, Path)):
        path, config = Path(config), read_yaml(Path(config))
        if isinstance(config.get("model"), Mapping) and "_target_" in config["model"]:  # whole, as a run keeps it
            return load_run(launch.train(load_config(path), {}).run.path)
    if not isinstance(config, Mapping | None):
        raise ConfigError(f"config={config!r} should be a mapping of keys of seqlm train, or the path of a YAML file")
    words = words_of(config or {})
    return load_run(launch.train(*compose_words(words), words).run.path)


def evaluate(run: LoadedRun | str | Path, split: str = "test", *, batch_size: int | None = None) -> dict[str, float]:
    """Score a split of a run's data, every target once; returns the metrics of its task by name.

    Args:
        run: a loaded run, or its folder.
        split: train, valid or test.
        batch_size: sequences read side by side. None: one stream of a text, as published numbers are counted; as in
            training where sequences are read by themselves.

    >>> import seqlm
    >>> metrics = seqlm.evaluate("outputs/first", "valid")
    >>> sorted(metrics)
    ['bpc', 'loss', 'ppl']
    """
    run = run if isinstance(run, LoadedRun) else load_run(run)
    rows = batch_size or run.task.eval_batch_size(run.config)
    batches = run.task.batches(run.data, split, rows, run.task.eval_bptt(run.config, rows))
    score = evaluate_batches(run.model, run.task, batches, next(run.model.parameters()).device)
    metrics: dict[str, float] = run.task.compute_metrics(score, run.data, split)
    return metrics
