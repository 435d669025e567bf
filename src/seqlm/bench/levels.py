"""The levels of a benchmark, and the record of what they measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..config.suggest import unknown_option
from ..config.verb_schema import BenchConfig
from ..config.yaml_files import cell_nodes
from ..device import describe, hardware, prepare
from ..engines import ENGINES
from ..errors import ConfigError
from ..files import to_json, write_atomically
from .growth import measure_growth
from .layers import measure_layers
from .neighbour import measure_neighbour
from .plot import plot, plot_growth, plotting
from .products import measure_products
from .ranks import measure_ranks
from .reading import measure_reading
from .safety import measure_safety
from .steps import STEPS, measure_steps
from .text import measure_encoding
from .timing import gemm_peak
from .tune import tune

TABLES = {"layer": "layers", "step": "steps", "product": "products"}  # keys of the record


Measurement = Callable[[BenchConfig, torch.device, dict[str, Any]], list[dict[str, Any]]]
LEVELS: dict[str, Measurement] = {
    "layer": lambda options, device, record: _layers(options, device, record),
    "step": lambda options, device, _: [
        row for name in options.steps or STEPS for row in measure_steps(name, options, device)
    ],
    "product": lambda options, *_: measure_products(options),
    "reading": lambda options, device, _: measure_reading(options, device),
    "encoding": lambda options, *_: measure_encoding(options),
    "growth": lambda options, device, _: measure_growth(options, device),
    "neighbour": lambda options, *_: measure_neighbour(options),
    "safety": lambda options, *_: measure_safety(options),
    "ranks": lambda options, *_: measure_ranks(options),
    "tune": lambda options, *_: tune(options),
}


def measure_levels(options: BenchConfig, json_file: Path | None, png_file: Path | None) -> None:
    """Measure every level, print tables, and keep them in files. Raises ConfigError for names that nothing has."""
    device = prepare(options.device, options.precision, options.threads)
    allowed = {"levels": LEVELS, "cells": cell_nodes(), "engines": ("auto", *ENGINES), "steps": STEPS}
    for key, known in allowed.items():
        for name in getattr(options, key) or ():
            if name not in known:
                raise ConfigError(unknown_option(key, str(name), list(known)))
    for text in options.shapes:
        _shape(text)
    if png_file:
        plotting()
    record: dict[str, Any] = {
        "seqlm": __version__,
        "torch": torch.__version__,
        "device": describe(device, options.precision),
        "hardware": hardware(device),
        "gemm_peak_gflops": round(gemm_peak(device) / 1e9, 1),
    }
    print(f"{record['device']}, {record['hardware']}; matrix product at most {record['gemm_peak_gflops']} GFLOP/s")
    try:
        for level in options.levels:
            record[TABLES.get(level, level)] = LEVELS[level](options, device, record)
    finally:  # what was measured before an interruption is kept
        if json_file:
            write_atomically(json_file, to_json(record, indent=1) + "\n")
    if png_file and record.get("layers"):
        plot(record, png_file)
    if png_file and record.get("growth"):
        plot_growth(record, png_file.with_stem(f"{png_file.stem}-growth") if record.get("layers") else png_file)


def _layers(options: BenchConfig, device: torch.device, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    nodes = cell_nodes()
    chosen = {name: nodes[name] for name in options.cells or nodes}
    shapes = map(_shape, options.shapes)
    return [row for shape in shapes for row in measure_layers(shape, chosen, options, device, record)]


def _shape(text: str) -> tuple[int, int, int, int]:
    parts = str(text).split("x")
    if len(parts) != 4 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"shapes={text} should be steps x batch x input x hidden, as 35x20x650x650")
    steps, batch, inputs, hidden = map(int, parts)
    return steps, batch, inputs, hidden
