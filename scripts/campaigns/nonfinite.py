"""NaN and infinity, from a rate that is too high or put in: nothing of them is saved, averaged or evaluated."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .hooks import replace, target
from .runner import Campaign, Case
from .settings import TASKS, difference, outcome, train_or_resume, trained, training, words_of

POLICIES = ("stop", "skip", "rollback")
RATES = ("1e39", "1e38", "1e30", "1e20")
LARGE_LOSS = 709  # of which the perplexity is just below the largest number
NUMBERS = (math.nan, math.inf, -math.inf)
SETTINGS = ("dropout", "averaging", "accumulation", "bf16")


def case(case: Case) -> None:
    policy = POLICIES[case.number % len(POLICIES)]
    cause = list(CAUSES)[case.number // len(POLICIES) % len(CAUSES)]
    task, setting = case.rng.choice(list(TASKS)), case.rng.choice(SETTINGS)
    where = f"{cause}, {policy}, {task}, {setting}"
    case.count("runs")
    if cause == "rate":
        rate = case.rng.choice(RATES)
        words = words_of(
            case, task, setting, f"optim.lr={rate}", "train.clip_norm=null", f"train.on_nonfinite={policy}"
        )
        done, whole = case.run(training(case, words)), None
        where += f", {rate}"
    else:
        _, whole = trained(case, task, setting)
        words = words_of(case, task, setting, f"train.on_nonfinite={policy}")
        step, number = case.rng.randint(1, 23), case.rng.choice(NUMBERS)
        done = case.run(training(case, words), before=lambda: CAUSES[cause](step, number))
        where += f", {number} at step {step}"
    run = case.folder / "run"
    if not done.clean or done.code not in (0, 3):
        case.fail("failed", f"{where}: {done.tail()}")
    elif done.code == 3 and "not finite" not in done.text:
        case.fail("failed", f"{where}: not named: {done.tail()}")
    elif done.code == 3:
        case.count("stopped")
        _check_named(case, where, done.text, run)
    else:
        case.count("came through")
        if whole is not None and policy == "stop":  # it was put in, and must have been seen
            case.fail("unseen", f"{where}: {done.tail()}")
    _check_finite(case, where, run)
    if whole is not None and done.code == 3 and policy == "stop":
        done = case.run(train_or_resume(case, words, run))
        wanted = json.loads((whole / "outcome.json").read_text(encoding="utf-8"))["outcome"]
        if done.code or (differs := difference(wanted, outcome(run))):
            case.fail("differs", f"{where}: {done.tail() if done.code else differs}")


def _check_named(case: Case, where: str, text: str, run: Path) -> None:
    """The message names the newest checkpoint, which is finite."""
    there = sorted((run / "checkpoints").glob("step-*"))
    if there and f"step {int(there[-1].name.removeprefix('step-')):,}" not in text[text.find("seqlm:") :]:
        case.fail("not named", f"{where}: {there[-1].name}: {text.strip().splitlines()[-3:]}")


def _check_finite(case: Case, where: str, run: Path) -> None:
    """Checkpoints and metrics hold finite numbers only."""
    import torch
    from safetensors.torch import load_file

    for path in sorted((run / "checkpoints").glob("step-*")):
        case.count("checkpoints")
        weights = load_file(path / "model.safetensors")
        state = torch.load(path / "state.pt", weights_only=True)
        kept = [*weights.values(), *_tensors([state["optimizer"], state["averaging"], state["carry"]])]
        if not all(tensor.isfinite().all() for tensor in kept if tensor.is_floating_point()):
            case.fail("saved", f"{where}: {path.name} is not finite")
    file = run / "metrics.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        record = json.loads(line)
        # The perplexity of a large finite loss is more than a number can hold.
        lost = [key for key, value in record.items() if key.startswith("valid/") and value is None]
        if any(not key.endswith("ppl") for key in lost) or (lost and record.get("valid/loss", 0) < LARGE_LOSS):
            case.fail("evaluated", f"{where}: {line}")


def _tensors(value: Any) -> Iterator[Any]:
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _around(step: int, spoil: Callable[[Any, Any], None], before: bool) -> None:
    """Spoil something before or after the `step`th step of the optimizer."""
    owner, attribute = target("seqlm.training.loop:descend")
    original, calls = getattr(owner, attribute), 0

    def called(optimizer: Any, parameters: Any, *args: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == step and before:
            spoil(optimizer, parameters)
        result = original(optimizer, parameters, *args, **keywords)
        if calls == step and not before:
            spoil(optimizer, parameters)
        return result

    setattr(owner, attribute, called)


def _gradient(step: int, number: float) -> None:
    def spoil(optimizer: Any, parameters: Any) -> None:
        next(each for each in parameters if each.grad is not None).grad.view(-1)[0] = number

    _around(step, spoil, before=True)


def _weights(step: int, number: float) -> None:
    def spoil(optimizer: Any, parameters: Any) -> None:
        parameters[-1].data.view(-1)[-1] = number

    _around(step, spoil, before=False)


CAUSES: dict[str, Callable[[int, float], None]] = {
    "weights": _weights,
    "rate": lambda step, number: None,
    "gradient": _gradient,
}


def _blind() -> None:
    """Nobody looks at the weights."""
    replace("seqlm.training.session:non_finite_in", lambda *_: None)
    replace("seqlm.training.session:non_finite", lambda *_: None)


CAMPAIGN = Campaign(
    "nonfinite",
    "rates that are too high, and NaN or infinity put into gradients and weights, under every train.on_nonfinite",
    case,
    sizes={"short": 4, "full": 135},
    mutants={"believe-all-weights": _blind},
)
