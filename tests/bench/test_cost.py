"""The formulas of docs/scaling.md are those of real models: their parameters, and the memory of their steps."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from seqlm.bench.cost import Parameters, exchanged, largest, memory, parameters, step_flops
from seqlm.bench.growth import BASE
from seqlm.bench.steps import STEPS, Recipe, seqlm_model
from seqlm.models.stack import count_parameters

# A process of its own: prints the peak of all that torch has allocated in a step, beside the weights.
MEASURED = """
import json, sys, tempfile, torch
from torch.profiler import ProfilerActivity, profile
from seqlm.bench.steps import Recipe, seqlm_model, seqlm_step
torch.set_num_threads(1)
for given in json.load(sys.stdin):
    recipe = Recipe(**given)
    model = seqlm_model(recipe, "fused")
    step = seqlm_step(recipe, model, torch.device("cpu"), "float32")
    tokens = torch.randint(recipe.vocabulary, (recipe.bptt + 1, recipe.batch))
    step(tokens)
    for parameter in model.parameters():
        parameter.grad = None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step(tokens)
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        found.export_chrome_trace(file.name)
        events = [one for one in json.load(open(file.name))["traceEvents"] if one.get("name") == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda one: one["ts"]):
        now += event["args"]["Bytes"]
        peak = max(peak, now)
    print(peak + 4 * sum(parameter.numel() for parameter in model.parameters()))
"""
SHAPES = [
    Recipe(256, [256], bptt=64, batch=32, vocabulary=1024),
    Recipe(256, [512], bptt=32, batch=32, vocabulary=4096),
    Recipe(128, [256, 256, 256], bptt=64, batch=16, vocabulary=512),
    Recipe(64, [64], bptt=64, batch=32, vocabulary=16_384),
]


@pytest.mark.parametrize("name", STEPS)
def test_parameters_are_those_of_the_model(name):
    counted = count_parameters(seqlm_model(STEPS[name], "auto"))
    found = parameters(STEPS[name])
    assert found.total == counted["total"] and found.recurrent == counted["recurrent"]
    assert parameters(STEPS[name]._replace(tied=False)).total > found.total or not STEPS[name].tied


def test_the_largest_models_have_the_parameters_of_their_paper():
    for one in largest():
        assert one.parameters == pytest.approx(one.published, rel=0.05), one.name


def test_memory_is_what_a_step_takes():
    given = json.dumps([recipe._asdict() | {"plain": None} for recipe in SHAPES])
    done = subprocess.run([sys.executable, "-c", MEASURED], input=given, capture_output=True, text=True, check=True)
    for recipe, measured in zip(SHAPES, map(int, done.stdout.split()), strict=True):
        assert memory(recipe).total == pytest.approx(measured, rel=0.2), recipe
    plain, adam = memory(SHAPES[0]), memory(SHAPES[0], "adam")
    assert adam.total - plain.total == 8 * parameters(SHAPES[0]).total


def test_arithmetic_and_traffic():
    hidden = BASE.sizes[0]
    assert step_flops(BASE) == 6 * 32 * 16 * (4 * hidden * (hidden + hidden) + hidden * BASE.vocabulary)
    assert exchanged(1000, 1) == 0 and exchanged(1000, 2) == 4000 and exchanged(1000, 4) == 6000
    assert Parameters(1, 2, 3).total == 6
