"""Measure seqlm's training step against a plain one, interleaved in one process.

    python scripts/bench.py [--json results/bench-step.json] [--seconds 20] [--threads N]

The plain reference is what people write by hand, as in PyTorch's word_language_model example: nn.Embedding,
nn.LSTM, nn.Linear, cross_entropy, clip_grad_norm_, and SGD as a loop over parameters. Both train on the
same random tokens at the shapes of Zaremba's models; steps alternate, so that the machine's moods hit both.
Medians and their ratio are what counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqlm import LanguageModel, LSTMCell, Recurrent, Stack, detach
from seqlm.data import Window
from seqlm.layers import make_dropout
from seqlm.tasks import LanguageModeling
from seqlm.train import descend

VOCABULARY, BATCH = 10_000, 20
SHAPES = {
    "zaremba_small": {"hidden": 200, "window": 20, "dropout": 0.0, "lr": 1.0, "clip": 5.0},
    "zaremba_medium": {"hidden": 650, "window": 35, "dropout": 0.5, "lr": 1.0, "clip": 5.0},
}
Step = Callable[[Tensor], float]


class Plain(nn.Module):
    """The model of the reference."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.encoder = nn.Embedding(VOCABULARY, hidden)
        self.rnn = nn.LSTM(hidden, hidden, 2, dropout=dropout)
        self.decoder = nn.Linear(hidden, VOCABULARY)

    def forward(self, tokens: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        output, state = self.rnn(self.drop(self.encoder(tokens)), state)
        return self.decoder(self.drop(output)), state


def plain_step(hidden: int, window: int, dropout: float, lr: float, clip: float) -> Step:
    model = Plain(hidden, dropout)
    state = (torch.zeros(2, BATCH, hidden), torch.zeros(2, BATCH, hidden))

    def step(tokens: Tensor) -> float:
        nonlocal state
        model.zero_grad()
        logits, state = model(tokens[:-1], (state[0].detach(), state[1].detach()))
        loss = F.cross_entropy(logits.view(-1, VOCABULARY), tokens[1:].reshape(-1)) * window
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.data.add_(parameter.grad, alpha=-lr)
        return loss.item()

    return step


def seqlm_step(hidden: int, window: int, dropout: float, lr: float, clip: float, engine: str) -> Step:
    layers = [Recurrent(LSTMCell(hidden, hidden), engine=engine) for _ in range(2)]  # type: ignore[arg-type]
    stack = Stack(layers, dropout=make_dropout("standard", dropout))
    model = LanguageModel(
        VOCABULARY, stack, input_dropout=dropout, output_dropout=dropout, dropout_kind="standard", init_range=0.1
    )
    task, parameters, carry = LanguageModeling(), list(model.parameters()), None
    optimizer = torch.optim.SGD(parameters, lr=lr, fused=True)

    def step(tokens: Tensor) -> float:
        nonlocal carry
        carry = model.init_carry(BATCH) if carry is None else detach(carry)
        carry, nats = task.nats(model, Window(tokens[:-1], tokens[1:], tokens[1:].numel()), carry)
        descend(nats / BATCH, optimizer, parameters, clip)
        return nats.item()

    return step


def measure(steps: dict[str, Step], window: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of each step of each contestant, taken in turns."""
    generator = torch.Generator().manual_seed(0)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(3):  # warm up
        for step in steps.values():
            step(torch.randint(VOCABULARY, (window + 1, BATCH), generator=generator))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, step in steps.items():
            tokens = torch.randint(VOCABULARY, (window + 1, BATCH), generator=generator)
            start = time.perf_counter()
            step(tokens)
            times[name].append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", type=Path, help="write the record here")
    parser.add_argument("--seconds", type=float, default=20, help="for each shape")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    record: dict[str, object] = {"torch": torch.__version__, "threads": options.threads, "device": "cpu", "shapes": {}}
    print(f"{'shape':<16}{'contestant':<16}{'ms/step':>9}{'tokens/s':>10}{'ratio':>7}{'steps':>7}")
    for shape, settings in SHAPES.items():
        arguments = dict(settings)
        window = int(arguments.pop("window"))
        steps: dict[str, Step] = {"plain": plain_step(window=window, **arguments)}  # type: ignore[arg-type]
        for engine in ("native", "scan"):
            steps[f"seqlm {engine}"] = seqlm_step(window=window, engine=engine, **arguments)  # type: ignore[arg-type]
        times = measure(steps, window, options.seconds)
        medians = {name: statistics.median(found) for name, found in times.items()}
        rows = {
            name: {
                "ms_per_step": round(1000 * median, 3),
                "tokens_per_s": round(BATCH * window / median, 1),
                "ratio_to_plain": round(medians["plain"] / median, 3),
                "steps": len(times[name]),
            }
            for name, median in medians.items()
        }
        assert isinstance(record["shapes"], dict)
        record["shapes"][shape] = rows
        for name, row in rows.items():
            numbers = f"{row['ms_per_step']:>9.1f}{row['tokens_per_s']:>10,.0f}{row['ratio_to_plain']:>7.2f}"
            print(f"{shape:<16}{name:<16}{numbers}{row['steps']:>7}")
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
