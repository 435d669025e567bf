"""The measure that times of the bench are held against."""

import time

import pytest
import torch

from seqlm.bench import timing


def test_the_peak_is_that_of_the_fastest_library(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = {"torch": lambda *_: time.sleep(0.05), "onednn": lambda *_: None, "mkl": lambda *_: time.sleep(0.05)}
    monkeypatch.setattr(timing, "ways_to_map", lambda weight, rows: ways)
    assert timing.gemm_peak(torch.device("cpu")) > 2 * 2048**3 / 0.05
