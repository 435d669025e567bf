"""What `seqlm eval` does beyond plain scoring: ensemble, monte_carlo.*, temperature, dynamic.*, cache.*."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from ..cells import Carry, detach
from ..config.schema import EvalConfig
from ..config.values import as_typed, verb_config
from ..data.batching.batches import IGNORE_INDEX
from ..data.batching.streams import Streams
from ..errors import ConfigError
from ..layers import scale_dropout
from ..runs.load import LoadedRun, load_run, same_vocabulary
from ..tasks.base import Score
from .adaptive import Observe, adaptive_evaluate
from .cache import Cache
from .dynamic import DynamicWeights, Statistics, gradient_statistics
from .scorer import Scorer
from .search import Setting, search


def with_beginnings(how: EvalConfig) -> EvalConfig:
    """`how` with numbers for a search to begin with, where nobody gave one: dynamic.lr, and cache.size, which stays."""
    dynamic, memory = how.dynamic, how.cache
    if dynamic.search and dynamic.lr is None and (dynamic.rule, dynamic.norm) == ("rms", "tensors"):
        dynamic = replace(dynamic, lr=5e-5)
    if memory.search and memory.size is None:
        memory = replace(memory, size=2000)
    return replace(how, dynamic=dynamic, cache=memory)


def check(how: EvalConfig) -> None:
    """Raise ConfigError for what does not go together, or would do nothing."""
    adapting, averaging, dynamic, problems = how.adapting, how.averaging, how.dynamic, []
    if dynamic.search and dynamic.lr is None:
        problems.append(
            f"dynamic.search=true needs dynamic.lr=...: where to begin with dynamic.rule={dynamic.rule} "
            f"dynamic.norm={dynamic.norm}"
        )
    if adapting and how.columns != 1:
        problems.append(f"batch_size={how.batch_size}: a model adapts to one stream at a time; use batch_size=1")
    if adapting and how.precision != "float32":
        problems.append(f"precision={how.precision}: adapting is done in float32")
    if adapting and how.lens != "seqlm":
        problems.append(f"lens={how.lens} counts columns, {adapting[0]} reads one stream; leave one of them out")
    if dynamic.lr is not None and averaging:
        problems.append(f"{adapting[0]} adapts one model that is read once; leave it out, or {' and '.join(averaging)}")
    if how.mean != "arithmetic" and not averaging:
        problems.append(f"mean={how.mean} does nothing without ensemble=[RUN, ...] or monte_carlo.samples=...")
    plain = verb_config("eval", EvalConfig, [])
    for section, switch in (("dynamic", "lr"), ("cache", "size"), ("monte_carlo", "samples")):
        given, defaults = asdict(getattr(how, section)), asdict(getattr(plain, section))
        idle = [f"{section}.{key}={as_typed(value)}" for key, value in given.items() if value != defaults[key]]
        if given[switch] is None and idle and not given.get("search"):
            problems.append(f"{' '.join(idle)} does nothing without {section}.{switch}=...")
    for key in ("norm", "epsilon", "train_batch_size"):
        if dynamic.rule == "sgd" and (value := getattr(dynamic, key)) != getattr(plain.dynamic, key):
            problems.append(f"dynamic.{key}={as_typed(value)} does nothing with dynamic.rule=sgd")
    searched = dynamic.search or how.cache.search or how.temperature is None
    if how.search_tokens != plain.search_tokens and not searched:
        problems.append(
            f"search_tokens={how.search_tokens} does nothing without dynamic.search=true, cache.search=true or "
            "temperature=null"
        )
    if problems:
        raise ConfigError("\n".join(problems))


def load_runs(folder: str, how: EvalConfig) -> list[LoadedRun]:
    """The run in `folder` and those of its ensemble; `checkpoint`, `weights` and `average_last` hold for each.

    Raises ConfigError if one is there twice, or has another vocabulary.
    """
    options: dict[str, Any] = {
        key: getattr(how, key) for key in ("checkpoint", "weights", "average_last", "engine", "trust")
    }
    runs = [load_run(folder, data=how.data, task=how.task, **options)]
    for other in how.ensemble:
        if Path(other).resolve() in [run.folder.path.resolve() for run in runs]:
            raise ConfigError(f"ensemble: {other} is in it twice; every run counts once")
        runs.append(load_run(other, **options))
        if not same_vocabulary(runs[0].tokenizer, runs[-1].tokenizer):
            raise ConfigError(
                f"ensemble: {other} has another vocabulary ({len(runs[-1].tokenizer):,} tokens) than {folder} "
                f"({len(runs[0].tokenizer):,}); only probabilities of the same words can be averaged"
            )
    return runs


def make_scorer(runs: Sequence[LoadedRun], how: EvalConfig) -> Scorer:
    """What gives the words of a text their probabilities, at temperature 1."""
    drawn, mean = how.monte_carlo, how.mean
    models = [run.model for run in runs]
    for model in models:
        scale_dropout(model, drawn.multiplier)
    return Scorer(models, samples=drawn.samples, seed=drawn.seed, mean=mean)  # type: ignore[arg-type]


def evaluate_with(
    scorer: Scorer, runs: Sequence[LoadedRun], how: EvalConfig, window: int
) -> tuple[Score, Scorer, dict[str, Any]]:
    """Score a split as `how` says; returns the scorer that was chosen, and what was done. Choices are made on valid."""
    run, dynamic, done = runs[0], how.dynamic, dict[str, Any]()
    step = window if dynamic.lr is None else dynamic.window
    cut = partial(Streams, window=step, first=run.tokenizer.eos_id, clip=True)
    parameters = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    rule: dict[str, Any] = {key: getattr(dynamic, key) for key in ("epsilon", "rule", "norm")}

    @cache
    def statistics() -> Statistics | None:
        return None if dynamic.rule == "sgd" else gradient_statistics(parameters, _gradients(run, how, scorer.device))

    def score(streams: Streams, at: Setting, observe: Observe = lambda *_: None) -> Score:
        weights = memory = None
        if at.lr is not None:
            weights = DynamicWeights(parameters, lr=at.lr, decay=at.decay, statistics=statistics(), **rule)
        if at.flatness is not None and how.cache.size is not None:
            memory = Cache(how.cache.size, at.flatness, at.share)
        return adaptive_evaluate(
            scorer.at(at.temperature), streams, dynamic=weights, cache=memory, precision=how.precision, observe=observe
        )

    flatness = None if how.cache.size is None else how.cache.flatness
    setting = Setting(how.temperature or 1.0, dynamic.lr, dynamic.decay, flatness, how.cache.share)
    wanted = ["temperature"] * (how.temperature is None)
    wanted += ["lr", "decay"] * dynamic.search + ["flatness", "share"] * how.cache.search
    if wanted:
        tokens = run.data["valid"].tokens[: how.search_tokens]
        streams = cut(tokens, min(how.columns, len(tokens)))
        setting, trials, open_ended = search(partial(score, streams), setting, wanted, _tell)
        chosen = {key: getattr(setting, key) for key in wanted}
        done["search"] = {"tokens": len(tokens), "chosen": chosen, "trials": trials, "open_ended": open_ended}
    found = score(cut(run.data[how.split].tokens, how.columns), setting)

    if how.adapting or how.temperature != 1.0:
        done["adaptation"] = {"temperature": setting.temperature}
        if dynamic.lr is not None:
            told = rule if dynamic.rule == "rms" else {"rule": "sgd"}
            done["adaptation"] |= {"lr": setting.lr, "decay": setting.decay, **told, "window": step}
        if how.cache.size is not None:
            done["adaptation"] |= {"flatness": setting.flatness, "share": setting.share, "cache": how.cache.size}
    return found, scorer.at(setting.temperature), done


def averaged(runs: Sequence[LoadedRun], how: EvalConfig) -> dict[str, Any]:
    """What was averaged: weights of checkpoints, probabilities of runs, or of readings with dropout."""
    done: dict[str, Any] = {}
    if how.average_last is not None:
        done["average_last"] = runs[0].steps
    if how.ensemble:
        done["ensemble"] = [
            {"run": run.folder.name, "checkpoint": run.checkpoint.step, "weights": run.weights} for run in runs[1:]
        ]
    if how.monte_carlo.samples is not None:
        done["monte_carlo"] = asdict(how.monte_carlo)
    return {**done, "mean": how.mean} if how.averaging else done


def _tell(text: str) -> None:
    print(f"valid: {text}", file=sys.stderr, flush=True)


def _gradients(run: LoadedRun, how: EvalConfig, device: torch.device) -> Iterator[None]:
    """Leave the gradient of one training window after the other in the parameters."""
    parameters = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    tokens, model = run.data["train"].tokens, run.model
    columns = min(how.dynamic.train_batch_size, len(tokens))
    streams = Streams(tokens, columns, how.dynamic.window, first=run.tokenizer.eos_id, clip=True)
    carry: Carry = model.init_carry(columns)  # type: ignore[operator]

    for index in range(len(streams)):
        window = streams[index].to(device)
        for parameter in parameters:
            parameter.grad = None
        carry, nats = model.nats(window.inputs, window.targets, detach(carry), ignore_index=IGNORE_INDEX)  # type: ignore[operator]
        (nats / window.tokens).backward()
        yield
