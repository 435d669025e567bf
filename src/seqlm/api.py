"""The Python interface: train, resume, evaluate and sample from a program, with the keys and checks of the commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .config.compose import compose_words
from .config.keys import dotted
from .config.schema import Config
from .config.trust import widening
from .config.values import as_typed, load_config, verb_options, with_words
from .config.verb_schema import LoadingConfig, SampleConfig, ScoreConfig
from .config.words import Choices, words_of
from .config.yaml_files import read_yaml
from .data.dataset import FILE
from .device import autocast, prepare
from .errors import ConfigError, several
from .evaluation.evaluate import evaluate as evaluate_batches
from .evaluation.line_scoring import line_scorer, load_to_score
from .evaluation.lines import LineScorer
from .runs.load import LoadedRun, load_run
from .tasks.generation import stream
from .training import launch
from .training.callbacks import Callback
from .training.running import Trained

# Keys of `seqlm sample` that say how a run is loaded and how many texts are written: not for one text of a loaded run.
ELSEWHERE = {*LoadingConfig.__dataclass_fields__, "average_last", "texts"} - {"precision"}


def train(*config: str | Mapping[str, Any] | Path, callbacks: Sequence[Callback] = ()) -> LoadedRun:
    """Train a run to its end and return it, loaded from its folder with its best weights, where it was trained.

    Progress is shown as by `seqlm train`, in a notebook by a bar of the notebook. Raises SeqlmError for all that the
    command refuses, and Stopped, with everything saved, after Ctrl-C or an interrupt of the notebook's kernel.

    Args:
        config: words of `seqlm train` ("experiment=wlm_200"); mappings of its keys, nested or dotted; YAML files of
            such keys; or first the config.yaml of a run, which is trained anew. Later ones decide. None: the defaults.
            `trust` counts in words and mappings, never in a file.
        callbacks: code of your own at each step, evaluation and checkpoint, after the `callbacks` of the config

    >>> import seqlm
    >>> run = seqlm.train("data=markov", "model=gru", {"data.tokens": 2000, "model.hidden_size": 8,
    ...                   "train": {"steps": 20, "batch_size": 4}, "schedule": "constant", "run.name": "first"})
    run ...
    >>> run.config.model["hidden_size"], run.checkpoint.step, sorted(run.metrics)
    (8, 20, ['valid/bpc', 'valid/loss', 'valid/ppl'])
    """
    return _loaded(launch.train(*_composed(config), callbacks=callbacks))


def resume(
    run: LoadedRun | str | Path, *config: str | Mapping[str, Any], callbacks: Sequence[Callback] = ()
) -> LoadedRun:
    """Resume a run from its newest checkpoint, train it to its end and return it, as `train` does.

    Args:
        run: a loaded run, or its folder
        config: words of `seqlm resume` ("train.steps=400"), or mappings of its keys
        callbacks: those that `train` was given, which take back what their `state_dict` returned

    >>> import seqlm
    >>> seqlm.resume("outputs/first", {"train.steps": 30}).checkpoint.step
    run ...
    30
    """
    words = [
        word
        for one in config
        for word in (
            [one] if isinstance(one, str) else [f"{key}={as_typed(value)}" for key, value in dotted(one).items()]
        )
    ]
    return _loaded(launch.resume(_folder(run), words, callbacks))


def evaluate(
    run: LoadedRun | str | Path,
    split: str = "test",
    *,
    file: str | Path | None = None,
    batch_size: int | None = None,
) -> dict[str, float]:
    """Score a split of a run's data as `seqlm eval` does, every target once; returns the metrics of its task by name.

    Args:
        run: a loaded run, which is evaluated on the device that its model is on, or its folder
        split: train, valid or test
        file: all of it is scored instead: a text, or examples in the format of the run's data
        batch_size: sequences read side by side. None: one stream of a text, as published numbers are counted; as in
            training where sequences are read by themselves

    >>> import seqlm
    >>> metrics = seqlm.evaluate("outputs/first", "valid")
    >>> sorted(metrics)
    ['bpc', 'loss', 'ppl']
    """
    run = run if isinstance(run, LoadedRun) else load_run(run)
    device = prepare(str(_device(run)))
    rows = batch_size or run.task.eval_batch_size(run.config)
    data = run.data if file is None else run.data_of_file(str(file))
    split = split if file is None else FILE
    batches = run.task.batches(data, split, rows, run.task.eval_bptt(run.config, rows))
    score = evaluate_batches(run.model, run.task, batches, device)
    metrics: dict[str, float] = run.task.compute_metrics(score, data, split)
    return metrics


def load_scorer(run: LoadedRun | str | Path, *, ranked: bool = True, **options: Any) -> LineScorer:
    """A scorer of lines of text: how probable a run thinks each token, word and line, as `seqlm score` prints it.

    Its `score(lines)` gives a ScoredLine for each line, with `total` (ln p of the line), `words`, and an entry for each
    token in `pieces`, `log_p`, `rank` and `entropy`, in nats. Raises ConfigError for a run that is no language model.

    Args:
        run: a loaded run, whose weights are used on the device that they are on, or its folder
        ranked: whether rank and entropy are computed, too; without them it is faster
        options: keys of `seqlm score`: context="stream", space="trailing", cache={"size": 500}

    >>> import seqlm
    >>> scorer = seqlm.load_scorer("outputs/first")
    >>> [line.total < 0 for line in scorer.score(["abba", "ab"])]
    [True, True]
    """
    chosen = verb_options("score", ScoreConfig, options)
    runs = load_to_score(run, chosen)
    device = prepare(str(_device(run)) if isinstance(run, LoadedRun) else chosen.device, chosen.precision)
    return line_scorer(runs, chosen, device, ranked=ranked)


def generate(run: LoadedRun | str | Path, prompt: str = "", **options: Any) -> Iterator[str]:
    """Write a text as `seqlm sample` does, piece by piece, `prompt` first: the same seed gives the same text.

    Raises ConfigError when it is called, not when the first piece is asked for.

    Args:
        run: a loaded run, which writes on the device that its model is on, or its folder
        prompt: beginning of the text
        options: other keys of `seqlm sample`: tokens, temperature, top_k, top_p, seed, allow_unk, condition, precision

    >>> import seqlm
    >>> for piece in seqlm.generate("outputs/first", "a", tokens=12, seed=1):
    ...     print(piece, end="")
    a...
    """
    if moved := sorted(ELSEWHERE & options.keys()):
        raise ConfigError(
            f"{moved[0]}={as_typed(options[moved[0]])} is no option of one text by a loaded run; load_run chooses the "
            "weights, run.model.to(...) the device, and each call writes one text"
        )
    chosen = verb_options("sample", SampleConfig, {**options, "prompt": prompt})
    run = run if isinstance(run, LoadedRun) else load_run(run)
    device = prepare(str(_device(run)), chosen.precision)
    with autocast(device, chosen.precision):
        pieces = stream(run.task, run.model, run.tokenizer, chosen)
    return _under_autocast(pieces, device, chosen.precision)


def _composed(config: Sequence[Any]) -> tuple[Config, Choices, list[str]]:
    """The configuration that `train` was given, the option taken of each group, and the words of it."""
    words: list[str] = []
    saved = None
    for place, one in enumerate(config):
        if isinstance(one, str) and one.startswith("-"):
            raise ConfigError(
                f"{one}: train takes no flags; instead of --config-dir there is hydra.searchpath=[file:///FOLDER]"
            )
        if isinstance(one, str) and "=" in one:
            words.append(one)
        elif isinstance(one, Mapping):
            words += words_of(one)
        elif isinstance(one, (str, Path)):
            values = read_yaml(Path(one))
            if not (isinstance(values.get("model"), Mapping) and "_target_" in values["model"]):
                if problems := widening(str(one), values, ()):
                    raise several(problems)
                words += words_of(values)
            elif place:
                raise ConfigError(f"{one} is the whole configuration of a run; give it first")
            else:
                saved = load_config(Path(one))
        else:
            raise ConfigError(
                f"config={one!r} should be a word of seqlm train, a mapping of its keys, or the path of a YAML file"
            )
    return (*compose_words(words), words) if saved is None else (with_words(Config, asdict(saved), words), {}, words)


def _loaded(done: Trained) -> LoadedRun:
    """A run that has just been trained, by the same code that its config names."""
    run = load_run(done.run.path, trust=done.config.trust)
    run.model.to(prepare(done.config.device, done.config.precision))
    return run


def _folder(run: LoadedRun | str | Path) -> str | Path:
    return run.folder.path if isinstance(run, LoadedRun) else run


def _device(run: LoadedRun) -> torch.device:
    return next(run.model.parameters()).device


def _under_autocast(pieces: Iterator[str], device: torch.device, precision: str) -> Iterator[str]:
    """The same pieces, each made in this precision, which does not hold for what is done between them."""
    while True:
        with autocast(device, precision):
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece
