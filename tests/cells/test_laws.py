"""Laws that hold for every cell with a YAML file: add a cell, and it is tested."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from seqlm import Recurrent, scan, testing
from seqlm.cells import FeedForwardCell, GatedCell, Hidden
from seqlm.config.yaml_files import find_configs
from seqlm.engines import ENGINES

from ..conftest import compose

T, B, E, H = testing.T, testing.B, 5, 7
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
    return testing.with_large_weights(cell), torch.get_rng_state()


@cache
def converted(cell, dtype):
    return copy.deepcopy(cell).to(dtype)


@pytest.mark.parametrize("law", testing.LAWS, ids=lambda law: law.__name__)
def test_law(cell, law):
    law(cell)


def test_a_cell_without_memory_has_an_empty_carry():
    assert FeedForwardCell(E, H).init_carry(B) == ()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [1, T])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "scan"])
def test_engines_equal_scan(cell, engine, dtype, steps, reverse):
    if why_not := ENGINES[engine].refusal(cell):
        with pytest.raises(ValueError, match=f"engine={engine} cannot serve"):
            Recurrent(cell, engine=engine)
        pytest.skip(why_not)
    testing.engine_equals_scan(converted(cell, dtype), engine, dtype, steps, reverse)


@pytest.mark.parametrize("engine", ENGINES)
def test_bf16(cell, engine):
    if ENGINES[engine].refusal(converted(cell, torch.float32)):
        pytest.skip(f"{engine} does not serve this cell")
    testing.bf16_is_bounded(cell, engine)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_padding_changes_nothing(cell, engine, reverse):
    if why_not := ENGINES[engine].refusal(cell):
        pytest.skip(why_not)
    testing.padding_changes_nothing(cell, engine, reverse)


def test_forget_bias_opens_the_gate_at_initialisation_only():
    from seqlm import LSTMCell

    torch.manual_seed(0)
    plain = LSTMCell(4, 3)
    torch.manual_seed(0)
    biased = LSTMCell(4, 3, forget_bias=1.0)
    added = (biased.bias_ih - plain.bias_ih).detach().double()
    testing.close(added, torch.tensor([0.0] * 3 + [1.0] * 3 + [0.0] * 6).double())
    testing.close(biased.bias_hh.detach(), plain.bias_hh.detach())
    testing.close(biased.weight_ih.detach(), plain.weight_ih.detach())


def test_scan_needs_no_torch_module():
    class Counter:
        def bind(self, carry):
            return lambda n, z: (n + 1, z + n)

        def inputs(self, xs, carry):
            return xs

    last, ys = scan(Counter(), torch.zeros(3, 1), torch.zeros(()))
    assert int(last) == 3 and ys.flatten().tolist() == [0, 1, 2]


class MyCell(GatedCell):
    """A cell as one outside this repository would be, with a switch for each law that it may break."""

    num_gates = 1

    def __init__(self, input_size, hidden_size, *, breaks=None):
        super().__init__(input_size, hidden_size)
        self.breaks, self.stored = breaks, None

    def init_carry(self, batch_size):
        zeros = super().init_carry(batch_size)
        return Hidden(zeros.h + 1) if self.breaks == "start" else zeros

    def gates(self, z, r, carry):
        h = (z + r).tanh()
        if self.breaks == "rows":
            h = h + 0.1 * carry.h.mean(0)
        elif self.breaks == "gradients":
            h = h + 0.1 * carry.h.detach()
        elif self.breaks == "carry":
            self.stored = h.detach() if self.stored is None or len(self.stored) != len(h) else self.stored + h.detach()
            h = h + 0.1 * self.stored
        elif self.breaks == "memory":
            h = z.tanh() + 0 * r
        return Hidden(h)

    def inputs(self, xs, carry):
        z = super().inputs(xs, carry)
        return z + z.sum(0) if self.breaks == "causality" else z


@pytest.mark.parametrize(
    ("breaks", "law"),
    [
        ("start", "shapes_and_structure"),
        ("gradients", "gradients_are_exact"),
        ("carry", "two_chunks_equal_one|gradients_are_exact"),
        ("rows", "rows_are_independent"),
        ("causality", "two_chunks_equal_one"),
        ("memory", "memory_reaches_the_last_step"),
    ],
)
def test_a_cell_from_outside_that_breaks_a_law_is_told_which(breaks, law):
    with pytest.raises(AssertionError, match=rf"MyCell breaks a law \(({law})\): [A-Z].*\."):
        testing.check_cell(MyCell, hidden_size=4, breaks=breaks)


def test_a_cell_from_outside_that_keeps_the_laws():
    state = torch.get_rng_state()
    testing.check_cell(MyCell, hidden_size=4)
    assert torch.equal(torch.get_rng_state(), state)


def test_pytest_checks_a_cell_from_outside(tmp_path):
    (tmp_path / "mylab.py").write_text("from seqlm import ElmanCell\nclass Mine(ElmanCell):\n    pass\n")
    plugins, cell = ["-p", "seqlm.testing", "-p", "no:cacheprovider"], ["--cell", "mylab.Mine"]
    paths = os.pathsep.join([str(tmp_path), str(Path(testing.__file__).parents[1])])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, "--pyargs", "seqlm.testing", *cell],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr
