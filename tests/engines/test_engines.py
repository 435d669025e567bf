"""Promises of the engines beyond equality with scan on plain cells (test_laws.py)."""

from __future__ import annotations

import ctypes
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple, get_args

import pytest
import torch
from torch import nn

import seqlm.engines
from seqlm import ElmanCell, GRUCell, JordanCell, LSTMCell, Recurrent, scan
from seqlm.cells import (
    GatedCell,
    Hidden,
    LayerNormGRUCell,
    LayerNormLSTMCell,
    MinLSTMCell,
    PeepholeLSTMCell,
    QRNNCell,
    carry_tensors,
    map_carry,
)
from seqlm.config import schema
from seqlm.config.build import build
from seqlm.config.yaml_files import cell_nodes
from seqlm.engines import ENGINES, NAMES, ORDERS, Engine, compiled, fused, native, persistent, pick, prelude
from seqlm.engines.kernel_body import KernelBody
from seqlm.engines.trace import operation
from seqlm.testing import engine_equals_scan

from ..cells import regularised


@cache
def shared(kind, *_conditions):
    """A cell that no test changes, and the random numbers after it: engines trace and try it once per condition."""
    return made(kind, 5, 7), torch.get_rng_state()


def made(kind, *sizes, **options):
    torch.manual_seed(0)
    cell = kind(*sizes, **options).double()
    for parameter in cell.parameters():
        nn.init.uniform_(parameter, -0.7, 0.7)
    return cell


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize("engine", ["fused", "deferred"])
@pytest.mark.parametrize("kind", regularised.ALL, ids=lambda kind: kind.__name__)
def test_regularised_cells_are_served_not_refused(kind, engine, steps, reverse, loop_body):
    cell, drawn = shared(kind, loop_body)
    torch.set_rng_state(drawn)
    assert ENGINES[engine].refusal(cell) is None
    if reverse and isinstance(cell, (regularised.Zoneout, regularised.Reset)):
        pytest.skip("its masks belong to places in the chunk, and are drawn in the order of time")
    engine_equals_scan(cell, engine, torch.float64, steps, reverse)


@pytest.mark.parametrize(
    "kind",
    [LSTMCell, GRUCell, ElmanCell, PeepholeLSTMCell, LayerNormLSTMCell, LayerNormGRUCell, QRNNCell, MinLSTMCell],
)
def test_fused_gradients_match_finite_differences(kind, loop_body):
    cell = made(kind, 2, 3)
    names = [name for name, _ in cell.named_parameters()]
    carry = map_carry(lambda t: torch.randn_like(t).requires_grad_(), cell.init_carry(2))
    xs = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)

    class Chunk(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = cell

        def forward(self, xs, carry):
            last, ys = fused.run(self.cell, xs, carry)
            return (ys, *carry_tensors(last))

    def run(xs, *tensors):
        parameters, states = tensors[: len(names)], iter(tensors[len(names) :])
        weights = {f"cell.{name}": value for name, value in zip(names, parameters, strict=True)}
        return torch.func.functional_call(Chunk(), weights, (xs, map_carry(lambda _: next(states), carry)))

    leaves = [parameter.detach().clone().requires_grad_() for parameter in cell.parameters()]
    assert torch.autograd.gradcheck(run, (xs, *leaves, *carry_tensors(carry)))


@pytest.mark.parametrize("engine", ["fused", "deferred"])
def test_only_what_is_asked_for_gets_a_gradient(engine):
    cell = made(LSTMCell, 5, 7)
    xs = torch.randn(4, 3, 5, dtype=torch.float64)
    cell.weight_hh.requires_grad_(False)
    expected = torch.autograd.grad(scan(cell, xs, cell.init_carry(3))[1].sum(), cell.bias_hh)[0]
    found = torch.autograd.grad(ENGINES[engine].run(cell, xs, cell.init_carry(3))[1].sum(), cell.bias_hh)[0]
    torch.testing.assert_close(found, expected)
    # The outputs may go unused, or be used twice.
    last, ys = ENGINES[engine].run(cell, xs, cell.init_carry(3))
    reference, _ = scan(cell, xs, cell.init_carry(3))
    for _ in range(2):
        one = torch.autograd.grad(last.c.sum(), cell.weight_ih, retain_graph=True)[0]
        two = torch.autograd.grad(reference.c.sum(), cell.weight_ih, retain_graph=True)[0]
        torch.testing.assert_close(one, two)
    # A gradient of the input alone leaves nothing behind for the next one.
    xs.requires_grad_()
    cell.weight_hh.requires_grad_()
    _, ys = ENGINES[engine].run(cell, xs, cell.init_carry(3))
    _, reference_ys = scan(cell, xs, cell.init_carry(3))
    torch.autograd.grad(ys.sum(), xs, retain_graph=True)
    one, two = (torch.autograd.grad((y * y).sum(), cell.weight_hh)[0] for y in (ys, reference_ys))
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize("engine", ["fused", "deferred"])
def test_a_second_derivative_is_refused_not_wrong(engine):
    cell = made(LSTMCell, 5, 7)
    xs = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match=f"engine={engine} is differentiable once"):
        torch.autograd.grad(ENGINES[engine].run(cell, xs, cell.init_carry(3))[1].sum(), xs, create_graph=True)


def kept_bytes(run):
    """Bytes of distinct buffers that autograd keeps for backward, besides parameters and inputs."""
    sizes = {}

    def pack(tensor):
        if not tensor.is_leaf and tensor.layout is torch.strided:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = run()
    del output
    return sum(sizes.values())


@pytest.mark.parametrize("kind", [LSTMCell, GRUCell, ElmanCell])
def test_fused_keeps_little_more_than_torch(kind, loop_body):
    cell = kind(32, 32)
    xs = torch.randn(50, 16, 32, requires_grad=True)
    ours, theirs = (kept_bytes(lambda e=e: ENGINES[e].run(cell, xs, cell.init_carry(16))) for e in ("fused", "native"))
    assert ours <= 1.3 * theirs, (kind, ours, theirs)


def test_nobodys_hooks_see_a_trial_or_a_trace(loop_body):
    cell, packed = made(LSTMCell, 5, 7), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        assert fused.refusal(cell) is None and not packed
        for steps in (4, 6):
            xs = torch.randn(steps, 3, 5, dtype=torch.float64)
            found, expected = (
                torch.autograd.grad(run(cell, xs, cell.init_carry(3))[1].square().sum(), list(cell.parameters()))
                for run in (fused.run, scan)
            )
            torch.testing.assert_close(found, expected)
    assert packed


def test_tracing_leaves_the_cell_as_it_is():
    seen = set()

    class Watched(ElmanCell):
        def gates(self, z, r, carry):
            seen.add(cell.weight_hh.device.type)  # of the cell that is traced, not of a copy
            return super().gates(z, r, carry)

    cell = Watched(5, 7).double()
    engine_equals_scan(cell, "fused")
    assert seen == {"cpu"}


def test_threads_may_share_a_cell(monkeypatch):
    """Without kernels, where every shape is traced; and not knowing of each other, as the first of all."""
    monkeypatch.setenv("SEQLM_KERNELS", "0")
    cell, before = made(GRUCell, 5, 7), torch.random.get_rng_state()

    def both(steps):
        xs = torch.linspace(-1, 1, steps * 3 * 5, dtype=torch.float64).view(steps, 3, 5)
        assert fused.refusal(cell) is None
        return [run(cell, xs, cell.init_carry(3))[1] for run in (fused.run, scan)]

    with ThreadPoolExecutor(6) as threads:
        for found, expected in threads.map(both, [2, 3, 4, 5, 6, 7] * 2):
            torch.testing.assert_close(found, expected)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_chunk_of_another_length_or_width_is_another_program():
    cell = made(GRUCell, 5, 7)
    for steps, rows in ((3, 2), (5, 2), (5, 4), (3, 2), (1, 1)):
        xs = torch.randn(steps, rows, 5, dtype=torch.float64)
        for ours, theirs in zip(fused.run(cell, xs, cell.init_carry(rows)), scan(cell, xs, cell.init_carry(rows)),
                                strict=True):  # fmt: skip
            torch.testing.assert_close(ours, theirs)


def test_reduced_precision_keeps_the_state_in_float32(loop_body):
    cell = LSTMCell(16, 16)
    xs = torch.randn(9, 4, 16)
    exact, _ = fused.run(cell, xs, cell.init_carry(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        last, ys = fused.run(cell, xs, cell.init_carry(4))
    assert last.c.dtype == ys.dtype == torch.float32
    assert 0 < (last.c - exact.c).norm() / exact.c.norm() < 3e-2
    ys.sum().backward()
    assert cell.weight_hh.grad.dtype == torch.float32


@pytest.mark.parametrize("engine", ["scan", "native", "fused"])
def test_gradients_of_reduced_precision_are_unbiased(engine):
    """Over 200 draws the mean error along the exact gradient is none: rounding neither shrinks nor stretches it."""
    torch.manual_seed(0)
    shares = []
    for _ in range(200):
        cell, xs = LSTMCell(12, 16), torch.randn(5, 4, 12)
        layers = Recurrent(cell, engine="scan"), Recurrent(cell, engine=engine)
        exact, found = (
            torch.autograd.grad(ys.float().square().sum(), cell.weight_hh)[0]
            for layer, narrow in zip(layers, (False, True), strict=True)
            for ys in [_outputs(layer, xs, narrow)]
        )
        shares.append(((found - exact) * exact).sum() / exact.square().sum())
    mean, spread = torch.stack(shares).mean().abs(), torch.stack(shares).std()
    assert 0 < spread < 0.02 and mean < 3 * spread / 200**0.5, (mean, spread)


def _outputs(layer, xs, narrow):
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        return layer(xs, layer.init_carry(xs.shape[1]))[1]


@pytest.mark.parametrize("cell", [LSTMCell(8, 40), GRUCell(8, 40), LayerNormGRUCell(8, 40)])
def test_reduced_precision_gives_the_same_with_kernels_and_with_operations(monkeypatch, cell):
    """The kernels widen what they read and round what they write as torch does: to the nearest, ties to even."""
    if not compiled.compiler():
        pytest.skip("no C compiler was found")
    torch.manual_seed(0)
    xs, carry = torch.randn(9, 4, 8), cell.init_carry(4)
    found = []
    for kernels in ("1", "0"):
        monkeypatch.setenv("SEQLM_KERNELS", kernels)
        with torch.autocast("cpu", torch.bfloat16):
            last, ys = fused.run(cell, xs, carry)
        gradients = torch.autograd.grad(ys.square().sum(), list(cell.parameters()))
        found.append([tensor.detach() for tensor in (ys, *last, *gradients)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02 * float(theirs.abs().max()))
        assert (ours - theirs).norm() < 5e-3 * theirs.norm()


@pytest.mark.parametrize(
    "value", [0.0, -0.0, 1.0, 1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, float("inf"), -float("inf"), float("nan"), 1e-40]
)
def test_kernels_round_to_bfloat16_as_torch_does(value):
    if not compiled.compiler():
        pytest.skip("no C compiler was found")
    source = (
        prelude.header(torch.float32, {"bf16"})
        + "void round_(real *x, bf16 *y, real *z) { *y = NARROW(*x); *z = WIDE(*y); }"
    )
    given, narrow, back = torch.tensor([value]), torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1)
    compiled.library(source).round_(*(ctypes.c_void_p(t.data_ptr()) for t in (given, narrow, back)))
    torch.testing.assert_close(narrow, given.bfloat16(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(back, narrow.float(), rtol=0, atol=0, equal_nan=True)


def test_what_cannot_be_traced_is_refused_with_the_reason():
    class Peeks(GatedCell):
        num_gates = 1

        def gates(self, z, r, carry):
            return Hidden((z + r).tanh() if z.sum() > 0 else z - r)

    cell = Peeks(3, 4)
    with pytest.raises(ValueError, match="engine=fused cannot serve this layer: .*Peeks.*cannot be traced"):
        Recurrent(cell, engine="fused")
    layer = Recurrent(cell)
    assert layer.plan.engine == "deferred" and "cannot be traced" in layer.plan.reason
    xs = torch.randn(4, 2, 3)
    torch.testing.assert_close(layer(xs, cell.init_carry(2))[1], scan(cell, xs, cell.init_carry(2))[1])


def test_auto_takes_what_is_usual_for_the_device_and_type():
    assert all(set(order) <= ENGINES.keys() for order in ORDERS.values())
    assert pick(GRUCell(4, 5)).engine == "fused"
    assert pick(LSTMCell(4, 5)).engine == "native"
    assert pick(JordanCell(4, 5)).engine == "deferred"
    layer = Recurrent(LSTMCell(4, 5))
    assert layer.plan.engine == "native" and layer.double().plan.engine == "fused"
    assert layer.float().plan.engine == "native"
    with torch.autocast("cpu", torch.bfloat16):
        for kind in (LSTMCell, GRUCell):
            assert pick(kind(4, 5)).engine == ("native" if persistent.refusal(kind(4, 5)) else "persistent")
        assert pick(JordanCell(4, 5)).engine == "deferred"


def test_every_list_of_engines_is_the_same():
    assert schema.ENGINES == NAMES == get_args(Engine)


@pytest.mark.parametrize("engine", [fused, native])
def test_an_engine_refuses_a_cell_that_it_does_not_know(engine):
    cell = JordanCell(4, 5)
    with pytest.raises(ValueError, match=r"cannot serve this layer: .*JordanCell"):
        engine.run(cell, torch.randn(3, 2, 4), cell.init_carry(2))


def test_the_worked_example_is_what_comes_out():
    cell = ElmanCell(3, 2)
    assert fused.refusal(cell) is None
    (body,) = fused._bodies[cell].values()
    program, bulk = body.program, body.program.bulk
    names = {bulk.z[0]: "z", bulk.r: "r", bulk.cotangents[0]: "dh"}
    lines = [
        f"{node.name} = {operation(node)}({', '.join(names.get(source, source.name) for source in node.args)})"
        for node in bulk.nodes
        if node.op == "call_function" and operation(node) != "zeros_like"  # gradients that are zero are left out
    ]
    for code in (program.forward, program.reverse):  # arguments by the names of their buffers
        text = code.source
        for i, slot in enumerate(code.slots):
            text = text.replace(f"a{i}", slot.buffer)
        lines += text.splitlines()
    if isinstance(body, KernelBody):
        for kernel in (body.forward_kernel, body.reverse_kernel):
            loop = kernel.variant(frozenset()).source.partition("unit++) {\n")[2].partition("        }\n")[0]
            lines += [line for line in loop.splitlines() if "unit]" not in line.partition("=")[2]]  # but for loads
    for line in lines:
        assert line.strip() in seqlm.engines.__doc__, line


def test_kernels_say_why_they_are_not_used(monkeypatch):
    if compiled.compiler():
        assert fused.describe(LSTMCell(4, 5)) == fused.describe(LayerNormGRUCell(4, 5)) == "one kernel a step"
        assert "has the shape" in fused.describe(regularised.OddOperations(4, 5))
        monkeypatch.setenv("CC", "/bin/false")
        assert "failed" in fused.describe(LSTMCell(4, 6).double())
    monkeypatch.setenv("SEQLM_KERNELS", "0")
    assert fused.describe(LSTMCell(4, 5)) == "torch's operations, for SEQLM_KERNELS=0"


def describe_with(cache):
    """The exit code says whether an LSTM has kernels, with this folder as the cache."""
    os.environ["SEQLM_CACHE"] = str(cache)
    sys.exit(fused.describe(LSTMCell(4, 5)) != "one kernel a step")


def test_a_damaged_kernel_is_compiled_again(tmp_path, processes):
    """In another process: this one would find what it has loaded."""
    if not compiled.compiler():
        pytest.skip("no C compiler was found")
    for _ in range(2):
        process = processes.Process(target=describe_with, args=(tmp_path,))
        process.start()
        process.join()
        assert process.exitcode == 0
        kernels = list((tmp_path / "kernels").glob("*/kernel.so"))
        assert len(kernels) == 2 and all(kernel.stat().st_size for kernel in kernels)
        for kernel in kernels:  # a part of a library is no error when it is loaded, but the end of the process
            kernel.write_bytes(kernel.read_bytes()[: kernel.stat().st_size // 2])


def test_a_library_is_compiled_again_if_any_part_of_it_is_missing(monkeypatch, tmp_path, capsys):
    if not compiled.compiler():
        pytest.skip("no C compiler was found")
    monkeypatch.setenv("SEQLM_CACHE", str(tmp_path))

    def one():
        compiled._load.cache_clear()
        library = compiled.library("int one(void) { return 1; }")
        assert library.one() == 1 and isinstance(library, ctypes.CDLL)
        (file,) = (tmp_path / "kernels").glob("*/kernel.so")
        return file, file.read_bytes()

    file, content = one()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    for damaged in (b"", content[:middle], content[middle:], flipped):
        file.unlink()  # in place it would change under the library that is loaded
        file.write_bytes(damaged)
        assert one() == (file, content) and "is damaged" in capsys.readouterr().err
    file.with_name("MANIFEST.json").unlink()
    assert one() == (file, content)
    shutil.rmtree(tmp_path / "kernels")
    assert one()[0] == file


def test_a_cache_that_is_deleted_while_a_kernel_is_compiled_changes_nothing(monkeypatch, tmp_path):
    """Without its kernel the run would go on with other bits."""
    if not compiled.compiler():
        pytest.skip("no C compiler was found")
    monkeypatch.setenv("SEQLM_CACHE", str(tmp_path))
    run, deletions = subprocess.run, iter(range(3))

    def compile_without_a_cache(*words, **options):
        if next(deletions, None) is not None:
            shutil.rmtree(tmp_path / "kernels")
        return run(*words, **options)

    monkeypatch.setattr(subprocess, "run", compile_without_a_cache)
    compiled._load.cache_clear()
    assert compiled.library("int two(void) { return 2; }").two() == 2


def test_code_that_others_may_have_written_is_not_run(monkeypatch, tmp_path, capfd):
    """A library of another content, sealed by who may write to the folder, would be as good as ours."""
    if not compiled.compiler():
        pytest.skip("no C compiler was found")
    monkeypatch.setenv("SEQLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source = "int one(void) { return 1; }"
    compiled._load.cache_clear()
    assert compiled.library(source).one() == 1
    (made,) = (tmp_path / "cache" / "kernels").glob("*/kernel.so")
    made.symlink_to(made.rename(made.with_name("of_another.so")))  # the digest is right, but another can change it
    compiled._load.cache_clear()
    assert compiled.library(source).one() == 1 and "is damaged" in capfd.readouterr().err
    (tmp_path / "cache" / "kernels").chmod(0o777)
    compiled._load.cache_clear()
    library = compiled.library(source)
    assert library.one() == 1 and str(tmp_path / f"seqlm-{os.geteuid()}") in library._name
    assert "can be written to by other users and is not used" in capfd.readouterr().err


def test_chunks_of_any_shape_share_a_program(monkeypatch):
    """Tracing takes as long as many chunks: batches of whole sequences have another shape each."""
    if not compiled.compiler():
        pytest.skip("no C compiler was found")
    traced, trace = [], fused.trace
    monkeypatch.setattr(fused, "trace", lambda *given: traced.append(given) or trace(*given))
    for make in (GRUCell, LSTMCell, LayerNormGRUCell):
        cell = make(4, 6).double()
        pick(cell)
        traced.clear()
        for steps, rows in [(5, 3), (7, 3), (1, 1), (1, 4), (9, 1), (4, 8), (2, 24)]:
            xs, carry = torch.randn(steps, rows, 4, dtype=torch.float64), cell.init_carry(rows)
            for found, expected in zip(fused.run(cell, xs, carry), scan(cell, xs, carry), strict=True):
                torch.testing.assert_close(found, expected)
        assert len(traced) <= 2, make


def test_equal_cells_share_a_trace(monkeypatch):
    """Of one class, with equal sizes, settings and code; not with another constant, nor with unknown objects."""
    traced, trace = [], fused.trace
    monkeypatch.setattr(fused, "trace", lambda *given: traced.append(given) or trace(*given))
    monkeypatch.setattr(fused, "_shared", {})
    factor = 0.5

    class Local(ElmanCell):
        def gates(self, z, r, carry):
            return type(carry)(torch.tanh(z + factor * r))

    def ran(cell):
        """How often a cell was traced, and whether it is right."""
        traced.clear()
        cell, xs = cell.double(), torch.randn(4, 3, 5, dtype=torch.float64)
        torch.testing.assert_close(fused.run(cell, xs, cell.init_carry(3))[1], scan(cell, xs, cell.init_carry(3))[1])
        return len(traced)

    assert [ran(Local(5, 6)), ran(Local(5, 6)), ran(Local(5, 7))] == [2, 0, 2]
    factor = 2.0
    assert [ran(Local(5, 6)), ran(Local(5, 6))] == [2, 0]
    assert [ran(LSTMCell(5, 6)), ran(LSTMCell(5, 6)), ran(LSTMCell(5, 6, input_gate="capped"))] == [2, 0, 2]
    frozen = PeepholeLSTMCell(5, 6)
    frozen.weight_ci.requires_grad_(False)
    assert [ran(PeepholeLSTMCell(5, 6)), ran(PeepholeLSTMCell(5, 6)), ran(frozen)] == [2, 0, 2]
    odd = [Local(5, 6) for _ in range(2)]
    for cell in odd:
        cell.notes = object()
    assert [ran(cell) for cell in odd] == [2, 2]
    monkeypatch.setattr(compiled, "compiler", lambda: None)
    assert ran(LSTMCell(5, 6)) == 2


def test_a_trace_that_does_not_fit_after_all_is_made_anew(monkeypatch):
    """Plain values outside of a cell are compared; what a list there holds is not seen, but the trial finds it."""
    monkeypatch.setattr(fused, "_shared", {})
    factors = [0.5]

    class Local(ElmanCell):
        def gates(self, z, r, carry):
            return type(carry)(torch.tanh(z + factors[0] * r))

    for factor in (0.5, 2.0):
        factors[0] = factor
        cell, xs = made(Local, 5, 6), torch.randn(4, 3, 5, dtype=torch.float64)
        assert fused.refusal(cell) is None
        torch.testing.assert_close(fused.run(cell, xs, cell.init_carry(3))[1], scan(cell, xs, cell.init_carry(3))[1])


def test_gates_that_are_never_the_same_are_refused(monkeypatch):
    """At once: a trace of its own is tried a second time, not for ever."""
    monkeypatch.setattr(fused, "_shared", {})
    traced, trace, calls = [], fused.trace, []
    monkeypatch.setattr(fused, "trace", lambda *given: traced.append(given) or trace(*given))

    class Counts(ElmanCell):
        def gates(self, z, r, carry):
            calls.append(1)
            assert len(calls) < 1000
            return type(carry)(torch.tanh(z + len(calls) * r))

    assert "do not give what they give step by step" in fused.refusal(Counts(3, 4).double())
    assert len(traced) == 4 and not fused._shared


class CountsRows(ElmanCell):
    """Gates that compute with the number of rows, as nobody should."""

    def gates(self, z, r, carry):
        new = torch.tanh(z + r / len(r))
        return type(carry)(new)


def test_a_program_for_any_shape_knows_no_number_of_rows():
    cell = CountsRows(4, 6).double()
    if fused.refusal(cell) is not None:
        return
    for steps, rows in [(3, 2), (3, 5), (4, 3)]:
        xs, carry = torch.randn(steps, rows, 4, dtype=torch.float64), cell.init_carry(rows)
        torch.testing.assert_close(fused.run(cell, xs, carry)[1], scan(cell, xs, carry)[1])


class Scaled(ElmanCell):
    """A learned number, and numbers in a tuple."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.scale, self.numbers = torch.nn.Parameter(torch.tensor(0.7)), (3.0, -1.0)

    def gates(self, z, r, carry):
        return type(carry)(torch.tanh(z * self.numbers[0] + self.scale * r + self.numbers[1]))


def test_learned_numbers_and_settings_in_tuples():
    cell = Scaled(4, 6).double()
    assert fused.refusal(cell) is None
    xs = torch.randn(5, 3, 4, dtype=torch.float64)
    for numbers in ((3.0, -1.0), (1.0, 2.0)):
        cell.numbers = numbers
        found = []
        for engine in (fused.run, scan):
            ys = engine(cell, xs, cell.init_carry(3))[1]
            found.append([ys, *torch.autograd.grad(ys.square().sum(), [cell.scale, cell.weight_hh])])
        torch.testing.assert_close(*found)


def test_asking_an_engine_seeds_nobody_and_knows_no_autocast(monkeypatch):
    seeds, cells = [], [make(8, 8) for make in (GRUCell, PeepholeLSTMCell, LayerNormLSTMCell)]
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    before = torch.random.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        assert [fused.refusal(cell) for cell in cells] == [None] * 3
    assert torch.equal(torch.random.get_rng_state(), before) and seeds == []


@pytest.mark.parametrize("name", cell_nodes())
def test_cells_can_be_pickled(name):
    cell = build(cell_nodes()[name], "cell", input_size=4, hidden_size=6)
    again, xs = pickle.loads(pickle.dumps(cell)), torch.randn(3, 2, 4)
    assert torch.equal(scan(again, xs, again.init_carry(2))[1], scan(cell, xs, cell.init_carry(2))[1])


class Gated(GatedCell):
    """One gate, written by the test."""

    num_gates = 1


def cell_of(gates, **members):
    return made(type("Written", (Gated,), {"gates": gates, **members}), 5, 6)


UNUSUAL = {
    "minimum": lambda self, z, r, carry: Hidden(torch.minimum(z + r, carry.h)),
    "in place": lambda self, z, r, carry: Hidden((z + r).mul_(0.5).add_(carry.h).tanh()),
    "in place on a view": lambda self, z, r, carry: Hidden(((a := z + r)[:, :2].zero_(), a.tanh() + r)[1]),
    "z as it is": lambda self, z, r, carry: Hidden(z + r.tanh()),
    "halves": lambda self, z, r, carry: Hidden(torch.cat([z.chunk(2, -1)[1] + r[:, :3], (z * r).chunk(2, -1)[0]], 1)),
    "across units": lambda self, z, r, carry: Hidden((z + r).softmax(-1) + torch.einsum("bh,bk->bk", r, z)),
    "rsub": lambda self, z, r, carry: Hidden(torch.rsub(r, z, alpha=2).sin()),
    "no number": lambda self, z, r, carry: Hidden((z + r).clamp(min=-0.5, max=0.5).nan_to_num()),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_gates_are_exact_or_refused(name, loop_body):
    cell = cell_of(UNUSUAL[name])
    if ENGINES["fused"].refusal(cell) is None:
        engine_equals_scan(cell, "fused")
    else:
        engine_equals_scan(cell, "auto")


def test_random_numbers_in_gates_are_refused():
    cell = cell_of(lambda self, z, r, carry: Hidden(nn.functional.dropout((z + r).tanh(), 0.5)))
    assert "random" in ENGINES["fused"].refusal(cell)


def test_a_bind_of_its_own_is_not_passed_over():
    class Halved(LSTMCell):
        def bind(self, carry):
            step = super().bind(carry)
            return lambda carry, z: step(carry, z / 2)

    assert "a step of its own" in ENGINES["fused"].refusal(Halved(5, 6))


def test_a_mask_that_is_learned_is_refused():
    class Learned(LSTMCell):
        def recurrence(self, batch_size):
            given = super().recurrence(batch_size)
            return given._replace(mask=given.weight[0, : self.hidden_size].sigmoid().expand(batch_size, -1))

    assert "need a gradient" in ENGINES["fused"].refusal(Learned(5, 6))


def test_a_changed_setting_is_seen(loop_body):
    cell = cell_of(lambda self, z, r, carry: Hidden((z + self.sharpness * r).tanh()), sharpness=1.0)
    for sharpness in (1.0, 0.5, 2.0):
        cell.sharpness = sharpness
        engine_equals_scan(cell, "fused")


def test_states_of_other_widths_are_exact_or_refused(loop_body):
    class Wide(NamedTuple):
        h: torch.Tensor
        c: torch.Tensor

    for width in (1, 2 * 6):

        def gates(self, z, r, carry, width=width):
            new = (0.9 * carry.c + (z * r).repeat(1, 2)[:, :width]).tanh()
            return Wide((z + r).tanh() * new[:, :1], new)

        def init_carry(self, batch_size, width=width):
            return Wide(self.weight_hh.new_zeros(batch_size, 6), self.weight_hh.new_zeros(batch_size, width))

        cell = cell_of(gates, init_carry=init_carry)
        engine_equals_scan(cell, "fused" if ENGINES["fused"].refusal(cell) is None else "auto")


def test_not_a_number_stays_one(loop_body):
    cell = ElmanCell(3, 4, activation="relu")
    xs = torch.full((2, 1, 3), torch.nan)
    assert fused.run(cell, xs, cell.init_carry(1))[1].isnan().all()


def test_nothing_is_broadcast_over_the_batch():
    cell = LSTMCell(3, 4)
    with pytest.raises(ValueError, match="the chunk has 2 steps of 5 rows"):
        fused.run(cell, torch.randn(2, 5, 3), cell.init_carry(1))
