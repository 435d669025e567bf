"""Evaluation of one stream, and sampling: products of a matrix and a vector."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config.schema import SamplingConfig
from ..config.verb_schema import BenchConfig
from ..data.tokenizers.text import CharTokenizer
from ..device import autocast
from ..tasks.base import EVALUATED_AT_ONCE
from ..tasks.generation import generate
from .neighbour import DEFAULT_RUN
from .plain import Plain
from .steps import STEPS, plain_model, seqlm_model
from .timing import Run, take_turns

MODELS = {"default run": DEFAULT_RUN, "zaremba_medium": STEPS["zaremba_medium"]}
TOKENS = 2 * EVALUATED_AT_ONCE  # that a contestant reads in a turn
SAMPLED = 300  # characters


def measure_reading(options: BenchConfig, device: torch.device) -> list[dict[str, Any]]:
    """Measure tokens a second of evaluation with one stream, and of sampling; prints a line for each."""
    rows = []
    print("\none stream: tokens/s, and times as fast as a loop by hand over chunks of bptt steps in float32")
    print(f"  {'what':<12}{'model':<16}{'contestant':<12}{'tokens/s':>10}{'x plain':>9}")
    for name, recipe in MODELS.items():
        tokens = torch.randint(recipe.vocabulary, (TOKENS + 1, 1)).to(device)
        by_hand: Any = plain_model(recipe).to(device).eval()
        ours: Any = seqlm_model(recipe, "auto").to(device).eval()
        contestants: dict[str, Run] = {"plain": _plain(by_hand, tokens, recipe.bptt)}
        contestants |= {precision: _seqlm(ours, tokens, device, precision) for precision in ("float32", "bf16")}
        found = {"evaluation": (TOKENS, _measured(contestants, options))}
        if name == "default run":
            tokenizer = CharTokenizer().fit(["".join(map(chr, range(33, 31 + recipe.vocabulary)))])
            found["sampling"] = (SAMPLED, _measured({"float32": _sampling(ours, tokenizer)}, options))
        for what, (count, seconds) in found.items():
            for contestant, (_, spent) in seconds.items():
                times = seconds["plain"][1] / spent if "plain" in seconds else None
                row = {"what": what, "model": name, "contestant": contestant, "tokens_per_s": round(count / spent, 1)}
                rows.append(row | {"times_plain": None if times is None else round(times, 3)})
                shown = "" if times is None else f"{times:.2f}"
                print(f"  {what:<12}{name:<16}{contestant:<12}{count / spent:>10,.0f}{shown:>9}", flush=True)
    return rows


def _measured(contestants: dict[str, Run], options: BenchConfig) -> dict[str, tuple[float, float]]:
    for run in contestants.values():
        run()
    return take_turns(contestants, options.seconds / 4)


def _timed(function: Any) -> Run:
    def run() -> tuple[float, float]:
        start = time.perf_counter()
        with torch.no_grad():
            function()
        return 0.0, time.perf_counter() - start

    return run


def _plain(model: Plain, tokens: Tensor, bptt: int) -> Run:
    def evaluate() -> float:
        state, loss = model.start(1), 0.0
        for start in range(0, len(tokens) - 1, bptt):
            targets = tokens[start + 1 : start + 1 + bptt]
            logits, state, _, _ = model(tokens[start : start + len(targets)], state)
            loss += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
        return loss

    return _timed(evaluate)


def _seqlm(model: Any, tokens: Tensor, device: torch.device, precision: str) -> Run:
    def evaluate() -> float:
        carry, loss = model.init_carry(1), 0.0
        for start in range(0, len(tokens) - 1, EVALUATED_AT_ONCE):
            targets = tokens[start + 1 : start + 1 + EVALUATED_AT_ONCE]
            with autocast(device, precision):
                carry, nll = model.nll(tokens[start : start + len(targets)], targets, carry)
            loss += nll.item()
        return loss

    return _timed(evaluate)


def _sampling(model: Any, tokenizer: CharTokenizer) -> Run:
    options = SamplingConfig(
        prompt="", tokens=SAMPLED, temperature=0.8, top_k=None, top_p=None, seed=1, allow_unk=False
    )
    return _timed(lambda: "".join(generate(model, tokenizer, options)))
