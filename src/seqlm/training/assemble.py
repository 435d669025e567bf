"""Everything that a run trains with, built from its config."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch

from ..config.build import build
from ..config.schema import Config
from ..data.dataset import Data
from ..data.tokenizers.saved import load_tokenizer
from ..device import autocast, prepare
from ..errors import ConfigError
from ..layers import Recurrent
from ..runs.assemble import build_data, build_model, check_parts
from ..runs.folder import RunFolder
from ..runs.load import trained_model
from ..tasks.base import Task
from ..terminal import status
from .callbacks import Callback, make_callbacks
from .diagnosing import Diagnosing
from .distributed import ALONE, Ranks
from .joining import first_here, own_device
from .loggers.make import make_loggers
from .session import Session
from .shares import check_batch_size, check_model, draw_apart


def assemble_session(
    config: Config, run: RunFolder | None = None, callbacks: Sequence[Callback] = (), ranks: Ranks = ALONE
) -> Session:
    """Build everything a run needs; the tokenizer of an existing run is its own.

    All of `ranks` build the same; from there on each draws random numbers of its own.
    """
    check_parts(config)
    check_batch_size(config, ranks)
    made, loggers = make_callbacks(config, callbacks), make_loggers(config)
    limits = config.train
    device = prepare(own_device(ranks, config.device), config.precision, config.threads, config.deterministic)
    if config.engine == "graph" and device.type != "cuda":
        raise ConfigError(f"engine=graph needs device=cuda, this run is on {device.type}; use engine=auto")
    if config.engine == "graph" and limits.accumulate > 1:
        raise ConfigError(f"train.accumulate={limits.accumulate} cannot be captured with engine=graph; use engine=auto")
    torch.manual_seed(config.seed)
    with status("reading the data"):
        data = first_here(ranks, lambda: _read_data(config, run, ranks))
    task: Task = build(config.task, "task", trust=config.trust)
    task.prepare(data.tokenizer)
    with status("building the model"):
        model = build_model(config, data.tokenizer, trained_model).to(device)
    with status("checking that all goes together"):
        task.check(config, model, data)
        check_model(model, ranks)
        diagnosing = Diagnosing(config.diagnose.every, task, model, data, device)
    with status("choosing engines"), autocast(device, config.precision):
        for layer in (module for module in model.modules() if isinstance(module, Recurrent)):
            layer.plan_for(limits.bptt, -(-limits.batch_size // ranks.count // limits.accumulate))
    optimizer = build(config.optim, "optim", trust=config.trust, params=model.parameters())
    if inspect.signature(optimizer.step).parameters["closure"].default is inspect.Parameter.empty:
        raise ConfigError(
            f"optim._target_={config.optim['_target_']} evaluates the loss several times a step; use another"
        )
    with status("reading the data"):
        train = task.training(data, config)
    if config.engine == "graph" and not task.cuda_graphs:
        raise ConfigError("engine=graph replays the chunks of a text; use engine=auto for this task")
    batch_size = min(limits.eval_batch_size, len(data["valid"]))
    draw_apart(config.seed, ranks.rank)
    return Session(
        config=config,
        device=device,
        data=data,
        model=model,
        task=task,
        optimizer=optimizer,
        schedule=build(config.schedule, "schedule", trust=config.trust),
        averaging=build(config.averaging, "averaging", trust=config.trust),
        train=train,
        valid=task.batches(data, "valid", batch_size, task.eval_bptt(config, batch_size), "train.eval_"),
        learning_rates=[group["lr"] for group in optimizer.param_groups],
        callbacks=made,
        loggers=loggers,
        diagnosing=diagnosing,
        ranks=ranks,
    )


def _read_data(config: Config, run: RunFolder | None, ranks: Ranks) -> Data:
    """The data, encoded: what is read once more, in another process, is found in the cache."""
    data = build_data(config, load_tokenizer(run.tokenizer) if run else None)
    if ranks.count > 1:
        _ = data.fingerprint
    return data
