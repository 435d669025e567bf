"""Cells that torch does not have, each against a slow loop over the equations of its paper, unit by unit, in NumPy."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from seqlm import ElmanCell, GRUCell, JordanCell, LSTMCell, scan
from seqlm.cells import (
    FeedForwardCell,
    LayerNormGRUCell,
    MinGRUCell,
    MinLSTMCell,
    MogrifierLSTMCell,
    QRNNCell,
    RecurrentDropout,
    RHNCell,
    carry_tensors,
    map_carry,
)
from seqlm.cells.dropout import dropout_mask, keep_mask

T, B, E, H = 6, 2, 3, 4


def made(kind, **options):
    """A cell in float64 with large weights, so that every term counts."""
    torch.manual_seed(0)
    cell = kind(E, H, **options).double()
    for parameter in cell.parameters():
        nn.init.uniform_(parameter, -0.9, 0.9)
    return cell


def arrays(cell):
    return {name: parameter.detach().numpy() for name, parameter in cell.named_parameters()}


def compare(cell, oracle):
    """Outputs and last carry are those of `oracle`: (inputs x_1 .. x_T, carry of one row) -> (outputs, carry)."""
    torch.manual_seed(1)
    xs = torch.randn(T, B, E, dtype=torch.float64)
    carry = map_carry(lambda t: torch.randn_like(t), cell.init_carry(B))
    torch.manual_seed(2)  # of the masks, if there are any
    last, ys = scan(cell, xs, carry)
    for row in range(B):
        start = [tensor[row].numpy() for tensor in carry_tensors(carry)]
        outputs, end = oracle(xs[:, row].numpy(), start, row)
        np.testing.assert_allclose(ys[:, row].detach().numpy(), np.stack(outputs), rtol=0, atol=1e-12)
        for ours, theirs in zip(carry_tensors(last), end, strict=True):
            np.testing.assert_allclose(ours[row].detach().numpy(), theirs, rtol=0, atol=1e-12)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def lstm(w, x, h, c, input_gate="free", weight_hh=None):
    a = w["weight_ih"] @ x + w["bias_ih"] + (w["weight_hh"] if weight_hh is None else weight_hh) @ h + w["bias_hh"]
    i, f, g, o = sigmoid(a[:H]), sigmoid(a[H : 2 * H]), np.tanh(a[2 * H : 3 * H]), sigmoid(a[3 * H :])
    if input_gate == "capped":
        i = np.array([min(i[unit], 1 - f[unit]) for unit in range(H)])
    c = f * c + i * g
    return o * np.tanh(c), c


def mogrified(w, x, h, rounds, rank):
    """x and h after the rounds, which are counted from 1 as in the paper; the inner sums are written out."""
    for i in range(1, rounds + 1):
        name = f"modulators.{i - 1}"
        if rank is None:
            matrix, bias = w[f"{name}.weight"], w.get(f"{name}.bias")
        else:  # left factor times right factor
            left, right, bias = w[f"{name}.1.weight"], w[f"{name}.0.weight"], w.get(f"{name}.1.bias")
            matrix = np.zeros((len(left), right.shape[1]))
            for k in range(rank):
                matrix += np.outer(left[:, k], right[k])
        new, source = (x, h) if i % 2 == 1 else (h, x)
        bias = np.zeros(len(new)) if bias is None else bias
        sums = [sum(matrix[n, m] * source[m] for m in range(len(source))) + bias[n] for n in range(len(new))]
        gated = np.array([2 * sigmoid(sums[n]) * new[n] for n in range(len(new))])
        x, h = (gated, h) if i % 2 == 1 else (x, gated)
    return x, h


@pytest.mark.parametrize("input_gate", ["free", "capped"])
@pytest.mark.parametrize(
    ("rounds", "rank", "biased"), [(1, None, 0), (2, None, 0), (5, None, 5), (5, None, 0), (4, 2, 0), (4, 2, 4)]
)
def test_mogrifier(rounds, rank, biased, input_gate):
    cell = made(MogrifierLSTMCell, rounds=rounds, rank=rank, round_bias=biased > 0, input_gate=input_gate)
    w = arrays(cell)
    assert sum(name.startswith("modulators") and name.endswith("bias") for name in w) == biased

    def oracle(xs, start, row):
        (h, c), ys = start, []
        for x in xs:
            h, c = lstm(w, *mogrified(w, x, h, rounds, rank), c, input_gate)
            ys.append(h)
        return ys, [h, c]

    compare(cell, oracle)


def test_mogrifier_with_masks():
    """The mask on the state comes before the rounds, weight-drop is of weight_hh, and zoneout keeps old units."""
    drop = RecurrentDropout(weight=0.3, state=0.4, zoneout=0.3, zoneout_memory=0.2)
    cell = made(MogrifierLSTMCell)
    cell.regularise(drop)
    w = arrays(cell)
    torch.manual_seed(2)  # drawn in the order of the chunk: weight, state, zones of h, zones of c
    weight, mask = drop.draw(cell.weight_hh.detach(), B)
    kept_h, kept_c = (
        (dropout_mask((T, B, H), 1 - p, weight) > 0).double().numpy() for p in (drop.zoneout, drop.zoneout_memory)
    )
    weight, mask = weight.numpy(), mask.numpy()
    assert (weight == 0).any() and (mask == 0).any() and kept_h.any() and kept_c.any()

    def oracle(xs, start, row):
        (h, c), ys = start, []
        for t, x in enumerate(xs):
            x, masked = mogrified(w, x, mask[row] * h, 5, None)
            new_h, new_c = lstm(w, x, masked, c, weight_hh=weight)
            h = np.where(kept_h[t, row] == 1, h, new_h)
            c = np.where(kept_c[t, row] == 1, c, new_c)
            ys.append(h)
        return ys, [h, c]

    compare(cell, oracle)


def test_mogrifier_without_rounds_is_an_lstm():
    plain = made(LSTMCell, input_gate="coupled")
    cell = made(MogrifierLSTMCell, rounds=0, input_gate="coupled")
    cell.load_state_dict(plain.state_dict())
    xs = torch.randn(T, B, E, dtype=torch.float64)
    for ours, theirs in zip(scan(cell, xs, cell.init_carry(B)), scan(plain, xs, plain.init_carry(B)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_mogrifier_forget_bias_and_range_at_initialisation():
    cell = MogrifierLSTMCell(E, H, forget_bias=3.0, rank=2)
    forget = cell.bias_ih.detach().view(4, H)[1]
    assert forget.min() >= 2.5 and forget.max() <= 3.5
    others = [p for p in cell.parameters() if p is not cell.bias_ih]
    assert len(others) == 3 + 2 * 5 and all(0 < p.abs().max() <= 0.5 for p in others)  # 1 / sqrt(4)


def layer_norm(a, gain, shift):
    mean = sum(a) / len(a)
    variance = sum((value - mean) ** 2 for value in a) / len(a)
    return np.array([g * (v - mean) / math.sqrt(variance + 1e-5) + s for v, g, s in zip(a, gain, shift, strict=True)])


def test_layer_norm_gru():
    cell = made(LayerNormGRUCell)
    w = arrays(cell)

    def norm(name, a):
        return layer_norm(a, w[f"norm_{name}.weight"], w[f"norm_{name}.bias"])

    def oracle(xs, start, row):
        (h,), ys = start, []
        for x in xs:
            from_x, from_h = w["weight_ih"] @ x + w["bias_ih"], w["weight_hh"] @ h + w["bias_hh"]
            both = sigmoid(norm("ih", from_x[: 2 * H]) + norm("hh", from_h[: 2 * H]))
            r, z = both[:H], both[H:]
            n = np.tanh(norm("in", from_x[2 * H :]) + r * norm("hn", from_h[2 * H :]))
            h = (1 - z) * n + z * h
            ys.append(h)
        return ys, [h]

    compare(cell, oracle)
    cell.reset_parameters(0.1)
    for norm_layer in (cell.norm_ih, cell.norm_hh, cell.norm_in, cell.norm_hn):
        assert (norm_layer.weight == 1).all() and (norm_layer.bias == 0).all()


def highway_oracle(w, depth, weight_hh, masks):
    """Layers are counted from 1; masks[gate][row] multiplies the state in every product of that gate."""

    def oracle(xs, start, row):
        (s,), ys = start, []
        for x in xs:
            for layer in range(1, depth + 1):
                rows = slice((layer - 1) * 2 * H, layer * 2 * H)
                to_h, to_t = np.split(weight_hh[rows], 2)
                bias_h, bias_t = np.split(w["bias_hh"][rows], 2)
                a, b = to_h @ (masks[0][row] * s) + bias_h, to_t @ (masks[1][row] * s) + bias_t
                if layer == 1:
                    a, b = a + w["weight_ih"][:H] @ x, b + w["weight_ih"][H:] @ x
                transform = sigmoid(b)
                carried = 1 - transform
                s = np.tanh(a) * transform + s * carried
            ys.append(s)
        return ys, [s]

    return oracle


@pytest.mark.parametrize("depth", [1, 4])
def test_rhn(depth):
    cell = made(RHNCell, depth=depth)
    w = arrays(cell)
    compare(cell, highway_oracle(w, depth, w["weight_hh"], np.ones((2, B, H))))


@pytest.mark.parametrize("per_gate", [False, True])
def test_rhn_with_masks(per_gate):
    """One mask for all layers and steps, or one for each of the two gates; every recurrent matrix is dropped from."""
    drop = RecurrentDropout(weight=0.3, state=0.4, per_gate=per_gate)
    cell = made(RHNCell, depth=3)
    cell.regularise(drop)
    torch.manual_seed(2)
    weight = cell.weight_hh.detach() * dropout_mask(cell.weight_hh.shape, 0.3, cell.weight_hh)
    mask = dropout_mask((2, B, H) if per_gate else (B, H), 0.4, weight).numpy()
    assert all((block == 0).any() for block in weight.chunk(6)) and (mask == 0).any()
    compare(cell, highway_oracle(arrays(cell), 3, weight.numpy(), mask if per_gate else [mask, mask]))


def test_rhn_transform_bias_at_initialisation():
    torch.manual_seed(0)
    for cell, bias in ((RHNCell(E, H, depth=3), -2.0), (RHNCell(E, H, depth=2, transform_bias=-4.0), -4.0)):
        candidate, transform = cell.bias_hh.detach().view(cell.depth, 2, H).unbind(1)
        assert (transform == bias).all() and 0 < candidate.abs().max() <= 0.5
    cell.reset_parameters(0.01)
    assert (cell.bias_hh.view(2, 2, H)[:, 1] == -4).all() and cell.bias_hh.view(2, 2, H)[:, 0].abs().max() <= 0.01


def positive(n):
    return np.array([value + 0.5 if value >= 0 else sigmoid(value) for value in n])


CANDIDATES = {"identity": lambda n: n, "g": positive}


def average(parts, start, kept=None, p=0.0):
    """States of an average with (forget, update) gates and a candidate at each step; `kept` units keep theirs."""
    h, hs = start, []
    for t, (forget, update, candidate) in enumerate(parts):
        new = forget * h + update * candidate
        h = p * h + (1 - p) * new if kept is None else np.where(kept[t], h, new)
        hs.append(h)
    return hs


def min_gru(w, x, g):
    z = sigmoid(w["weight_ih"][:H] @ x + w["bias_ih"][:H])
    return 1 - z, z, g(w["weight_ih"][H:] @ x + w["bias_ih"][H:])


def min_lstm(w, x, g):
    i, f, n = np.split(w["weight_ih"] @ x + w["bias_ih"], 3)
    i, f = sigmoid(i), sigmoid(f)
    return f / (f + i), i / (f + i), g(n)


MINIMAL = [(MinGRUCell, min_gru), (MinLSTMCell, min_lstm)]


@pytest.mark.parametrize("candidate", CANDIDATES)
@pytest.mark.parametrize(("kind", "equations"), MINIMAL)
def test_minimal_cells(kind, equations, candidate):
    cell = made(kind, candidate=candidate)
    w, g = arrays(cell), CANDIDATES[candidate]

    def oracle(xs, start, row):
        hs = average([equations(w, x, g) for x in xs], start[0])
        return hs, hs[-1:]

    compare(cell, oracle)


def masks_of_the_chunk(weights, drop):
    """Weights and kept units as `compare` will have them drawn: the weights, then the zones."""
    torch.manual_seed(2)
    found = {
        name: weight * dropout_mask(weight.shape, drop.weight, torch.tensor(weight)).numpy()
        for name, weight in weights.items()
    }
    kept = keep_mask((T, B, H), 1 - drop.zoneout, torch.empty(0)).numpy()
    assert all((weight == 0).any() for weight in found.values()) and kept.any() and not kept.all()
    return found, kept


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("kind", "equations"), MINIMAL)
def test_minimal_cells_with_masks(kind, equations, train):
    """Input weights are dropped once for a chunk, units keep their state at steps of their own; or on average."""
    cell, drop = made(kind).train(train), RecurrentDropout(weight=0.4, zoneout=0.3)
    cell.regularise(drop)
    w, kept, p = arrays(cell), None, drop.zoneout
    if train:
        masked, kept = masks_of_the_chunk({"weight_ih": w["weight_ih"]}, drop)
        w, p = w | masked, 0.0

    def oracle(xs, start, row):
        parts = [equations(w, x, CANDIDATES["identity"]) for x in xs]
        hs = average(parts, start[0], None if kept is None else kept[:, row], p)
        return hs, hs[-1:]

    compare(cell, oracle)


def test_min_lstm_gates_that_are_both_closed_stay_numbers():
    cell = MinLSTMCell(E, H)
    z = torch.tensor([-2000.0] * H + [-2001.0] * H + [5.0] * H).expand(B, -1)
    _, y = cell.step(map_carry(torch.ones_like, cell.init_carry(B)), z)
    torch.testing.assert_close(y, torch.full((B, H), (math.exp(-1) * 1 + 5) / (math.exp(-1) + 1)))


def qrnn_oracle(w, window, kept=None, p=0.0):
    """With zoneout as in the paper: a forget gate that is 1; or as its mean."""

    def oracle(xs, start, row):
        c, ys = start[0], []
        for t in range(T):
            a = w["weight_ih"] @ xs[t] + w["bias_ih"]
            if window == 2:
                a = a + w["weight_previous"] @ (start[1] if t == 0 else xs[t - 1])
            z, f, o = np.tanh(a[:H]), sigmoid(a[H : 2 * H]), sigmoid(a[2 * H :])
            f = 1 - (1 - p) * (1 - f) if kept is None else np.where(kept[t, row], 1.0, f)
            c = f * c + (1 - f) * z
            ys.append(o * c)
        return ys, [c] if window == 1 else [c, xs[-1]]

    return oracle


@pytest.mark.parametrize("window", [1, 2])
def test_qrnn(window):
    cell = made(QRNNCell, window=window)
    compare(cell, qrnn_oracle(arrays(cell), window))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("window", [1, 2])
def test_qrnn_with_masks(window, train):
    """Both of its weights are dropped; forget gates become 1."""
    cell, drop = made(QRNNCell, window=window).train(train), RecurrentDropout(weight=0.4, zoneout=0.3)
    cell.regularise(drop)
    w, kept, p = arrays(cell), None, drop.zoneout
    if train:
        masked, kept = masks_of_the_chunk({name: w[name] for name in w if name.startswith("weight")}, drop)
        w, p = w | masked, 0.0
    compare(cell, qrnn_oracle(w, window, kept, p))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (MogrifierLSTMCell, {"rounds": -1}, "rounds=-1 must be at least 0"),
        (MogrifierLSTMCell, {"rank": 0}, "rank=0 must be at least 1"),
        (MogrifierLSTMCell, {"input_gate": "tied"}, "input_gate='tied' is unknown"),
        (MogrifierLSTMCell, {"forget_bias": 1.0, "bias": False}, r"forget_bias=1\.0 needs bias=true"),
        (RHNCell, {"depth": 0}, "depth=0 must be at least 1"),
        (QRNNCell, {"window": 3}, "window=3 must be 1 or 2"),
        (MinGRUCell, {"candidate": "relu"}, "candidate='relu' is unknown; allowed: identity, g"),
        (MinLSTMCell, {"candidate": "relu"}, "candidate='relu' is unknown; allowed: identity, g"),
        *((kind, {"hidden_size": 0}, "hidden_size=0 must") for kind in (MinGRUCell, MinLSTMCell, QRNNCell, RHNCell)),
    ],
)
def test_arguments_that_make_no_sense(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**{"input_size": E, "hidden_size": H, **options})


@pytest.mark.parametrize(
    ("kind", "drop", "message"),
    [
        (
            MogrifierLSTMCell,
            {"state": 0.5, "per_gate": True},
            "MogrifierLSTMCell supports weight and state and zoneout and",
        ),
        (MogrifierLSTMCell, {"state": 1.5}, r"state=1\.5 must be"),
        (
            RHNCell,
            {"zoneout": 0.2},
            r"zoneout=0\.2 does .* RHNCell supports weight and state and per_gate and input$",
        ),
        (RHNCell, {"zoneout_memory": 0.2}, r"zoneout_memory=0\.2 does nothing: .* RHNCell supports"),
        (RHNCell, {"weight": 1.5}, r"weight=1\.5 must be"),
        (MinGRUCell, {"state": 0.2}, r"state=0\.2 does nothing: .* MinGRUCell supports weight and zoneout$"),
        (MinLSTMCell, {"per_gate": True}, "per_gate=true does nothing: .* MinLSTMCell supports weight and zoneout$"),
        (
            QRNNCell,
            {"zoneout_memory": 0.2},
            r"zoneout_memory=0\.2 does .* QRNNCell supports weight and zoneout$",
        ),
        (QRNNCell, {"zoneout": 1.0}, r"zoneout=1\.0 must be"),
    ],
)
def test_masks_that_a_cell_cannot_draw(kind, drop, message):
    with pytest.raises(ValueError, match=message):
        kind(E, H).regularise(RecurrentDropout(**drop))


def test_a_regulariser_that_a_cell_does_not_list_is_refused():
    """One that is new is refused by every cell until the cell lists it, not silently accepted."""

    class Newer(NamedTuple):
        blur: float = 0.0

        def check(self):
            return self

    for kind in (ElmanCell, JordanCell, LSTMCell, MogrifierLSTMCell, RHNCell, QRNNCell, FeedForwardCell):
        with pytest.raises(ValueError, match=rf"blur=0\.5 does nothing: .* {kind.__name__} supports"):
            kind(E, H).regularise(Newer(blur=0.5))
        kind(E, H).regularise(Newer())


@pytest.mark.parametrize("bias", [True, False])
def test_gru_with_one_gate(bias):
    """The textbook's form: c~ = tanh(W [c, x] + b), u = sigmoid(W_u [c, x] + b_u), c = u c~ + (1 - u) c."""
    cell = made(GRUCell, reset="none", bias=bias)
    assert cell.weight_ih.shape == (2 * H, E) and cell.weight_hh.shape == (2 * H, H)
    w = arrays(cell)
    b = w["bias_ih"] + w["bias_hh"] if bias else np.zeros(2 * H)

    def oracle(xs, start, row):
        c, ys = start[0], []
        for x in xs:
            total = w["weight_ih"] @ x + w["weight_hh"] @ c + b
            u, candidate = sigmoid(total[:H]), np.tanh(total[H:])
            c = u * candidate + (1 - u) * c
            ys.append(c)
        return ys, [c]

    compare(cell, oracle)
