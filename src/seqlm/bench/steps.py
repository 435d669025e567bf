"""Whole training steps against a plain loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..cells import LSTMCell, detach
from ..data import Window
from ..layers import Recurrent, Stack, make_dropout
from ..models import LanguageModel
from ..schema import BenchConfig
from ..tasks import LanguageModeling
from ..train import descend
from ..training.device import autocast
from ..training.gradient import gradient
from .timing import Run, now, take_turns

# Whole steps: model and loop of the reference, as people write them by hand.
STEPS: dict[str, dict[str, Any]] = {
    "zaremba_small": {"hidden": 200, "layers": 2, "window": 20, "batch": 20, "vocabulary": 10_000, "dropout": 0.0},
    "zaremba_medium": {
        "hidden": 650, "layers": 2, "window": 35, "batch": 20, "vocabulary": 10_000, "dropout": 0.5, "tied": True,
    },
    "char_512": {"hidden": 512, "layers": 1, "window": 128, "batch": 32, "vocabulary": 107, "dropout": 0.0},
}  # fmt: skip


class Plain(nn.Module):
    """The model of the reference: nn.Embedding, nn.LSTM, nn.Linear, as in PyTorch's word_language_model."""

    def __init__(self, hidden: int, layers: int, vocabulary: int, dropout: float, tied: bool) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.encoder = nn.Embedding(vocabulary, hidden)
        self.rnn = nn.LSTM(hidden, hidden, layers, dropout=dropout)
        self.decoder = nn.Linear(hidden, vocabulary)
        if tied:
            self.decoder.weight = self.encoder.weight

    def forward(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        output, state = self.rnn(self.drop(self.encoder(tokens)), state)
        return self.decoder(self.drop(output)), state


def plain_step(spec: Mapping[str, Any], device: torch.device, precision: str) -> Callable[[Tensor], float]:
    """A training step as people write it: cross_entropy, clip_grad_norm_, and SGD as a loop over parameters."""
    hidden, layers, batch = spec["hidden"], spec["layers"], spec["batch"]
    model = Plain(hidden, layers, spec["vocabulary"], spec["dropout"], spec.get("tied", False)).to(device)
    state = tuple(torch.zeros(layers, batch, hidden, device=device) for _ in range(2))

    def step(tokens: Tensor) -> float:
        nonlocal state
        model.zero_grad()
        with autocast(device, precision):
            logits, state = model(tokens[:-1], tuple(part.detach() for part in state))
        loss = F.cross_entropy(logits.view(-1, spec["vocabulary"]).float(), tokens[1:].reshape(-1)) * spec["window"]
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.data.add_(parameter.grad, alpha=-1.0)
        return float(loss.item())

    return step


def seqlm_step(spec: Mapping[str, Any], engine: Any, device: torch.device, precision: str) -> Callable[[Tensor], float]:
    """The training step of seqlm."""
    hidden, batch, dropout = spec["hidden"], spec["batch"], spec["dropout"]
    layers = [Recurrent(LSTMCell(hidden, hidden).to(device), engine=engine) for _ in range(spec["layers"])]
    stack = Stack(layers, dropout=make_dropout("standard", dropout))
    model = LanguageModel(
        spec["vocabulary"], stack, tied=spec.get("tied", False), input_dropout=dropout, output_dropout=dropout,
        dropout_kind="standard", init_range=0.1,
    ).to(device)  # fmt: skip
    task, parameters, carry = LanguageModeling(), list(model.parameters()), model.init_carry(batch)
    optimizer = torch.optim.SGD(parameters, lr=1.0, fused=True)

    def objective(window: Window, carry: Any) -> Any:
        with autocast(device, precision):
            return task.objective(model, window, carry)

    def step(tokens: Tensor) -> float:
        nonlocal carry
        window = Window(tokens[:-1], tokens[1:], tokens[1:].numel())
        carry, nats = gradient(objective, parameters, window, detach(carry), batch)
        descend(optimizer, parameters, 5.0)
        return float(nats.item())

    return step


def measure_steps(name: str, how: BenchConfig, device: torch.device) -> list[dict[str, Any]]:
    """Measure whole training steps on random tokens; prints a line for each engine."""
    spec = STEPS[name]
    steps = {"plain": plain_step(spec, device, how.precision)}
    engines = how.engines or ["auto", "fused", "native", "scan"]
    steps |= {engine: seqlm_step(spec, engine, device, how.precision) for engine in engines}

    def tokens() -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(0)
        while True:
            shape = (spec["window"] + 1, spec["batch"])
            yield torch.randint(spec["vocabulary"], shape, generator=generator).to(device)

    def timed(step: Callable[[Tensor], float], source: Iterator[Tensor]) -> Run:
        def run() -> tuple[float, float]:
            window = next(source)
            start = now(device)
            step(window)
            return 0.0, now(device) - start

        return run

    contestants = {key: timed(step, tokens()) for key, step in steps.items()}
    for run in contestants.values():
        run()
        run()
    found = take_turns(contestants, how.seconds)
    rows = []
    size = spec["window"] * spec["batch"]
    print(f"\nwhole step of {name}: {', '.join(f'{key} {value}' for key, value in spec.items())}")
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
