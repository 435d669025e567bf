"""A run, or several together, as a scorer of lines: what `seqlm score` and `seqlm.load_scorer` are made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..config.values import changed_keys, verb_config
from ..config.verb_schema import ScoreConfig
from ..errors import ConfigError, several
from ..runs.load import LoadedRun, load_run
from .adaptation import statistics_of_train
from .cache import Cache
from .dynamic import DynamicWeights
from .lines import LineScorer
from .scorer import Scorer
from .scoring import check_task, load_ensemble
from .surprisal import Surprisal


def load_to_score(run: LoadedRun | str | Path, options: ScoreConfig) -> list[LoadedRun]:
    """A run, loaded if it is a folder, and those of its ensemble. Raises ConfigError for one that is no such model."""
    check(options)
    shared: dict[str, Any] = {
        key: getattr(options, key) for key in ("checkpoint", "weights", "average_last", "engine", "trust")
    }

    def check_run(loaded: LoadedRun) -> None:
        check_task(loaded.task, options, "score")

    if isinstance(run, LoadedRun):
        check_run(run)
    else:
        run = load_run(run, check=check_run, **shared)
    known = run.task.language_models(run.model)
    if not known:
        raise ConfigError(
            f"{run.folder.path} is no language model: {type(run.task).__name__} gives tokens no probabilities; "
            "seqlm eval file=FILE scores its own kind of data, seqlm predict its predictions"
        )
    if options.direction not in known:
        raise ConfigError(f"direction={options.direction} needs a model that reads from both ends: task=bilm")
    return [run, *load_ensemble(run, options.ensemble, **shared)]


def line_scorer(
    runs: Sequence[LoadedRun], options: ScoreConfig, device: torch.device, *, ranked: bool = True
) -> LineScorer:
    """The scorer of lines that the options ask for; `ranked` as in Surprisal."""
    run = runs[0]
    models = [one.task.language_models(one.model.to(device))[options.direction] for one in runs]
    scorer = Scorer(models, mean=options.mean, temperature=options.temperature)  # type: ignore[arg-type]
    dynamic, weights = options.dynamic, None
    if dynamic.lr is not None:
        weights = DynamicWeights(
            [parameter for parameter in run.model.parameters() if parameter.requires_grad],
            lr=dynamic.lr, decay=dynamic.decay, epsilon=dynamic.epsilon,
            rule=dynamic.rule, norm=dynamic.norm,  # type: ignore[arg-type]
            statistics=statistics_of_train(run, dynamic),
        )  # fmt: skip
    memory = options.cache
    cache = None if memory.size is None else Cache(memory.size, memory.flatness, memory.share)
    surprisal = Surprisal(scorer, ranked=ranked, dynamic=weights, cache=cache, precision=options.precision)
    return LineScorer(
        surprisal,
        run.tokenizer,
        context=options.context,  # type: ignore[arg-type]
        bos=options.bos == "eos",
        eos=options.eos,
        space=options.space,  # type: ignore[arg-type]
        backward=options.direction == "backward",
        batch_size=options.batch_size,
        step=dynamic.bptt if weights is not None else None,
    )


def check(options: ScoreConfig) -> None:
    """Raise ConfigError for options that do not go together, or would do nothing."""
    plain, problems = verb_config("score", ScoreConfig, []), []
    for section, switch in (("dynamic", "lr"), ("cache", "size")):
        given, idle = getattr(options, section), changed_keys(section, options, plain)
        value = getattr(given, switch)
        if given.search:
            problems.append(f"{section}.search=true: seqlm eval chooses on valid; give the numbers that it found")
        elif value is None and idle:
            problems.append(f"{' '.join(idle)} does nothing without {section}.{switch}=...")
        elif value is not None and options.context == "line":
            problems.append(f"{section}.{switch}={value:g} needs a text that goes on: context=stream")
    if options.dynamic.lr is not None and options.ensemble:
        problems.append("dynamic.lr adapts one model; leave it out, or ensemble")
    if options.dynamic.lr is not None and options.precision != "float32":
        problems.append(f"precision={options.precision}: adapting is done in float32")
    if options.mean != "arithmetic" and not options.ensemble:
        problems.append(f"mean={options.mean} does nothing without ensemble=[RUN, ...]")
    if options.context == "stream" and not options.eos:
        problems.append("eos=false leaves out the ends of lines, which are a part of a text that goes on: context=line")
    if problems:
        raise several(problems)
