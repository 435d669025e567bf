"""The choices of this machine, measured anew."""

from __future__ import annotations

from typing import Any

import torch

from ..config.verb_schema import BenchConfig
from ..device import autocast
from ..engines.choice import measured
from .steps import STEPS, seqlm_model, seqlm_step


def tune(options: BenchConfig) -> list[dict[str, Any]]:
    """Ask every question of the whole steps again, in float32 and bfloat16; prints the answers.

    Another way is taken only if it is clearly faster than the one that was chosen before. Later runs take what is
    chosen now; runs that there are keep what they have.
    """
    measured.again, device = True, torch.device("cpu")
    with measured.of_run({}):
        for name in options.steps or STEPS:
            recipe = STEPS[name]
            for precision in ("float32", "bf16"):
                model: Any = seqlm_model(recipe, "auto").to(device)
                step = seqlm_step(recipe, model, device, precision)
                step(torch.randint(recipe.vocabulary, (recipe.bptt + 1, recipe.batch)))
                with torch.no_grad(), autocast(device, "float32"):
                    model.nll(*torch.randint(recipe.vocabulary, (2, 128, 1)), model.init_carry(1))
        made = dict(measured.made)
    rows: list[dict[str, Any]] = []
    print("\nthe fastest way, and milliseconds of all")
    for question in sorted(made):
        ms = {way: round(1e3 * spent, 3) for way, spent in measured.answers[question]["seconds"].items()}
        rows.append({"question": question, "way": made[question], "ms": ms})
        others = "  ".join(f"{way} {time:,.2f}" for way, time in ms.items())
        print(f"  {question:<72}{made[question]:<8}{others}", flush=True)
    return rows
