"""The engine that runs the loop over time in C: threads, odd sizes, types of numbers, and other processors."""

import platform
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch

from seqlm.cells import GRUCell, LayerNormLSTMCell, LSTMCell, PeepholeLSTMCell
from seqlm.engines import ENGINES, compiled, compiled_loop, pace, persistent
from seqlm.layers import Recurrent, scan

pytestmark = pytest.mark.skipif(compiled.compiler() is None, reason="there is no C compiler")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def chunk(cell, rows, *, narrow=False, engine="persistent", lengths=None):
    """Outputs, last carry and gradients of a chunk of some rows."""
    torch.manual_seed(1)
    xs = torch.randn(5, rows, cell.input_size, dtype=cell.weight_hh.dtype, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        last, ys = ENGINES[engine].run(cell, xs, cell.init_carry(rows), lengths=lengths)
    slopes = torch.linspace(-1, 1, ys.numel(), dtype=ys.dtype).view_as(ys)
    found = torch.autograd.grad([ys, *last], [xs, *cell.parameters()], [slopes, *map(torch.ones_like, last)])
    return [ys, *last, *found]


@pytest.mark.parametrize("rows", [1, 2, 13, 40])  # of few rows, every thread takes some units
@pytest.mark.parametrize("size", [1, 15, 70])
@pytest.mark.parametrize("cell_class", [LSTMCell, GRUCell, PeepholeLSTMCell])
def test_rows_and_units_that_fill_no_tile(cell_class, size, rows, monkeypatch):
    monkeypatch.setattr(compiled_loop, "LEAST_WORK", 1)
    cell = cell_class(4, size)
    for expected, found in zip(chunk(cell, rows, engine="scan"), chunk(cell, rows), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [2, 30])
@pytest.mark.parametrize("narrow", [False, True])
def test_the_number_of_threads_of_the_loop_changes_no_bit(rows, narrow, monkeypatch):
    monkeypatch.setattr(compiled_loop, "LEAST_WORK", 1)
    cell, results = LSTMCell(4, 45), []
    for count in (1, 2, 3):
        monkeypatch.setattr(pace.Pace, "threads", lambda self, steps, count=count: nullcontext(count))
        results.append(chunk(cell, rows, narrow=narrow))
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


@pytest.mark.parametrize("size", [7, 32])
@pytest.mark.parametrize("without", ["", "-mno-avx512bf16", "-mno-avx512f", "-mno-avx"])
def test_other_processors(without, size, monkeypatch):
    """Those with shorter vectors, or without units for bfloat16."""
    if without and platform.machine() != "x86_64":
        pytest.skip("these are flags for x86-64")
    monkeypatch.setattr(compiled, "FLAGS", (*compiled.FLAGS, *without.split()))
    for dtype in (torch.float32, torch.float64):
        cell = LSTMCell(4, size).to(dtype)
        loops = persistent._compile(_body(cell))
        assert isinstance(loops, persistent.PersistentBody)
        monkeypatch.setattr(persistent, "_persistent", lambda body, loops=loops: loops)
        for narrow in (False, True) if dtype is torch.float32 else (False,):
            expected, found = (chunk(cell, 9, narrow=narrow, engine=engine) for engine in ("fused", "persistent"))
            for one, two in zip(expected, found, strict=True):
                torch.testing.assert_close(two, one, rtol=(bound := 0.05 if narrow else 1e-5), atol=bound)


def _body(cell):
    assert persistent.fused.refusal(cell) is None
    return persistent.fused.body_of(cell)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("size", [1, 33, 300])  # part of a block; a part more; parts of all that is read at once
def test_every_number_of_a_weight_is_packed(size, backwards, narrow):
    made = persistent._compile(_body(LSTMCell(2, 3)))
    loop = made.reverse_loop if backwards else made.forward_loop
    _, library = loop.variant(frozenset({"dr" if backwards else "carry0_bf16"} if narrow else ()))
    weight = torch.randint(-(2**15), 2**15, (4 * size, size), dtype=torch.int16 if narrow else torch.int32)
    packed = torch.full((library.packed_bytes(size),), 111, dtype=torch.uint8)
    compiled.call(library.pack, (weight, packed), size, 3)

    matrix = weight.t().unsqueeze(0) if backwards else weight.view(4, size, size)  # (gates, units, depth)
    pair = 1 + narrow
    gates, depth = len(matrix), -(-matrix.shape[2] // pair)
    units = library.packed_bytes(1) // 4 // gates // -(-(4 if backwards else 1) // pair)  # of a block
    blocks = -(-size // units)
    expected = torch.zeros(gates, blocks * units, depth * pair, dtype=weight.dtype)
    expected[:, :size, : matrix.shape[2]] = matrix
    expected = expected.view(gates, blocks, units, depth, pair).permute(1, 3, 0, 2, 4)
    assert torch.equal(packed.view(weight.dtype).view(expected.shape), expected)


def test_rows_that_end_earlier():
    cell, lengths = LSTMCell(4, 20), torch.tensor([5, 2, 2, 4, 0, 5, 1])
    expected, found = (chunk(cell, 7, engine=engine, lengths=lengths) for engine in ("fused", "persistent"))
    for one, two in zip(expected, found, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


def test_it_says_why_it_cannot_serve(monkeypatch):
    assert "add up over the units" in persistent.refusal(LayerNormLSTMCell(4, 5))
    with pytest.raises(ValueError, match="engine=persistent cannot serve this layer: .*add up over the units"):
        Recurrent(LayerNormLSTMCell(4, 5), engine="persistent")
    monkeypatch.setenv("SEQLM_KERNELS", "0")
    assert "SEQLM_KERNELS=0" in persistent.refusal(LSTMCell(4, 5))


def test_without_a_gradient():
    cell, xs = LSTMCell(4, 30), torch.randn(9, 2, 4)
    with torch.no_grad():
        (last, ys), (end, outputs) = scan(cell, xs, cell.init_carry(2)), persistent.run(cell, xs, cell.init_carry(2))
    for expected, found in zip((ys, *last), (outputs, *end), strict=True):
        torch.testing.assert_close(found, expected)
