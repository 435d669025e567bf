"""What `seqlm eval` does with temperature=, dynamic.* and cache.*."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..assemble import LoadedRun
from ..cells import Carry
from ..data import IGNORE, Streams, Window
from ..errors import ConfigError
from ..schema import EvalConfig
from ..tasks import Score
from ..training.gradient import gradient
from .adaptive import Adaptation, adaptive_evaluate
from .cache import Cache
from .dynamic import DynamicWeights
from .search import search


def adapts(how: EvalConfig) -> bool:
    """Whether anything but plain scoring is asked for."""
    for part, switch in (("dynamic", "lr"), ("cache", "size")):
        if getattr(how, part).search and getattr(getattr(how, part), switch) is None:
            raise ConfigError(f"{part}.search=true needs {part}.{switch}=...: where to begin")
    return how.temperature != 1.0 or how.dynamic.lr is not None or how.cache.size is not None


def evaluate_adaptively(
    run: LoadedRun, how: EvalConfig, window: int, device: torch.device
) -> tuple[Score, dict[str, Any]]:
    """Score a split as `how` says; returns what was done as well. Whatever is chosen is chosen on valid."""
    if how.batch_size != 1:
        raise ConfigError(f"batch_size={how.batch_size}: a model adapts to one stream at a time; use batch_size=1")
    if how.precision != "float32":
        raise ConfigError(f"precision={how.precision}: adapting is done in float32")
    first, dynamic = run.tokenizer.eos_id, how.dynamic
    step = window if dynamic.lr is None else dynamic.window
    make = None if dynamic.lr is None else _maker(run, how, window, device)
    cache = None
    if how.cache.size is not None:
        cache = Cache(size=how.cache.size, flatness=how.cache.flatness, share=how.cache.share)
    chosen: dict[str, Any] = {"temperature": how.temperature}
    if dynamic.lr is not None:
        chosen |= {"lr": dynamic.lr, "decay": dynamic.decay}
    if cache is not None:
        chosen |= {"flatness": cache.flatness, "share": cache.share}
    found: dict[str, Any] = {}
    if how.temperature is None or dynamic.search or how.cache.search:
        tokens = run.data["valid"].tokens[: how.search_tokens]
        searched = search(
            run.model,
            Streams(tokens, 1, step, first=first, clip=True),
            device,
            make if dynamic.search else None,
            (dynamic.lr or 0.0, dynamic.decay),
            cache if how.cache.search else None,
            how.temperature,
            lambda text: print(f"valid: {text}", file=sys.stderr, flush=True),
            fixed=None if make is None or dynamic.search else make(dynamic.lr or 0.0, dynamic.decay),
        )
        chosen |= searched["chosen"]
        found["search"] = {"tokens": len(tokens), **searched}
    if cache is not None:
        cache = Cache(size=cache.size, flatness=chosen["flatness"], share=chosen["share"])
        chosen["cache"] = cache.size
    weights = None if make is None else make(chosen["lr"], chosen["decay"])
    streams = Streams(run.data[how.split].tokens, 1, step, first=first, clip=True)
    score = adaptive_evaluate(run.model, streams, device, Adaptation(weights, cache, chosen["temperature"]))
    if dynamic.lr is not None:
        chosen |= {"rule": dynamic.rule, "window": dynamic.window}
    return score, {"adaptation": chosen, **found}


def _maker(
    run: LoadedRun, how: EvalConfig, window: int, device: torch.device
) -> Callable[[float, float], DynamicWeights]:
    """Builds dynamic weights; what they need to know of train is measured once."""
    parameters = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    rms: list[torch.Tensor] = []

    def gradients() -> Callable[[], int]:
        tokens = run.data["train"].tokens
        streams = Streams(tokens, min(how.dynamic.train_batch_size, len(tokens)), window, first=run.tokenizer.eos_id)
        model: Any = run.model
        carry, index = model.init_carry(streams.batch_size), 0

        def objective(window: Window, carry: Carry) -> tuple[Carry, Tensor, None]:
            return (*model.nats(window.inputs, window.targets, carry, ignore_index=IGNORE), None)

        def one() -> int:
            nonlocal carry, index
            batch = streams[index].to(device)
            carry, _ = gradient(objective, parameters, batch, carry, batch.tokens)
            index += 1
            return len(streams) - index

        return one

    def make(lr: float, decay: float) -> DynamicWeights:
        dynamic = how.dynamic
        options: dict[str, Any] = {"epsilon": dynamic.epsilon, "rule": dynamic.rule, "norm": dynamic.norm}
        made = DynamicWeights(parameters, lr=lr, decay=decay, **options)
        if dynamic.rule == "rms":
            if not rms:
                made.measure(gradients())
                rms.extend(made.rms)
            made.use(rms)
        return made

    return make
