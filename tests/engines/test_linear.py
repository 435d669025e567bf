"""Linear recurrences: the function against a loop in NumPy, and what `fused` promises of the cells beyond the laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from seqlm import Recurrent, scan
from seqlm.cells import LinearCell, MinGRUCell, MinLSTMCell, QRNNCell, carry_tensors, map_carry
from seqlm.engines import compiled, fused, linear, pick
from seqlm.engines.linear import linear_recurrence
from seqlm.testing import engine_equals_scan

from .test_engines import made

CELLS = [QRNNCell, lambda *sizes: QRNNCell(*sizes, window=1), MinGRUCell, MinLSTMCell]


def by_hand(a, b, start, slopes):
    """h, and the gradients of sum(slopes * h) with regard to a, b and h_0, number by number."""
    steps, rows, size = a.shape
    h, da, db, dstart = np.zeros_like(a), np.zeros_like(a), np.zeros_like(a), np.zeros_like(start)
    for row in range(rows):
        for unit in range(size):
            state = start[row, unit]
            for t in range(steps):
                state = a[t, row, unit] * state + b[t, row, unit]
                h[t, row, unit] = state
            # h_t depends on h_s through a_{s+1} .. a_t.
            for t in range(steps):
                through = slopes[t, row, unit]
                for s in range(t, -1, -1):
                    db[s, row, unit] += through
                    da[s, row, unit] += through * (h[s - 1, row, unit] if s else start[row, unit])
                    through *= a[s, row, unit]
                dstart[row, unit] += through
    return h, da, db, dstart


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 3), (7, 3, 5), (4, 3, 400)])
def test_the_recurrence_by_hand(shape, dtype, loop_body):
    torch.manual_seed(0)
    a, b, slopes = (torch.randn(shape, dtype=dtype) for _ in range(3))
    start = torch.randn(shape[1:], dtype=dtype)
    for tensor in (a, b, start):
        tensor.requires_grad_()
    h = linear_recurrence(a, b, start)
    found = [h, *torch.autograd.grad((h * slopes).sum(), (a, b, start))]
    expected = by_hand(*(tensor.detach().double().numpy() for tensor in (a, b, start, slopes)))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        tolerance = {"rtol": 0, "atol": 1e-12} if dtype is torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
        np.testing.assert_allclose(ours.detach().numpy(), theirs, **tolerance)


def test_threads_do_not_change_a_bit():
    torch.manual_seed(0)
    a, b = torch.rand(9, 5, 700, requires_grad=True), torch.randn(9, 5, 700, requires_grad=True)
    start = torch.randn(5, 700, requires_grad=True)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        h = linear_recurrence(a, b, start)
        results.append([h, *torch.autograd.grad(h.square().sum(), (a, b, start))])
    for one, other in (results[:2], results[1:]):
        assert all(map(torch.equal, one, other))


def test_strides_do_not_matter_and_constants_are_broadcast(loop_body):
    torch.manual_seed(0)
    both = torch.randn(6, 4, 5, dtype=torch.float64, requires_grad=True)
    start = torch.randn(4, 3, dtype=torch.float64).t().requires_grad_()
    decay = torch.rand(4, dtype=torch.float64, requires_grad=True)
    slopes = torch.randn(5, 3, 4, dtype=torch.float64).transpose(0, 0)

    def run(recurrence):
        b = both.permute(2, 0, 1)[:, ::2]  # (5, 3, 4), no two of its numbers side by side
        h = recurrence(decay, b, start)
        return [h, *torch.autograd.grad((h * slopes).sum(), (decay, both, start))]

    def plain(a, b, state):
        states = []
        for bt in b:
            state = a * state + bt
            states.append(state)
        return torch.stack(states)

    for ours, theirs in zip(run(linear_recurrence), run(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_only_what_is_asked_for_gets_a_gradient(loop_body):
    a, b, start = torch.rand(3, 2, 4), torch.rand(3, 2, 4), torch.rand(2, 4)
    assert not linear_recurrence(a, b, start).requires_grad
    linear_recurrence(a, b.requires_grad_(), start).sum().backward()
    assert a.grad is None and start.grad is None and b.grad.shape == b.shape


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"coefficients \(3, 5, 4\) and \(3, 5, 4\) do not fit a state \(1, 4\)"):
        linear_recurrence(torch.ones(3, 5, 4), torch.ones(3, 5, 4), torch.ones(1, 4))
    cell = MinGRUCell(3, 4)
    with pytest.raises(ValueError, match="do not fit a state"):
        fused.run(cell, torch.randn(2, 5, 3), cell.init_carry(1))


class Constant(LinearCell):
    """Every unit forgets at a rate of its own, whatever the input; the output is another function of the state."""

    num_gates = 2

    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        self.rate = nn.Parameter(torch.zeros(hidden_size))

    def coefficients(self, z):
        b, gate = z.chunk(2, -1)
        return self.rate.sigmoid(), b, gate

    def read(self, h, *gates):
        return h.tanh() * gates[0].relu()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize("engine", ["fused", "deferred"])
def test_a_cell_of_the_users(engine, steps, reverse, loop_body):
    engine_equals_scan(made(Constant, 5, 7), engine, steps=steps, reverse=reverse)


def test_auto_takes_fused_and_says_what_the_loop_is(monkeypatch):
    for kind in (*CELLS, Constant):
        assert pick(kind(4, 5)).engine == "fused"
    kernels = linear.describe(QRNNCell(4, 5))
    assert kernels == "one kernel a chunk" or "no C compiler" in kernels
    assert kernels in pick(QRNNCell(4, 5)).reason
    assert linear.describe(QRNNCell(4, 5).half()) == "torch's operations, for no kernels for torch.float16 on cpu"
    if "no C compiler" not in kernels:
        monkeypatch.setenv("CC", "/bin/false")
        monkeypatch.setattr(compiled, "FLAGS", ("-O1",))  # another source, as it were: not compiled yet
        assert "/bin/false failed" in linear.describe(QRNNCell(4, 5))
    monkeypatch.setenv("SEQLM_KERNELS", "0")
    assert pick(QRNNCell(4, 5)).reason.endswith("(torch's operations, for SEQLM_KERNELS=0)")


def test_what_is_not_one_linear_recurrence_is_refused():
    class Own(MinGRUCell):
        def step(self, carry, z):
            carry, y = super().step(carry, z)
            return carry, y.tanh()

    class AcrossSteps(MinGRUCell):
        def coefficients(self, z):
            return super().coefficients(z - z.mean(0))

    assert "a step of its own, not the one derived from coefficients()" in fused.refusal(Own(3, 4))
    assert "do not give what they give step by step" in fused.refusal(AcrossSteps(3, 4))
    for kind in (Own, AcrossSteps):
        engine_equals_scan(made(kind, 5, 7), "auto")
        with pytest.raises(ValueError, match="engine=fused cannot serve this layer"):
            Recurrent(kind(3, 4), engine="fused")


def test_a_second_derivative_is_refused_not_wrong():
    cell = made(MinGRUCell, 5, 7)
    xs = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="engine=fused is differentiable once"):
        torch.autograd.grad(fused.run(cell, xs, cell.init_carry(3))[1].sum(), xs, create_graph=True)


@pytest.mark.parametrize("kind", CELLS)
def test_reduced_precision_is_that_of_products_alone(kind, loop_body):
    torch.manual_seed(0)
    cell = kind(16, 16)
    xs, carry = torch.randn(9, 4, 16).bfloat16(), cell.init_carry(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        last, ys = fused.run(cell, xs, carry)
        inputs = cell.inputs(xs, carry)
    assert {tensor.dtype for tensor in (ys, *carry_tensors(last))} == {torch.float32}
    exact, exact_ys = cell.unroll(map_carry(torch.Tensor.float, inputs), carry, linear_recurrence)
    assert inputs[0].dtype is torch.bfloat16 and torch.equal(ys, exact_ys) and torch.equal(last[0], exact[0])
    ys.sum().backward()
    assert cell.weight_ih.grad.dtype == torch.float32


def test_the_carry_does_not_hold_on_to_the_chunk():
    cell = QRNNCell(6, 5)
    last, _ = fused.run(cell, torch.randn(50, 2, 6), cell.init_carry(2))
    assert [tensor.untyped_storage().nbytes() for tensor in last] == [2 * 5 * 4, 2 * 6 * 4]


def test_parameters_begin_as_those_of_a_linear_map():
    torch.manual_seed(0)
    for cell, inputs in ((QRNNCell(50, 40), 100), (QRNNCell(50, 40, window=1), 50), (MinLSTMCell(50, 40), 50)):
        for parameter in cell.parameters():
            assert 0.9 * inputs**-0.5 < parameter.abs().max() <= inputs**-0.5
        cell.reset_parameters(0.01)
        assert all(parameter.abs().max() <= 0.01 for parameter in cell.parameters())


def test_a_chunk_of_one_is_a_step():
    """Sampling reads a token at a time."""
    cell = made(QRNNCell, 5, 7)
    xs, carry = torch.randn(4, 3, 5, dtype=torch.float64), cell.init_carry(3)
    whole, ys = scan(cell, xs, carry)
    for t in range(4):
        carry, y = fused.run(cell, xs[t : t + 1], carry)
        torch.testing.assert_close(y[0], ys[t], rtol=0, atol=1e-12)
    for ours, theirs in zip(carry, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
