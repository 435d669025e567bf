"""Scoring a split with temperature, dynamic evaluation and cache, whose numbers may be chosen on valid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

from ..cells import Carry, detach
from ..config.verb_schema import DynamicConfig, EvalConfig
from ..data.batching.batches import IGNORE_INDEX
from ..data.batching.streams import Streams
from ..runs.load import LoadedRun
from ..tasks.base import Score
from ..terminal import track
from .adaptive import Observe, adaptive_evaluate
from .cache import Cache
from .dynamic import DynamicWeights, Statistics, gradient_statistics
from .scorer import Scorer
from .tuning import Setting, search


def evaluate_adapted(
    scorer: Scorer, run: LoadedRun, options: EvalConfig, bptt: int, log: Callable[[str], None]
) -> tuple[Score, Scorer, dict[str, Any]]:
    """Score a split of a run's text; returns the scorer at the temperature that was used, and the settings as JSON.

    Args:
        scorer: gives the words their probabilities; its first model is the run's, which is what adapts.
        options: split, batch_size, temperature, dynamic, cache, search_tokens and precision are read.
        bptt: tokens read at once where nothing adapts.
        log: called with a line for every trial of a search.
    """
    dynamic, memory, settings = options.dynamic, options.cache, dict[str, Any]()
    step = bptt if dynamic.lr is None else dynamic.bptt
    cut = partial(Streams, bptt=step, first=run.tokenizer.eos_id, clip=True)
    parameters = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    rule: dict[str, Any] = {key: getattr(dynamic, key) for key in ("epsilon", "rule", "norm")}

    @cache
    def statistics() -> Statistics | None:
        return statistics_of_train(run, dynamic)

    def score(streams: Streams, at: Setting, observe: Observe = lambda *_: None, title: str = "trial") -> Score:
        weights = remembered = None
        if at.lr is not None:
            weights = DynamicWeights(parameters, lr=at.lr, decay=at.decay, statistics=statistics(), **rule)
        if at.flatness is not None and memory.size is not None:
            remembered = Cache(memory.size, at.flatness, at.share)
        at_temperature, precision = scorer.at(at.temperature), options.precision
        return adaptive_evaluate(
            at_temperature, streams, dynamic=weights, cache=remembered, precision=precision, observe=observe,
            title=title,
        )  # fmt: skip

    flatness = None if memory.size is None else memory.flatness
    setting = Setting(options.temperature or 1.0, dynamic.lr, dynamic.decay, flatness, memory.share)
    searched = ["temperature"] * (options.temperature is None)
    searched += ["lr", "decay"] * dynamic.search + ["flatness", "share"] * memory.search
    if searched:
        tokens = run.data["valid"].tokens[: options.search_tokens]
        streams = cut(tokens, min(options.batch_size or 1, len(tokens)))
        setting, trials, open_ended = search(partial(score, streams), setting, searched, log)
        chosen = {key: getattr(setting, key) for key in searched}
        settings["search"] = {"tokens": len(tokens), "chosen": chosen, "trials": trials, "open_ended": open_ended}
    found = score(cut(run.data[options.split].tokens, options.batch_size or 1), setting, title="evaluating")

    if options.adapting or options.temperature != 1.0:
        settings["adaptation"] = {"temperature": setting.temperature}
        if dynamic.lr is not None:
            given = rule if dynamic.rule == "rms" else {"rule": "sgd"}
            settings["adaptation"] |= {"lr": setting.lr, "decay": setting.decay, **given, "bptt": step}
        if memory.size is not None:
            settings["adaptation"] |= {"flatness": setting.flatness, "share": setting.share, "cache": memory.size}
    return found, scorer.at(setting.temperature), settings


def statistics_of_train(run: LoadedRun, dynamic: DynamicConfig) -> Statistics | None:
    """The size of the gradients of a run's train, which the rule rms needs."""
    parameters = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    return None if dynamic.rule == "sgd" else gradient_statistics(parameters, _gradients(run, dynamic))


def _gradients(run: LoadedRun, dynamic: DynamicConfig) -> Iterator[None]:
    """Leave the gradient of one training chunk after the other in the parameters."""
    parameters = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    tokens, model = run.data["train"].tokens, run.model
    batch_size = min(dynamic.train_batch_size, len(tokens))
    streams = Streams(tokens, batch_size, dynamic.bptt, first=run.tokenizer.eos_id, clip=True)
    carry: Carry = model.init_carry(batch_size)  # type: ignore[operator]

    for index in track(range(len(streams)), "gradients of train", " chunks"):
        chunk = streams[index].to(parameters[0].device)
        for parameter in parameters:
            parameter.grad = None
        carry, nll = model.nll(chunk.inputs, chunk.targets, detach(carry), ignore_index=IGNORE_INDEX)  # type: ignore[operator]
        (nll / chunk.tokens).backward()
        yield
