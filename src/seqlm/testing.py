"""Laws that every cell keeps. `check_cell(MyCell)` holds a cell of your own to them; so does, with pytest,

pytest -p seqlm.testing --pyargs seqlm.testing --cell mylab.MyCell
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cells import Carry, Cell, GatedCell, carry_tensors, map_carry
from .engines import ENGINES
from .layers import Recurrent, scan

T, B = 6, 3  # steps of a chunk and rows of a batch


def check_cell(cell_class: Callable[..., Cell], *, input_size: int = 5, hidden_size: int = 6, **options: Any) -> None:
    """Hold `cell_class(input_size, hidden_size, **options)` to every law of this file, on every engine that serves it.

    Raises AssertionError that says which law is broken, and where. Takes some seconds, on the CPU.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cell = with_large_weights(cell_class(input_size, hidden_size, **options))
        for law in LAWS:
            _check(law, cell)
        for engine in (name for name, module in ENGINES.items() if module.refusal(cell) is None):
            _check(bf16_is_bounded, cell, engine)
            for reverse in (False, True):
                _check(padding_changes_nothing, cell, engine, reverse)
                for dtype in (torch.float64, torch.float32) if engine != "scan" else ():
                    for steps in (1, T):
                        _check(engine_equals_scan, copy.deepcopy(cell).to(dtype), engine, dtype, steps, reverse)


def _check(law: Callable[..., None], cell: Cell, *where: Any) -> None:
    try:
        law(cell, *where)
    except Exception as error:  # whatever its author's code may raise
        place = ", ".join(map(str, (law.__name__, *where)))
        raise AssertionError(f"{type(cell).__name__} breaks a law ({place}): {law.__doc__}\n{error}") from error


def with_large_weights(cell: Cell) -> Cell:
    """The cell in float64, with parameters larger than at initialisation, so that the recurrence matters."""
    cell = cell.double()
    for parameter in cell.parameters():
        nn.init.uniform_(parameter, -0.7, 0.7)
    return cell


def shapes_and_structure(cell: Cell) -> None:
    """Outputs are (T, B, output_size); a carry starts at zeros (B, ...) and keeps its type, shapes and dtypes."""
    carry, xs = cell.init_carry(B), xs_of(cell)
    last, ys = scan(cell, xs, carry)
    require(ys.shape == (T, B, cell.output_size), f"outputs are {tuple(ys.shape)}")
    require(type(last) is type(carry), f"the carry {type(carry).__name__} became {type(last).__name__}")
    for before, after in zip(carry_tensors(carry), carry_tensors(last), strict=True):
        same = before.shape == after.shape and before.dtype == after.dtype
        require(same, f"{tuple(before.shape)} {before.dtype} became {tuple(after.shape)} {after.dtype}")
        require(before.shape[0] == B and not before.any(), f"init_carry({B}) gave {before}")


def gradients_are_exact(cell: Cell) -> None:
    """Gradients of inputs, parameters and first carry equal finite differences."""
    names = [f"cell.{name}" for name, _ in cell.named_parameters()]
    carry = random_carry(cell, grad=True)
    xs = torch.randn(3, B, cell.input_size, dtype=torch.float64, requires_grad=True)
    leaves = [parameter.detach().clone().requires_grad_() for parameter in cell.parameters()]

    def run(xs: Tensor, *tensors: Tensor) -> Any:
        weights, carried = dict(zip(names, tensors, strict=False)), iter(tensors[len(names) :])
        return torch.func.functional_call(_Unrolled(cell), weights, (xs, map_carry(lambda _: next(carried), carry)))

    # relu has a kink; a small step keeps random points away from it.
    torch.autograd.gradcheck(run, (xs, *leaves, *carry_tensors(carry)), eps=1e-7, atol=1e-5)


class _Unrolled(nn.Module):
    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, xs: Tensor, carry: Carry) -> tuple[Tensor, ...]:
        last, ys = scan(self.cell, xs, carry)
        return (ys, *carry_tensors(last))


def two_chunks_equal_one(cell: Cell) -> None:
    """A sequence read in two chunks, the carry handed on, gives what it gives in one: all state is in the carry."""
    carry, xs = random_carry(cell), xs_of(cell)
    whole_last, whole = scan(cell, xs, carry)
    middle, first = scan(cell, xs[:2], carry)
    last, second = scan(cell, xs[2:], middle)
    close(torch.cat([first, second]), whole)
    for one, other in zip(carry_tensors(last), carry_tensors(whole_last), strict=True):
        close(one, other)


def rows_are_independent(cell: Cell) -> None:
    """A row of a batch gives what it gives alone."""
    carry, xs = random_carry(cell), xs_of(cell)
    _, together = scan(cell, xs, carry)
    for row in range(B):
        _, alone = scan(cell, xs[:, row : row + 1], row_of(carry, row))
        close(alone, together[:, row : row + 1])


def outputs_are_causal(cell: Cell) -> None:
    """An output depends on no later input; backwards in time the cell does what it does on the reversed sequence."""
    carry, xs = random_carry(cell), xs_of(cell)
    changed = xs.clone()
    changed[3] += 1
    _, before = scan(cell, xs, carry)
    _, after = scan(cell, changed, carry)
    close(before[:3], after[:3])
    require(not torch.allclose(before[3:], after[3:]), "the input of a step does not change its output")
    _, backward = scan(cell, xs, carry, reverse=True)
    _, flipped = scan(cell, xs.flip(0), carry)
    close(backward, flipped.flip(0))


def memory_reaches_the_last_step(cell: Cell) -> None:
    """Every tensor of the first carry, if there is one, has a gradient from the last output."""
    tensors = carry_tensors(carry := random_carry(cell, grad=True))
    if tensors:
        for gradient in torch.autograd.grad(scan(cell, xs_of(cell), carry)[1][-1].sum(), tensors):
            require(gradient.abs().max() > 0, "a gradient is 0")


def step_is_the_gates(cell: Cell) -> None:
    """A step of a gated cell is its `gates`, in which no row sees another."""
    if not isinstance(cell, GatedCell) or not cell.gated:
        return  # not a function of one affine map
    carry, z = random_carry(cell), torch.randn(B, cell.num_gates * cell.hidden_size, dtype=torch.float64)
    r = F.linear(carry.h, cell.weight_hh, cell.bias_hh)
    close(cell.gates(z, r, carry).h, cell.step(carry, z)[1])
    bumped = z.clone()
    bumped[1] += torch.randn(len(z[1]))
    difference = (cell.gates(bumped, r, carry).h - cell.gates(z, r, carry).h).abs().sum(1)
    others = difference[torch.arange(B) != 1]
    require(difference[1] > 0 and others.max() == 0, f"row 1 was changed, and the rows by {difference.tolist()}")


LAWS = (
    shapes_and_structure, gradients_are_exact, two_chunks_equal_one, rows_are_independent, outputs_are_causal,
    memory_reaches_the_last_step, step_is_the_gates,
)  # fmt: skip


def engine_equals_scan(
    cell: Cell, engine: Any, dtype: torch.dtype = torch.float64, steps: int = T, reverse: bool = False
) -> None:
    """Outputs, last carry and all gradients of an engine are those of scan, and the same bits when run again."""
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
        require(type(last) is type(carry), f"the carry {type(carry).__name__} became {type(last).__name__}")
        results.append([ys, *carry_tensors(last), *gradients])
    with torch.no_grad():  # nothing is kept then, and nothing changes
        last, ys = Recurrent(cell, reverse, engine)(xs, carry)
    for found, expected in zip([ys, *carry_tensors(last)], results[1], strict=False):
        equal = torch.equal(found, expected)
        if engine == "native" and dtype is torch.float32:  # oneDNN may have another kernel for inference
            equal = (found - expected).norm() <= 3e-6 * expected.norm() + 1e-6
        require(equal, "outputs without gradients are other ones")
    for reference, once, again in zip(*results, strict=True):
        require(torch.equal(once, again), "run again, it gives other bits")
        if dtype is torch.float64:
            close(once, reference)
        else:
            error = (once - reference).norm()
            require(error <= 3e-6 * reference.norm() + 1e-6, f"they differ by {error} of {reference.norm()}")


def bf16_is_bounded(cell: Cell, engine: Any) -> None:
    """Under autocast an engine is as exact as bfloat16 products are, and state and gradients are float32.

    A product rounds both factors and its result, each by 2^-9 at most. What T steps of as many products as the cell
    has matrices give is off by T * products * 3 * 2^-9 at most, unless the recurrence expands; a gradient by twice
    that, or by a fifth, for it jumps where a kink lies between the exact value and the rounded one.
    """
    exact, rough = copy.deepcopy(cell).double(), copy.deepcopy(cell).float()
    exact.load_state_dict({name: tensor.double() for name, tensor in rough.state_dict().items()})
    carry, xs = random_carry(exact), torch.randn(T, B, cell.input_size)
    weights = torch.randn(T, B, cell.output_size)

    def results(one: Cell, name: Any, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        start = map_carry(lambda t: t.to(dtype).requires_grad_(), carry)
        inputs = xs.to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=one is rough):
            last, ys = Recurrent(one, False, name)(inputs, start)
        ends = carry_tensors(last)
        require(all(tensor.dtype is dtype for tensor in ends), "the state is not in the type of the parameters")
        sources = [inputs, *carry_tensors(start), *one.parameters()]
        return [ys, *ends], list(torch.autograd.grad((ys * weights).sum(), sources))

    bound = T * sum(parameter.dim() == 2 for parameter in cell.parameters()) * 3 * 2**-9
    both = zip(results(exact, "scan", torch.float64), results(rough, engine, torch.float32), strict=True)
    for most, (expected, found) in zip((bound, max(2 * bound, 0.2)), both, strict=True):
        for one, other in zip(expected, found, strict=True):
            error = float((one - other).detach().norm() / one.detach().norm().clamp(min=1e-3))
            require(error <= most, f"they differ by {error:.3f}, more than {most:.3f}")


def padding_changes_nothing(cell: Cell, engine: Any, reverse: bool = False) -> None:
    """A padded sequence has the outputs, last carry and gradients that it has alone, whatever the padding holds."""
    lengths = torch.tensor([T, 2, 4])
    padding = torch.arange(T).unsqueeze(1) >= lengths
    layer, xs, carry = Recurrent(cell, reverse, engine), xs_of(cell).requires_grad_(), random_carry(cell, grad=True)
    last, ys = layer(xs.masked_fill(padding.unsqueeze(-1), torch.nan), carry, lengths)
    weights, factors = torch.randn_like(ys), [torch.randn_like(tensor) for tensor in carry_tensors(carry)]
    loss = (ys * weights).masked_fill(padding.unsqueeze(-1), 0).sum()
    loss = loss + sum((end * factor).sum() for end, factor in zip(carry_tensors(last), factors, strict=True))
    alone_loss = torch.zeros_like(loss)
    for row, length in enumerate(lengths.tolist()):
        alone_last, alone = layer(xs[:length, row : row + 1], row_of(carry, row))
        close(ys[:length, row], alone[:, 0])
        alone_loss = alone_loss + (alone[:, 0] * weights[:length, row]).sum()
        for end, alone_end, factor in zip(carry_tensors(last), carry_tensors(alone_last), factors, strict=True):
            close(end[row], alone_end[0])
            alone_loss = alone_loss + (alone_end[0] * factor[row]).sum()
    sources = [xs, *carry_tensors(carry), *cell.parameters()]
    for found, expected in zip(*(torch.autograd.grad(total, sources) for total in (loss, alone_loss)), strict=True):
        close(found, expected)


def random_carry(cell: Cell, grad: bool = False) -> Carry:
    return map_carry(lambda t: (0.5 * torch.randn_like(t)).requires_grad_(grad), cell.init_carry(B))


def row_of(carry: Carry, row: int) -> Carry:
    return map_carry(lambda t: t[row : row + 1], carry)


def xs_of(cell: Cell) -> Tensor:
    return torch.randn(T, B, cell.input_size, dtype=torch.float64)


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def require(condition: Any, message: str) -> None:
    """Raise AssertionError unless it holds, also under python -O."""
    if not condition:
        raise AssertionError(message)


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--cell", help="the cell that seqlm.testing checks: mylab.MyCell")


def test_cell(pytestconfig: Any) -> None:
    module, _, name = pytestconfig.getoption("cell").rpartition(".")
    check_cell(getattr(importlib.import_module(module), name))
