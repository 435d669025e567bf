"""The measure that times of the bench are held against."""

import time

import pytest
import torch

from seqlm.bench import timing


def test_the_peak_is_that_of_the_fastest_library(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = {"torch": lambda *_: time.sleep(0.05), "onednn": lambda *_: None, "mkl": lambda *_: time.sleep(0.05)}
    monkeypatch.setattr(timing, "ways_to_map", lambda weight, rows: ways)
    assert timing.gemm_peak(torch.device("cpu")) > 2 * 2048**3 / 0.05


def test_no_contestant_always_follows_the_same_one() -> None:
    ran: list[str] = []
    runs = {name: lambda name=name: (0.0, float(not ran.append(name))) for name in "abcd"}
    found = timing.take_turns(runs, 0.0)
    rounds = [ran[at : at + 4] for at in range(0, len(ran), 4)]
    assert len(rounds) >= timing.LEAST_ROUNDS and all(sorted(one) == list("abcd") for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1
    assert found == dict.fromkeys("abcd", (0.0, 1.0)) and list(found) == list("abcd")


def test_a_turn_is_the_mean_of_the_runs_after_the_first() -> None:
    times = iter([0.1] + [9.0, 0.1, 0.2, 0.3] * 2)
    turn = timing.warmed(lambda: (lambda both: (both / 2, both))(next(times)), 0.3)
    assert [turn(), turn()] == [pytest.approx((0.1, 0.2))] * 2


def test_a_long_run_is_a_turn() -> None:
    times = iter([1.0, 2.0, 3.0])
    turn = timing.warmed(lambda: (0.0, next(times)), 0.3)
    assert [turn(), turn()] == [(0.0, 2.0), (0.0, 3.0)]
