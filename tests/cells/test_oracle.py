"""Elman, LSTM and GRU against torch's own modules with copied weights; Jordan against plain NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from seqlm import Bidirectional, ElmanCell, GRUCell, JordanCell, LSTMCell, Recurrent, Stack
from seqlm.cells import carry_tensors, map_carry

T, B, E, H = 7, 3, 5, 4
MODULES = {
    "elman-tanh": (lambda i: ElmanCell(i, H), lambda **k: nn.RNN(E, H, nonlinearity="tanh", **k)),
    "elman-relu": (lambda i: ElmanCell(i, H, activation="relu"), lambda **k: nn.RNN(E, H, nonlinearity="relu", **k)),
    "lstm": (lambda i: LSTMCell(i, H), lambda **k: nn.LSTM(E, H, **k)),
    "gru": (lambda i: GRUCell(i, H), lambda **k: nn.GRU(E, H, **k)),
}


@pytest.fixture(autouse=True)
def float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("engine", ["scan", "native"])
@pytest.mark.parametrize("name", MODULES)
def test_two_layers_both_directions_equal_torch(name, engine):
    make_cell, make_torch = MODULES[name]
    reference = make_torch(num_layers=2, bidirectional=True)
    layers = []
    for size in (E, 2 * H):
        cells = [Recurrent(make_cell(size), reverse, engine) for reverse in (False, True)]
        layers.append(Bidirectional(*cells))
    ours = Stack(layers)
    for depth, layer in enumerate(layers):
        for half, suffix in ((layer.fwd, ""), (layer.bwd, "_reverse")):
            for parameter in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                source = getattr(reference, f"{parameter}_l{depth}{suffix}")
                getattr(half.cell, parameter).data.copy_(source.data)

    xs = torch.randn(T, B, E)
    ours_xs, torch_xs = xs.clone().requires_grad_(), xs.clone().requires_grad_()
    # The initial carry: random, with a gradient. torch orders it layer by layer, forward then backward.
    carry = map_carry(lambda tensor: torch.randn_like(tensor).requires_grad_(), ours.init_carry(B))
    halves = [half for layer in carry for half in layer]
    states = [torch.stack([getattr(half, field) for half in halves]) for field in halves[0]._fields]
    torch_states = [state.detach().clone().requires_grad_() for state in states]

    last, ys = ours(ours_xs, carry)
    torch_ys, torch_last = reference(torch_xs, tuple(torch_states) if len(states) == 2 else torch_states[0])
    torch_last = torch_last if isinstance(torch_last, tuple) else (torch_last,)
    last_halves = [half for layer in last for half in layer]
    ours_last = [torch.stack([getattr(half, field) for half in last_halves]) for field in halves[0]._fields]

    close = dict(rtol=0, atol=1e-12)
    torch.testing.assert_close(ys, torch_ys, **close)
    weights = torch.randn_like(ys)
    loss, torch_loss = (ys * weights).sum(), (torch_ys * weights).sum()
    for mine, theirs in zip(ours_last, torch_last, strict=True):
        torch.testing.assert_close(mine, theirs, **close)
        factor = torch.randn_like(mine)
        loss, torch_loss = loss + (mine * factor).sum(), torch_loss + (theirs * factor).sum()
    loss.backward()
    torch_loss.backward()
    torch.testing.assert_close(ours_xs.grad, torch_xs.grad, **close)
    for field, torch_state in zip(halves[0]._fields, torch_states, strict=True):
        grads = torch.stack([getattr(half, field).grad for half in halves])
        torch.testing.assert_close(grads, torch_state.grad, **close)
    for depth, layer in enumerate(layers):
        for half, suffix in ((layer.fwd, ""), (layer.bwd, "_reverse")):
            for parameter in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                grad = getattr(reference, f"{parameter}_l{depth}{suffix}").grad
                torch.testing.assert_close(getattr(half.cell, parameter).grad, grad, **close)


@pytest.mark.parametrize(("ours", "theirs"), [(ElmanCell, nn.RNNCell), (LSTMCell, nn.LSTMCell), (GRUCell, nn.GRUCell)])
def test_weights_load_from_torch_cells(ours, theirs):
    reference, cell = theirs(E, H), ours(E, H)
    cell.load_state_dict(reference.state_dict())
    x, carry = torch.randn(B, E), cell.init_carry(B)
    _, y = cell.step(carry, cell.project(x))
    expected = reference(x)
    torch.testing.assert_close(y, expected[0] if isinstance(expected, tuple) else expected)


def test_jordan_equals_a_numpy_loop():
    cell = JordanCell(E, H, output_size=6, activation="sigmoid", output_activation="tanh")
    weights = {name: parameter.detach().numpy() for name, parameter in cell.named_parameters()}
    xs = np.random.default_rng(0).normal(size=(T, B, E))
    y = start = np.random.default_rng(1).normal(size=(B, 6))
    expected = []
    for x in xs:
        h = 1 / (1 + np.exp(-(x @ weights["weight_ih"].T + weights["bias_ih"] + y @ weights["weight_yh"].T)))
        y = np.tanh(h @ weights["weight_hy"].T + weights["bias_hy"])
        expected.append(y)
    carry = map_carry(lambda _: torch.from_numpy(start), cell.init_carry(B))
    last, ys = Recurrent(cell)(torch.from_numpy(xs), carry)
    np.testing.assert_allclose(ys.detach().numpy(), np.stack(expected), rtol=0, atol=1e-12)
    np.testing.assert_allclose(last.y.detach().numpy(), y, rtol=0, atol=1e-12)


def test_gru_reset_before_the_matmul_equals_its_equations():
    cell = GRUCell(E, H, reset="before")
    w_ih, w_hh, b_ih, b_hh = (p.detach().numpy() for p in (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh))
    rng = np.random.default_rng(0)
    x, h = rng.normal(size=(B, E)), rng.normal(size=(B, H))

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    def block(gate, state):
        rows = slice(gate * H, (gate + 1) * H)
        return x @ w_ih[rows].T + b_ih[rows] + state @ w_hh[rows].T + b_hh[rows]

    reset, update = sigmoid(block(0, h)), sigmoid(block(1, h))
    expected = (1 - update) * np.tanh(block(2, reset * h)) + update * h
    carry = map_carry(lambda _: torch.from_numpy(h), cell.init_carry(B))
    last, y = cell.step(carry, cell.project(torch.from_numpy(x)))
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=0, atol=1e-12)
    assert carry_tensors(last)[0] is y


def test_memory_example_of_the_textbooks():
    """A linear Elman layer of two units, all weights 1, no bias: its outputs depend on the order of its inputs."""
    cell = ElmanCell(2, 2, activation="identity", bias=False)
    for parameter in cell.parameters():
        nn.init.ones_(parameter)
    layer = Recurrent(cell)
    xs = torch.tensor([[1.0, 1.0], [1.0, 1.0], [2.0, 2.0]]).unsqueeze(1)
    _, ys = layer(xs, layer.init_carry(1))
    assert ys.squeeze(1).tolist() == [[2, 2], [6, 6], [16, 16]]
    _, permuted = layer(xs[[2, 0, 1]], layer.init_carry(1))
    assert permuted.squeeze(1).tolist() == [[4, 4], [10, 10], [22, 22]]
