"""Runs read back from their folders."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config.build import build, named_class
from ..config.schema import Config
from ..data.dataset import Data, FileData
from ..data.examples import Example, Format
from ..data.reading import TextReader
from ..data.sources.of_file import format_of
from ..data.tokenizers.saved import load_tokenizer
from ..data.tokenizers.text import Tokenizer
from ..errors import ConfigError
from ..terminal import status
from . import checkpoint, finding
from .assemble import build_data, build_model, check_parts, data_of_file, examples_of_file
from .finite import check_loaded
from .folder import RunFolder
from .sealed import check_tokenizer, saved_config


def trained_model(
    folder: str, which: str, sha256: str | None, engine: str, trust: Sequence[str]
) -> tuple[nn.Module, Any]:
    """Model and tokenizer of a run whose states another model reads. Raises ConfigError if it learned from others."""
    run = load_run(folder, checkpoint=which, engine=engine, trust=trust)
    if sha256 not in (None, checkpoint.digest(run.folder.checkpoints, run.checkpoint.step)):
        raise ConfigError(
            f"{folder} holds another model at step {which} than the one whose states were learned from; put that back"
        )
    return run.model, run.tokenizer


class LoadedRun:
    """A run read back from its folder: `config`, `tokenizer`, `model` (in eval mode), `data` and `task`.

    `folder.path` is where it lies, `checkpoint.step` the step of the weights. `metrics` are those of the best
    evaluation, by tag (`valid/loss`); `records` all that was logged, a mapping for each time.
    """

    checkpoint: checkpoint.Checkpoint  # the newest of those whose weights are used
    steps: list[int]  # of all of those
    weights: str  # raw, or average
    model: nn.Module

    def __init__(self, folder: RunFolder, config: Config) -> None:
        self.folder, self.config = folder, config
        self.tokenizer = load_tokenizer(folder.tokenizer)

    def load(self, which: str, weights: str, average_last: int | None) -> None:
        """Build the model and load its weights."""
        if average_last is not None and which != "best":
            raise ConfigError(f"checkpoint={which} and average_last={average_last} both choose; leave one of them out")
        with status("loading the weights"):
            model = build_model(self.config, self.tokenizer, trained_model)
            kind = self.config.eval_weights if weights == "auto" else weights
            found, self.weights = _read_weights(self.folder.checkpoints, model, which, kind, average_last)
        self.checkpoint, self.steps = found[-1], [one.step for one in found]
        check_loaded(model, self.checkpoint.path)
        if self.weights != weights and weights != "auto":
            raise ConfigError(f"weights={weights} does not exist in {self.checkpoint.path}; use weights={self.weights}")
        self.model = model.eval()

    def __repr__(self) -> str:
        metrics = [f"{name} {value:.4g}" for name, value in self.metrics.items() if isinstance(value, (int, float))]
        shown = ", ".join([f"step {self.checkpoint.step:,}", f"{self.weights} weights", *metrics])
        return f"<run {self.folder.path}: {shown}>"

    @property
    def metrics(self) -> dict[str, float]:
        return dict(self.folder.info().get("metrics") or {})

    @property
    def records(self) -> list[dict[str, Any]]:
        return self.folder.records()

    @cached_property
    def data(self) -> Data:
        return build_data(self.config, self.tokenizer)

    def data_of_file(self, path: str) -> FileData:
        """All of a file in the format of the run's data, as its split FILE: needs nothing that the run learned from."""
        return data_of_file(self.config, self.tokenizer, path, cache(lambda: build_data(self.config, self.tokenizer)))

    def format_of(self, path: str) -> Format | None:
        """The format of a file to predict for; None: a text or an object on each line. Raises ConfigError."""
        source = named_class(self.config.data, "data", trust=self.config.trust)
        return format_of(path, source, self.reader, getattr(self.tokenizer, "vocabularies", {}).get("tags", ()))

    def examples_of(self, path: str, format: Format | None = None) -> Iterator[Example]:
        """The examples in a file, their targets too, in a format (of the run's data where it is None)."""
        return examples_of_file(self.config, path, format)

    @cached_property
    def reader(self) -> TextReader:
        """Decodes files as those of the run's data."""
        return TextReader(self.config.data.get("encoding") or "auto")

    @cached_property
    def task(self) -> Any:
        task = build(self.config.task, "task", trust=self.config.trust)
        task.prepare(self.tokenizer)
        return task


def load_run(
    folder: str | Path,
    *,
    checkpoint: str = "best",
    average_last: int | None = None,
    weights: str = "auto",
    engine: str = "auto",
    data: Mapping[str, Any] | None = None,
    task: Mapping[str, Any] | None = None,
    trust: Sequence[str] = (),
    check: Callable[[LoadedRun], None] = lambda run: None,
) -> LoadedRun:
    """Load a trained run: `.model`, `.tokenizer` (encode, decode), `.config`.

    `checkpoint` is best, last or a step; `average_last` takes the mean of the weights of that many newest ones instead.
    `weights` are raw, average, or auto: what the run evaluated itself with. `data` and `task` replace keys of
    these parts of the run (`{"path": ...}`, `{"beam": 5}`); `trust` names packages of yours that its config may build
    from; `check` is called before the weights are loaded, and may refuse the run. Raises ConfigError if the folder is
    not a run.
    """
    run = RunFolder.open(folder)
    config = saved_config(run)
    check_tokenizer(run)
    config.engine, config.trust = engine, list(trust)
    if data:
        config.data = {**(config.data if isinstance(config.data, dict) else {}), **data}
    if task:
        config.task = {**(config.task if isinstance(config.task, dict) else {}), **task}
    check_parts(config)
    loaded = LoadedRun(run, config)
    for key in [key for key in task or () if key not in loaded.task.inference_options]:
        options = ", ".join(f"task.{known}" for known in loaded.task.inference_options) or "no key of the task"
        raise ConfigError(f"task.{key} does nothing when a run is tested; it may change {options}")
    check(loaded)
    loaded.load(checkpoint, weights, average_last)
    if task:
        loaded.task.check_inference(loaded.model)
    return loaded


def origin(run: RunFolder, step: int) -> dict[str, Any]:
    """Origin of weights that were taken from another run: its name, step, experiment, seed and commit."""
    info = run.info()
    known = {"experiment": info.get("choices", {}).get("experiment"), "seed": info.get("seed"), "git": info.get("git")}
    return {"run": run.name, "step": step, **known}


def same_vocabulary(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether a token's number means the same to both."""
    known = ("kind", "vocabulary", "vocabularies", "num_features")  # those of texts, and those of examples
    return all(getattr(one, name, None) == getattr(other, name, None) for name in known)


def warn(text: str) -> None:
    """Print on standard error."""
    print(text, file=sys.stderr)


def _read_weights(
    folder: Path, model: nn.Module, which: str, kind: str, average_last: int | None
) -> tuple[list[checkpoint.Checkpoint], str]:
    """Give a model its weights; returns whose they are, and which kind."""

    def read() -> tuple[list[checkpoint.Checkpoint], str]:
        if average_last is None:
            found = [finding.find(folder, which, warn)]
        else:
            found = finding.newest(folder, average_last, warn)
        return found, _load_mean(found, model, kind)

    return finding.while_it_is_there(read, warn)


def _load_mean(found: Sequence[checkpoint.Checkpoint], model: nn.Module, which: str) -> str:
    """Load the mean of the weights of checkpoints, oldest first; returns whether they were raw or averages."""
    kinds, sums = [], None
    for one in found:
        kinds.append(_load_weights(one, model, which))
        if len(found) > 1:  # in float64: the order does not matter
            weights = [parameter.detach().double() for parameter in model.parameters()]
            sums = weights if sums is None else [a + b for a, b in zip(sums, weights, strict=True)]
    if len(set(kinds)) > 1:
        raise ConfigError(
            f"only the newest {kinds.count('average')} of {len(found)} checkpoints hold an average of the weights; use "
            f"weights=raw, or average_last={kinds.count('average')}"
        )
    with torch.no_grad():
        for parameter, total in zip(model.parameters(), sums or [], strict=False):
            parameter.copy_(total / len(found))
    return kinds[0]


def _load_weights(found: checkpoint.Checkpoint, model: nn.Module, which: str) -> str:
    """Load the raw weights, or the average over them if that is asked for and there; returns which it was."""
    found.load_weights(model)
    if which != "average" or not found.meta.get("averaged"):
        return "raw"
    with torch.no_grad():
        for parameter, mean in zip(model.parameters(), found.load_state()["averaging"]["average"], strict=True):
            parameter.copy_(mean)
    return "average"


def with_pinned_models(config: Config, saved: Config | None = None) -> Config:
    """The same config with the checkpoint and its digest in each entry of model.language_models.

    The same must be read later: the checkpoints in `saved`, the config of a run that is resumed, else the best ones.
    """
    read = config.model.get("language_models") if isinstance(config.model, dict) else None
    if not isinstance(read, list) or not all(isinstance(spec, dict) and spec.get("run") for spec in read):
        return config
    pins = (saved.model.get("language_models") or []) if saved else []
    pairs = enumerate(zip_longest(read, pins[: len(read)]))
    pinned = [_pinned(spec, pin, f"model.language_models.{index}") for index, (spec, pin) in pairs]
    return replace(config, model={**config.model, "language_models": pinned})


def _pinned(spec: Mapping[str, Any], pin: Mapping[str, Any] | None, where: str) -> dict[str, Any]:
    """An entry of model.language_models that names one checkpoint for good: that of `pin`, if it is of the same run."""
    path = str(Path(spec["run"]).resolve())
    if pin and pin.get("run") == path:
        spec = {**{key: pin[key] for key in ("checkpoint", "sha256") if key in pin}, **spec}
    try:
        checkpoints = RunFolder.open(spec["run"]).checkpoints
        step = finding.find(checkpoints, str(spec.get("checkpoint", "best")), warn).step
    except ConfigError as error:
        raise ConfigError(f"{where}.run: {error}") from None
    return {"checkpoint": step, "sha256": checkpoint.digest(checkpoints, step), **spec, "run": path}
