"""Whole training steps against a plain loop."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..cells import LSTMCell, detach
from ..config.verb_schema import BenchConfig
from ..data.batching.streams import Chunk
from ..device import autocast, keep_freed_memory
from ..engines.native import has_bf16_lstm
from ..models.presets import build_language_model
from ..models.stack import Dropouts
from ..tasks.lm import LanguageModeling
from ..training.distributed import ALONE, Ranks
from ..training.gradient import gradient
from ..training.loop import descend
from ..training.shared_gradient import SharedGradient
from .plain import Plain, PlainAwd
from .timing import Run, now, take_turns, warmed, with_bf16

WARM_UP = 3  # steps before the first turn: kernels are compiled, ways chosen
TURN = 0.3  # seconds


class Recipe(NamedTuple):
    """A language model of LSTM layers, and how it is trained by SGD."""

    embedding: int
    sizes: list[int]
    bptt: int
    batch: int
    vocabulary: int = 10_000
    tied: bool = False
    dropout: Dropouts = {}
    penalties: Mapping[str, float] = {}
    clip_norm: float = 5.0
    plain: type[Plain | PlainAwd] = Plain


# Whole steps, for their time: chunks do not vary, and the update is w - g, with neither weight decay nor averages.
STEPS = {
    "zaremba_small": Recipe(200, [200, 200], bptt=20, batch=20),
    "zaremba_medium": Recipe(
        650, [650, 650], bptt=35, batch=20, tied=True,
        dropout={"kind": "standard", "input": 0.5, "hidden": 0.5, "output": 0.5},
    ),
    "awd_ptb": Recipe(
        400, [1150, 1150, 400], bptt=70, batch=20, tied=True,
        dropout={"kind": "locked", "embedding": 0.1, "input": 0.4, "hidden": 0.25, "output": 0.4, "weight": 0.5},
        penalties={"activation": 2.0, "temporal": 1.0}, clip_norm=0.25, plain=PlainAwd,
    ),
    "char_512": Recipe(512, [512], bptt=128, batch=32, vocabulary=107),
}  # fmt: skip


def plain_model(recipe: Recipe) -> Plain | PlainAwd:
    """The model of a recipe, written by hand."""
    return recipe.plain(recipe.vocabulary, recipe.embedding, recipe.sizes, recipe.tied, recipe.dropout)


def seqlm_model(recipe: Recipe, engine: Any) -> Any:
    """The model of a recipe, by seqlm."""
    return build_language_model(
        vocab_size=recipe.vocabulary,
        cell=LSTMCell,
        hidden_size=recipe.sizes[-1],
        embedding_size=recipe.embedding,
        layers=[{"hidden_size": size} for size in recipe.sizes],
        tied=recipe.tied,
        dropout=recipe.dropout,
        init_range=0.1,
        engine=engine,
    )


def plain_step(
    recipe: Recipe, model: Plain | PlainAwd, device: torch.device, precision: str
) -> Callable[[Tensor], float]:
    """A training step as people write it: cross_entropy, clip_grad_norm_, and SGD as a loop over parameters."""
    state = model.start(recipe.batch)

    def step(tokens: Tensor) -> float:
        nonlocal state
        model.zero_grad()
        with autocast(device, precision):
            logits, state, dropped, raw = model(tokens[:-1], [(h.detach(), c.detach()) for h, c in state])
        loss = F.cross_entropy(logits.view(-1, recipe.vocabulary).float(), tokens[1:].reshape(-1))
        if "activation" in recipe.penalties:
            loss = loss + recipe.penalties["activation"] * dropped.pow(2).mean()
        if "temporal" in recipe.penalties:
            loss = loss + recipe.penalties["temporal"] * (raw[1:] - raw[:-1]).pow(2).mean()
        (loss * recipe.bptt).backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.data.add_(parameter.grad, alpha=-1.0)
        return float(loss.item())

    return step


def seqlm_step(
    recipe: Recipe, model: Any, device: torch.device, precision: str, ranks: Ranks = ALONE
) -> Callable[[Tensor], float]:
    """The training step of seqlm; by several ranks, of which each is given its rows."""
    task = LanguageModeling(penalties=recipe.penalties)
    parameters, carry = list(model.parameters()), model.init_carry(recipe.batch // ranks.count)
    optimizer = torch.optim.SGD(parameters, lr=1.0, fused=True)

    def objective(chunk: Chunk, carry: Any) -> Any:
        with autocast(device, precision):
            return task.objective(model, chunk, carry)

    own = partial(gradient, objective, parameters)
    learn = own if ranks.count == 1 else SharedGradient(own, parameters, ranks)

    def step(tokens: Tensor) -> float:
        nonlocal carry
        chunk = Chunk(tokens[:-1], tokens[1:], tokens[1:].numel())
        carry, loss_sum = learn(chunk, detach(carry), recipe.batch)
        descend(optimizer, parameters, recipe.clip_norm)
        return float(loss_sum.item())

    return step


def measure_steps(name: str, options: BenchConfig, device: torch.device) -> list[dict[str, Any]]:
    """Measure whole training steps on random tokens; prints a line for each engine.

    Every contestant has a process of its own, as every training has: what one leaves in memory would help the next.
    """
    recipe = STEPS[name]
    engines = options.engines or ["auto", "fused", "persistent", "native", "scan"]
    contestants = with_bf16(["plain"], options) | with_bf16(engines, options)
    if device.type == "cpu" and not has_bf16_lstm():
        contestants.pop("plain bf16", None)
    with ExitStack() as held:
        runs = {
            label: held.enter_context(_in_a_process(recipe, engine, precision, device))
            for label, (engine, precision) in contestants.items()
        }
        found = take_turns(runs, options.seconds)
    rows = []
    size = recipe.bptt * recipe.batch
    shown = {key: value for key, value in recipe._asdict().items() if value and key != "plain"}
    print(f"\nwhole step of {name}: {', '.join(f'{key} {value}' for key, value in shown.items())}")
    print(f"  {'contestant':<14}{'ms':>9}{'tokens/s':>10}{'x plain':>9}")
    for key, (_, seconds) in found.items():
        row = {
            "step": name,
            "engine": key,
            "ms": round(1e3 * seconds, 3),
            "tokens_per_s": round(size / seconds, 1),
            "times_plain": round(found["plain"][1] / seconds, 3),
        }
        rows.append(row)
        print(f"  {key:<14}{row['ms']:>9.1f}{row['tokens_per_s']:>10,.0f}{row['times_plain']:>9.2f}", flush=True)
    return rows


@contextmanager
def _in_a_process(recipe: Recipe, engine: str, precision: str, device: torch.device) -> Iterator[Run]:
    """A contestant that is ready: a call of it has the process do a turn."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    given = (theirs, recipe, engine, precision, device, torch.get_num_threads())
    process = context.Process(target=_serve, args=given, daemon=True)
    process.start()
    theirs.close()
    try:
        ours.recv()

        def run() -> tuple[float, float]:
            ours.send(True)
            return 0.0, float(ours.recv())

        yield run
    finally:
        process.kill()
        process.join()


def _serve(
    connection: Connection, recipe: Recipe, engine: str, precision: str, device: torch.device, threads: int
) -> None:
    """Do a turn whenever asked; answers the seconds of a step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks; it ends this one
    torch.set_num_threads(threads)
    if engine == "plain":
        step = plain_step(recipe, plain_model(recipe).to(device), device, precision)
    else:
        keep_freed_memory()  # as `seqlm train` does
        step = seqlm_step(recipe, seqlm_model(recipe, engine).to(device), device, precision)
    generator = torch.Generator().manual_seed(0)

    def run() -> tuple[float, float]:
        tokens = torch.randint(recipe.vocabulary, (recipe.bptt + 1, recipe.batch), generator=generator).to(device)
        start = now(device)
        step(tokens)
        return 0.0, now(device) - start

    for _ in range(WARM_UP):
        run()
    turn = warmed(run, TURN)
    with suppress(EOFError):
        connection.send(True)
        while connection.recv():
            connection.send(turn()[1])
