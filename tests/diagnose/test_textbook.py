"""The textbook's gradient of ones, against powers of a matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seqlm.diagnose.textbook import LIMIT, ROWS, SIZE, _through_elman, lines, textbook


@pytest.fixture(scope="module")
def found():
    return textbook(30)


def named(found):
    return {one["name"]: one for one in found["sent"]}


@pytest.mark.parametrize("scale", [0.9, 1.1])
def test_a_scaled_turn_multiplies_by_its_scale(scale):
    inputs = torch.randn(20, ROWS, SIZE, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(SIZE, SIZE, dtype=torch.float64)).Q
    sent = _through_elman(scale * turn, "identity", scale, inputs)
    expected = [SIZE**0.5 * scale**k for k in range(21)]
    np.testing.assert_allclose(sent.norm, expected, rtol=1e-12)
    np.testing.assert_allclose(sent.bound, expected, rtol=1e-12)
    assert sent.factor == pytest.approx(scale)


def test_without_f_it_meets_the_matrix_alone(found):
    """|| (W^T)^k 1 ||, by NumPy, for the same W."""
    draws = torch.Generator().manual_seed(1)
    weight = torch.randn(SIZE, SIZE, generator=draws, dtype=torch.float64).numpy() / SIZE**0.5
    for scale in (0.4, 0.7, 1.4):
        gradient, norms = np.ones(SIZE), []
        for _ in range(31):
            norms.append(np.linalg.norm(gradient))
            gradient = scale * weight.T @ gradient
        np.testing.assert_allclose(named(found)[f"W of {scale:g}, no f"]["norm"], norms, rtol=1e-9)


def test_what_the_singular_value_says_and_what_not(found):
    for one in found["sent"]:
        if one["bound"] is not None:
            assert (np.array(one["norm"]) <= np.array(one["bound"]) * (1 + 1e-9)).all()
            np.testing.assert_allclose(one["bound"], one["norm"][0] * one["sigma"] ** np.arange(31), rtol=1e-9)
            assert one["sigma"] > 1.5 * one["radius"], "of a random matrix"
    sent = named(found)
    assert sent["W of 0.4, no f"]["sigma"] < 1 and sent["W of 0.4, no f"]["factor"] < 1, "enough to vanish"
    assert sent["W of 0.7, no f"]["sigma"] > 1 and sent["W of 0.7, no f"]["factor"] < 1, "not enough to explode"
    assert sent["W of 1.4, no f"]["factor"] > 1 > sent["W of 1.4, tanh"]["factor"], "tanh takes something"


def test_the_memory_of_an_lstm_keeps_it_where_the_forget_gate_is_open(found):
    shut, opened = (named(found)[f"memory of an LSTM, forget bias {bias}"]["factor"] for bias in (0, 4))
    assert shut < 0.7 and 0.95 < opened < 1.1


def test_clipping_bounds_the_norm_alone(found):
    before, after = (np.array(found["clipped"][name]) for name in ("before", "after"))
    assert before[0] == after[0] == 0, "one step meets no W"
    assert before[-1] > 1e4 and (after[1:] <= LIMIT + 1e-6).all()
    assert len(before) == 30 and len(lines(found)) == 10
