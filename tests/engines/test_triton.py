"""The CUDA kernels, run by Triton's interpreter on the CPU."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from seqlm import ElmanCell, GRUCell, LSTMCell
from seqlm.cells import LayerNormLSTMCell, MinGRUCell, MinLSTMCell, PeepholeLSTMCell, QRNNCell
from seqlm.engines import fused, linear, triton_kernels
from seqlm.testing import engine_equals_scan

from ..cells import regularised
from .test_engines import made

pytest.importorskip("triton", reason="triton is not installed")


@pytest.fixture
def on_triton(monkeypatch):
    monkeypatch.setattr(fused, "compiled", triton_kernels)


CELLS = [
    ElmanCell, lambda *sizes: ElmanCell(*sizes, activation="relu"), lambda *sizes: ElmanCell(*sizes, bias=False),
    GRUCell, LSTMCell, PeepholeLSTMCell, regularised.MemoryMask, regularised.Zoneout, regularised.Shared,
]  # fmt: skip


@cache
def on_blocks(kind, dtype):
    """A cell that no test changes, traced once for chunks of all lengths."""
    return made(kind, 5, 37).to(dtype)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", CELLS, ids=lambda kind: kind.__name__)
def test_generated_kernels_equal_scan(kind, dtype, steps, on_triton):
    cell = on_blocks(kind, dtype)
    assert fused.describe(cell) == "one kernel a step"
    engine_equals_scan(cell, "fused", dtype, steps)


def test_a_chunk_larger_than_a_block(on_triton, monkeypatch):
    monkeypatch.setattr(triton_kernels, "BLOCK", 16)
    cell = made(LSTMCell, 5, 37)
    engine_equals_scan(cell, "fused", torch.float64, 3)


def test_what_is_not_elementwise_runs_on_torchs_operations(on_triton):
    assert "layer normalisation has no kernel" in fused.describe(LayerNormLSTMCell(4, 5))


@pytest.fixture
def linear_on_triton(monkeypatch):
    monkeypatch.setattr(linear, "_loops", lambda like: (linear._triton(), "one kernel a chunk"))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", [QRNNCell, MinGRUCell, MinLSTMCell])
def test_linear_recurrences_equal_scan(kind, dtype, steps, reverse, linear_on_triton):
    """131 units: more than a block for three rows, and not a multiple of it."""
    engine_equals_scan(made(kind, 5, 131).to(dtype), "fused", dtype, steps, reverse)
