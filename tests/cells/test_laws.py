"""Laws that hold for every cell with a YAML file: add a cell, and it is tested."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch

from seqlm import Recurrent, scan
from seqlm.cells import FeedForwardCell, GatedCell, carry_tensors, map_carry
from seqlm.config.values import find_configs
from seqlm.engines import ENGINES

from ..conftest import compose

T, B, E, H = 6, 3, 5, 7
CELLS = sorted(path.stem for path in (find_configs() / "model" / "cell").glob("*.yaml"))
VARIANTS = [(name, ()) for name in CELLS] + [
    ("elman", ("model.cell.activation=relu",)),
    ("elman", ("model.cell.activation=identity", "model.cell.bias=false")),
    ("jordan", ("model.cell.output_size=4", "model.cell.activation=sigmoid")),
    ("lstm", ("model.cell.bias=false",)),
    ("lstm", ("model.cell.forget_bias=1.0",)),
    ("gru", ("model.cell.reset=before",)),
    ("gru", ("model.cell.reset=none",)),
    ("gru", ("model.cell.reset=before", "model.cell.bias=false")),
    ("gru", ("model.cell.bias=false",)),
    ("layer_norm_gru", ("model.cell.bias=false",)),
    ("mogrifier_lstm", ("model.cell.rounds=2", "model.cell.rank=3", "model.cell.input_gate=capped")),
    ("mogrifier_lstm", ("model.cell.rank=3", "model.cell.round_bias=true")),
    ("mogrifier_lstm", ("model.cell.rounds=0", "model.cell.bias=false")),
    ("rhn", ("model.cell.depth=1",)),
    ("min_gru", ("model.cell.candidate=g", "model.cell.bias=false")),
    ("min_lstm", ("model.cell.candidate=g", "model.cell.bias=false")),
    ("qrnn", ("model.cell.window=1", "model.cell.bias=false")),
]
IDS = [" ".join([name, *(override.removeprefix("model.cell.") for override in extra)]) for name, extra in VARIANTS]


@pytest.fixture(params=VARIANTS, ids=IDS)
def cell(request):
    cell, drawn = made(*request.param)
    torch.set_rng_state(drawn)
    return cell


@cache
def made(name, extra):
    """A cell and the random numbers after it. No test changes it, so engines trace and try it once."""
    from seqlm.config.build import build

    torch.manual_seed(0)
    cell = build(compose(f"model/cell={name}", *extra).model["cell"], "model.cell", input_size=E, hidden_size=H)
    cell = cell.double()
    for parameter in cell.parameters():  # larger than at initialisation, so that the recurrence matters
        torch.nn.init.uniform_(parameter, -0.7, 0.7)
    return cell, torch.get_rng_state()


@cache
def converted(cell, dtype):
    return copy.deepcopy(cell).to(dtype)


def random_carry(cell, grad=False):
    return map_carry(lambda t: (0.5 * torch.randn_like(t)).requires_grad_(grad), cell.init_carry(B))


def xs_of(cell):
    return torch.randn(T, B, cell.input_size, dtype=torch.float64)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_shapes_and_carry_structure(cell):
    carry, xs = cell.init_carry(B), xs_of(cell)
    last, ys = scan(cell, xs, carry)
    assert ys.shape == (T, B, cell.output_size)
    assert type(last) is type(carry)
    for before, after in zip(carry_tensors(carry), carry_tensors(last), strict=True):
        assert before.shape == after.shape and before.dtype == after.dtype
        assert before.shape[0] == B and not before.any()


def test_gradients_match_finite_differences(cell):
    names = [name for name, _ in cell.named_parameters()]
    carry = random_carry(cell, grad=True)
    xs = torch.randn(3, B, E, dtype=torch.float64, requires_grad=True)
    leaves = [p.detach().clone().requires_grad_() for p in cell.parameters()]

    def run(xs, *tensors):
        parameters, carried = tensors[: len(names)], iter(tensors[len(names) :])
        inputs = (xs, map_carry(lambda _: next(carried), carry))
        module = Unrolled(cell)
        weights = {f"cell.{name}": value for name, value in zip(names, parameters, strict=True)}
        return torch.func.functional_call(module, weights, inputs)

    # relu has a kink; a small step keeps random points away from it.
    assert torch.autograd.gradcheck(run, (xs, *leaves, *carry_tensors(carry)), eps=1e-7, atol=1e-5)


class Unrolled(torch.nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, xs, carry):
        last, ys = scan(self.cell, xs, carry)
        return (ys, *carry_tensors(last))


def test_two_windows_equal_one(cell):
    carry, xs = random_carry(cell), xs_of(cell)
    whole_last, whole = scan(cell, xs, carry)
    middle, first = scan(cell, xs[:2], carry)
    last, second = scan(cell, xs[2:], middle)
    close(torch.cat([first, second]), whole)
    for a, b in zip(carry_tensors(last), carry_tensors(whole_last), strict=True):
        close(a, b)


def test_rows_of_a_batch_are_independent(cell):
    carry, xs = random_carry(cell), xs_of(cell)
    _, together = scan(cell, xs, carry)
    for row in range(B):
        _, alone = scan(cell, xs[:, row : row + 1], map_carry(lambda t, r=row: t[r : r + 1], carry))
        close(alone, together[:, row : row + 1])


def test_causality_and_reverse(cell):
    carry, xs = random_carry(cell), xs_of(cell)
    changed = xs.clone()
    changed[3] += 1
    _, before = scan(cell, xs, carry)
    _, after = scan(cell, changed, carry)
    close(before[:3], after[:3])
    assert not torch.allclose(before[3:], after[3:])
    _, backward = scan(cell, xs, carry, reverse=True)
    _, flipped = scan(cell, xs.flip(0), carry)
    close(backward, flipped.flip(0))


def test_memory_reaches_the_last_step(cell):
    carry = random_carry(cell, grad=True)
    if isinstance(cell, FeedForwardCell):
        assert carry == ()
        return
    _, ys = scan(cell, xs_of(cell), carry)
    for gradient in torch.autograd.grad(ys[-1].sum(), carry_tensors(carry)):
        assert gradient.abs().max() > 0


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [1, T])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "scan"])
def test_engines_equal_scan(cell, engine, dtype, steps, reverse):
    if why_not := ENGINES[engine].refusal(cell):
        with pytest.raises(ValueError, match=f"engine={engine} cannot serve"):
            Recurrent(cell, engine=engine)
        pytest.skip(why_not)
    compare_with_scan(converted(cell, dtype), engine, dtype, steps, reverse)


def compare_with_scan(cell, engine, dtype=torch.float64, steps=T, reverse=False):
    """Outputs, final carry and all gradients of an engine are those of scan, and the same bits when run again."""
    results = []
    weights = torch.randn(steps, B, cell.output_size, dtype=dtype)
    carry = random_carry(cell, grad=True)
    xs = torch.randn(steps, B, cell.input_size, dtype=dtype, requires_grad=True)
    factors = [torch.randn_like(tensor) for tensor in carry_tensors(carry)]
    for name in ("scan", engine, engine):
        last, ys = Recurrent(cell, reverse, name)(xs, carry)
        ends = sum((end * factor).sum() for end, factor in zip(carry_tensors(last), factors, strict=True))
        sources = [xs, *carry_tensors(carry), *cell.parameters()]
        gradients = torch.autograd.grad((ys * weights).sum() + ends, sources)
        assert type(last) is type(carry)
        results.append([ys, *carry_tensors(last), *gradients])
    with torch.no_grad():  # nothing is kept then, and nothing changes
        last, ys = Recurrent(cell, reverse, engine)(xs, carry)
    for ours, theirs in zip([ys, *carry_tensors(last)], results[1], strict=False):
        if engine == "native" and dtype is torch.float32:  # oneDNN may have another kernel for inference
            assert (ours - theirs).norm() <= 3e-6 * theirs.norm() + 1e-6
        else:
            assert torch.equal(ours, theirs)
    for reference, once, again in zip(*results, strict=True):
        assert torch.equal(once, again)
        if dtype is torch.float64:
            close(once, reference)
        else:
            assert (once - reference).norm() <= 3e-6 * reference.norm() + 1e-6


def test_a_gated_cell_is_its_gates(cell):
    if not isinstance(cell, GatedCell) or not cell.gated:
        pytest.skip("not a function of one affine map")
    carry, z = random_carry(cell), torch.randn(B, cell.num_gates * H, dtype=torch.float64)
    r = torch.nn.functional.linear(carry.h, cell.weight_hh, cell.bias_hh)
    close(cell.gates(z, r, carry).h, cell.step(carry, z)[1])
    # Row by row: a change of one stream's gates changes that stream only.
    bumped = z.clone()
    bumped[1] += torch.randn(len(z[1]))
    difference = (cell.gates(bumped, r, carry).h - cell.gates(z, r, carry).h).abs().sum(1)
    assert difference[1] > 0 and difference[torch.arange(B) != 1].max() == 0


def test_forget_bias_opens_the_gate_at_initialisation_only():
    from seqlm import LSTMCell

    torch.manual_seed(0)
    plain = LSTMCell(4, 3)
    torch.manual_seed(0)
    biased = LSTMCell(4, 3, forget_bias=1.0)
    close((biased.bias_ih - plain.bias_ih).detach().double(), torch.tensor([0.0] * 3 + [1.0] * 3 + [0.0] * 6).double())
    close(biased.bias_hh.detach(), plain.bias_hh.detach())
    close(biased.weight_ih.detach(), plain.weight_ih.detach())


def test_scan_needs_no_torch_module():
    class Counter:
        def bind(self, carry):
            return lambda n, z: (n + 1, z + n)

        def inputs(self, xs, carry):
            return xs

    last, ys = scan(Counter(), torch.zeros(3, 1), torch.zeros(()))
    assert int(last) == 3 and ys.flatten().tolist() == [0, 1, 2]
