"""Diagnostics of recurrence, against finite differences and networks whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from seqlm import ElmanCell, GRUCell, LSTMCell, Recurrent, Stack, testing
from seqlm.cells.lstm import LSTMCarry
from seqlm.cells.min_gru import MinGRUCell
from seqlm.cells.min_lstm import MinLSTMCell
from seqlm.cells.qrnn import QRNNCell
from seqlm.cells.rhn import RHNCell
from seqlm.config.build import build
from seqlm.diagnose.gates import gates
from seqlm.diagnose.gradients import gradient_by_lag
from seqlm.diagnose.health import clipping, rare_words, update_ratios
from seqlm.diagnose.memory import ContextCurve, loss_by_context
from seqlm.diagnose.spectra import spectra
from seqlm.diagnose.unrolled import nll_of_each, unroll
from seqlm.models.language_model import LanguageModel
from seqlm.runs.folder import RunFolder
from seqlm.training.launch import train

from ..cells.test_laws import IDS, VARIANTS
from ..conftest import compose, tiny

V, E, H = 7, 5, 6


def model_of(*cells):
    torch.manual_seed(0)
    return LanguageModel(V, Stack([Recurrent(cell, engine="scan") for cell in cells])).double().eval()


def text(steps, rows, seed=0):
    return torch.randint(V, (steps, rows), generator=torch.Generator().manual_seed(seed))


CASES = {
    "elman": lambda: [ElmanCell(E, H)],
    "lstm": lambda: [LSTMCell(E, H), LSTMCell(H, H)],
    "gru": lambda: [GRUCell(E, H), ElmanCell(H, H)],
}


def nudged(model, cells, tokens, step, layer, field, nudge):
    """Nats of the last token of each text, with something added to one state at one step."""
    carries, steps = zip(*((cell.init_carry(2), cell.bind(cell.init_carry(2))) for cell in cells), strict=True)
    carries = list(carries)
    for t, words in enumerate(tokens[:-1]):
        x = model.embed(words, None)
        for index, cell in enumerate(cells):
            carry, y = steps[index](carries[index], cell.inputs(x[None], carries[index])[0])
            if (t, index) == (step, layer):
                if field == "c":  # which h has been made of: h = o * tanh(c)
                    carry = LSTMCarry(carry.h / carry.c.tanh() * (carry.c + nudge).tanh(), carry.c + nudge)
                else:
                    carry = carry._replace(h=carry.h + nudge)
                y = carry.h
            carries[index], x = carry, y
    return nll_of_each(model, x, tokens[-1])


@pytest.mark.parametrize("name", CASES)
def test_gradients_against_finite_differences(name):
    cells = CASES[name]()
    model, tokens, size = model_of(*cells), text(9, 2), 1e-5
    for curve in gradient_by_lag(model, tokens, lags=5, times=1):
        for lag in (0, 1, 5):
            found = torch.zeros(2, H, dtype=torch.float64)
            for unit, nudge in enumerate(size * torch.eye(H, dtype=torch.float64)):
                place = (7 - lag, curve.layer, curve.state)
                up, down = (nudged(model, cells, tokens, *place, sign * nudge) for sign in (1, -1))
                found[:, unit] = (up - down).detach() / (2 * size)
            expected = found.norm(dim=1).mean()  # the median of two is their mean
            assert curve.median[lag] == pytest.approx(float(expected), rel=1e-6, abs=1e-10), (curve.layer, lag)


@pytest.mark.parametrize(("scale", "gone"), [(0.9, 44), (1.1, None)])
def test_a_scaled_turn_shrinks_or_grows_by_its_scale(scale, gone):
    """h_t = s Q h_{t-1} + ...: the norm is s^k exactly, and so is the bound."""
    cell = ElmanCell(E, H, activation="identity")
    model = model_of(cell)
    with torch.no_grad():
        cell.weight_hh.copy_(scale * torch.linalg.qr(torch.randn(H, H, dtype=torch.float64)).Q)
    (curve,) = gradient_by_lag(model, text(64, 3), lags=50, times=4)
    expected = [curve.median[0] * scale**k for k in range(51)]
    for found in (curve.median, curve.bound):
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert curve.gone_at == gone
    (spectrum,) = spectra(model)
    np.testing.assert_allclose([*spectrum.singular, spectrum.radius], scale, rtol=1e-9)
    assert spectrum.orthogonality == pytest.approx(abs(scale**2 - 1))


@pytest.mark.parametrize("kind", [MinGRUCell, QRNNCell])
def test_a_linear_cell_that_keeps_half_loses_half_a_step(kind):
    """Weights of 0: every gate is 0.5, and so is d h_t / d h_{t-1}; lag 0 is that of the output, not nothing."""
    cell = kind(E, H)
    model = model_of(cell)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
    curve, *previous = gradient_by_lag(model, text(24, 3), lags=12, times=2)
    assert curve.median[0] > 0.01 and curve.gone_at == 7
    np.testing.assert_allclose(curve.median, [curve.median[0] * 0.5**k for k in range(13)], rtol=1e-9)
    assert all(one.median == [0] * 13 and one.gone_at is None for one in previous), "V = 0: x_{t-1} is not read"


def test_a_part_of_the_carry_that_is_read_a_step_later_starts_there():
    cell = QRNNCell(E, H)
    model = model_of(testing.with_large_weights(cell))
    _, previous = gradient_by_lag(model, text(60, 3), lags=40, times=2)
    assert previous.median[0] == 0 and previous.start == previous.median[1] > 0 and previous.gone_at is not None


def test_the_bound_holds_and_needs_the_slope():
    for activation in ("tanh", "sigmoid"):
        cell = ElmanCell(E, H, activation=activation)
        model = model_of(cell)
        torch.nn.init.normal_(cell.weight_hh, std=0.7)
        (curve,) = gradient_by_lag(model, text(40, 4), lags=20, times=5)
        highest = np.array(curve.bound) * curve.high[0] / curve.median[0]
        assert (np.array(curve.high) <= highest * (1 + 1e-9)).all()
        assert curve.bound[-1] > curve.median[-1]


def test_blocks_of_gates_have_a_spectrum_each():
    def names(cell):
        return [one.name for one in spectra(model_of(cell))]

    assert names(LSTMCell(E, H)) == [f"weight_hh[{gate}]" for gate in ("input", "forget", "candidate", "output")]
    assert names(LSTMCell(E, H, input_gate="coupled")) == names(LSTMCell(E, H))[1:]
    assert (
        names(GRUCell(E, H, reset="none")) == names(GRUCell(E, H))[1:] == ["weight_hh[update]", "weight_hh[candidate]"]
    )
    assert names(ElmanCell(E, H)) == ["weight_hh"] and names(RHNCell(E, H, depth=2))[3] == "weight_hh[3]"


def test_gates_of_a_cell_made_by_hand():
    """Weights of 0, so that biases alone decide: forget 0.95, input 0.05, output 0.5; half is gone in 13.5 steps."""
    cell = LSTMCell(E, H)
    model = model_of(cell)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        biases = cell.bias_ih.view(4, H)
        biases[0], biases[1] = math.log(0.05 / 0.95), math.log(0.95 / 0.05)
    forget, given, output = gates(model, text(12, 3))
    assert [one.name for one in (forget, given, output)] == ["forget", "input", "output"]
    assert (forget.open, forget.closed, given.open, given.closed, output.open, output.closed) == (1, 0, 0, 1, 0, 0)
    assert forget.half_lives == pytest.approx([-math.log(2) / math.log(0.95)] * H) and given.half_lives is None
    assert forget.histogram[19] + forget.histogram[18] == 1 and given.histogram[0] + given.histogram[1] == 1
    assert sum(output.histogram) == pytest.approx(1)


@pytest.mark.parametrize(("name", "extra"), VARIANTS, ids=IDS)
def test_gates_are_those_that_cells_name(name, extra):
    """Nothing in a model changes; a cell without names has no gates; a name that keeps memory is one of them."""
    cell = build(compose(f"model/cell={name}", *extra).model["cell"], "model.cell", input_size=E, hidden_size=H)
    model = model_of(testing.with_large_weights(cell))
    before = unroll(model, text(6, 2)).tops[-1]
    found = gates(model, text(6, 2))
    assert "bind" not in vars(cell) and torch.equal(before, unroll(model, text(6, 2)).tops[-1])
    assert [one.name for one in found] == [name for name in cell.gate_names if name]
    assert not cell.block_names or len(cell.weight_hh) == len(cell.block_names) * H
    assert sum(one.half_lives is not None for one in found) == bool(cell.gate_names)
    assert all(len(one.half_lives or [0] * H) == H for one in found)


def test_gates_add_up_to_the_state_of_a_gru():
    """The update gate that is recorded is the one that keeps: h = (1 - z) n + z h; with z near 1 h stays 0."""
    cell = GRUCell(E, H)
    model = model_of(cell)
    with torch.no_grad():
        cell.bias_ih.view(3, H)[1] = 50
    update, reset = gates(model, text(5, 2))
    assert (update.name, update.open) == ("update", 1.0) and reset.open < 1 and min(update.half_lives) > 1e10


@pytest.mark.parametrize("kind", [MinGRUCell, MinLSTMCell])
def test_a_sigmoid_that_is_no_gate_is_not_taken_for_one(kind):
    """With candidate=g the candidate has one, too: with weights of 0 it is 0.27, and the gate what its bias says."""
    cell = kind(E, H, candidate="g")
    model = model_of(cell)
    with torch.no_grad():
        cell.weight_ih.zero_()
        cell.bias_ih.zero_()
        cell.bias_ih.view(cell.num_gates, H)[0] = -6.0  # i, where there is one
        cell.bias_ih.view(cell.num_gates, H)[-2] = 6.0  # z, or f
        cell.bias_ih.view(cell.num_gates, H)[-1] = -1.0  # where g is its sigmoid
    (gate,) = gates(model, text(5, 2))
    assert (gate.open, gate.closed) == (1, 0)


def test_context_that_a_model_uses():
    """An Elman network whose state is a copy of the last token but two: only three tokens of context help it."""
    cell = ElmanCell(V, 3 * V, activation="identity")
    model = LanguageModel(V, Stack([Recurrent(cell, engine="scan")])).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        eye = torch.eye(V, dtype=torch.float64)
        model.embedding.weight.copy_(eye)
        cell.weight_ih[:V] = eye
        cell.weight_hh[V : 2 * V, :V] = cell.weight_hh[2 * V :, V : 2 * V] = eye
        model.decoder.weight[:, 2 * V :] = 9 * eye
    tokens = torch.randint(V, (3,)).repeat(70)  # every token is the one that stood three before it
    curve = loss_by_context(model, tokens, most=16, places=50)
    assert curve.context == [1, 2, 4, 8, 16] and curve.effective == 4
    assert curve.loss[0] == curve.loss[1] == pytest.approx(math.log(V)) and curve.loss[2] == pytest.approx(
        curve.loss[4]
    )
    assert curve.loss[2] < 0.01 and curve.error[0] == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="16 tokens are too few for a context of 16"):
        loss_by_context(model, tokens[:16], most=16, places=5)
    assert ContextCurve([1, 2], [1.0, 1.0], [0, 0]).effective == 1


def test_how_a_training_went(tmp_path):
    train(tiny(tmp_path, "train.steps=8", "checkpoint.every=4", "checkpoint.keep_last=5", "train.log_every=1"), {})
    run = RunFolder(tmp_path / "run")
    norms = [record["train/grad_norm"] for record in run.records() if "train/grad_norm" in record]
    found = clipping(run.records(), sorted(norms)[1])
    assert (found["logged"], found["largest"], found["clipped"]) == (8, max(norms), 6 / 8)
    ratios = update_ratios(run)
    assert all(0 < ratio < 0.2 for ratio in ratios.values()) and "embedding.weight" in ratios
    assert clipping([], 1.0) == {} and "clipped" not in clipping(run.records(), None)
    assert rare_words(np.array([0, 0, 2], dtype=np.uint16), 4) == {"vocabulary": 4, "never_read": 2, "five_times": 4}
