"""seqlm bench: cells and engines against torch's own kernels, and training steps against a plain loop.

Contestants of one shape take turns in one process, so that a changing load affects all alike; medians and their
ratios are what counts. Nothing else should run meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .. import __version__
from ..bench.layers import measure_layers
from ..bench.plot import plot, plotting
from ..bench.steps import STEPS, measure_steps
from ..bench.timing import gemm_peak
from ..config.schema import BenchConfig
from ..config.values import verb_config
from ..config.yaml_files import cell_nodes
from ..device import describe, hardware, prepare
from ..engines import ENGINES
from ..errors import ConfigError
from ..files import to_json, write_atomically
from .words import pop_file


def main(words: Sequence[str]) -> None:
    """`seqlm bench [key=value ...] [--json FILE] [--png FILE]`: measure, print tables, keep them."""
    words, json_file = pop_file(words, "--json")
    words, png_file = pop_file(words, "--png")
    options = verb_config("bench", BenchConfig, words)
    device = prepare(options.device, options.precision, options.threads)
    nodes = cell_nodes()
    allowed = {"levels": ("layer", "step"), "cells": nodes, "engines": ("auto", *ENGINES), "steps": STEPS}
    for key, known in allowed.items():
        for name in getattr(options, key) or ():
            if name not in known:
                raise ConfigError(f"{key}={name} is unknown; allowed: {', '.join(known)}")
    shapes = [_shape(text) for text in options.shapes]
    if png_file and "layer" in options.levels:
        plotting()
    record: dict[str, Any] = {
        "seqlm": __version__,
        "torch": torch.__version__,
        "device": describe(device, options.precision),
        "hardware": hardware(device),
        "gemm_peak_gflops": round(gemm_peak(device) / 1e9, 1),
        "layers": [],
        "steps": [],
    }
    print(f"{record['device']}, {record['hardware']}; matrix product at most {record['gemm_peak_gflops']} GFLOP/s")
    try:
        if "layer" in options.levels:
            chosen = options.cells or list(nodes)
            for shape in shapes:
                record["layers"] += measure_layers(
                    shape, {name: nodes[name] for name in chosen}, options, device, record
                )
        if "step" in options.levels:
            for name in options.steps or STEPS:
                record["steps"] += measure_steps(name, options, device)
    finally:  # what was measured before an interruption is kept
        if json_file:
            write_atomically(json_file, to_json(record, indent=1) + "\n")
    if png_file and record["layers"]:
        plot(record, png_file)


def _shape(text: str) -> tuple[int, int, int, int]:
    parts = str(text).split("x")
    if len(parts) != 4 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"shapes={text} should be steps x batch x input x hidden, as 35x20x650x650")
    steps, batch, inputs, hidden = map(int, parts)
    return steps, batch, inputs, hidden
