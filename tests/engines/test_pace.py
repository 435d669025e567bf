"""How many threads a loop takes beside other processes, and that no bit of a result depends on it."""

from contextlib import contextmanager

import pytest
import torch

from seqlm.cells import ElmanCell, GRUCell, LSTMCell
from seqlm.engines import native, pace
from seqlm.engines.pace import LATE, SOON, Pace

ALL = 3


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    monkeypatch.setattr(native, "_paces", {})
    before = torch.get_num_threads()
    torch.set_num_threads(ALL)
    yield
    torch.set_num_threads(before)


class Machine:
    """A clock on which a chunk takes what the machine takes for it now."""

    def __init__(self, monkeypatch):
        self.now, self.seconds = 0.0, {ALL: 1.0, 1: 1.6}
        monkeypatch.setattr(pace.time, "perf_counter", lambda: self.now)

    def chunks(self, choice: Pace, count: int, steps: int = 100) -> list[int]:
        """The threads of so many chunks."""
        taken = []
        for _ in range(count):
            with choice.threads(steps) as threads:
                taken.append(threads)
                self.now += self.seconds[threads]
        return taken


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


def test_one_thread_is_taken_while_it_is_faster(machine):
    choice = Pace(ALL)
    machine.seconds[ALL] = 10.0  # others use the machine
    assert machine.chunks(choice, SOON + 1) == [ALL] * (SOON - 1) + [1, 1]
    machine.chunks(choice, 1000)
    machine.seconds[ALL] = 1.0  # they have gone
    assert machine.chunks(choice, LATE + 1)[-1] == ALL


def test_an_idle_machine_is_rarely_slowed_by_a_trial(machine):
    taken = machine.chunks(Pace(ALL), 10_000)
    assert 1 in taken[:SOON] and taken.count(1) <= 10_000 / LATE + 6


def test_one_slow_chunk_does_not_decide_for_long(machine):
    choice = Pace(ALL)
    machine.chunks(choice, 1000)
    machine.seconds[ALL] = 50.0
    machine.chunks(choice, 1)
    machine.seconds[ALL] = 1.0
    assert machine.chunks(choice, SOON + 1)[-1] == ALL


def test_short_chunks_are_not_timed(machine):
    machine.seconds[ALL] = 10.0
    assert set(machine.chunks(Pace(ALL), 100, steps=3)) == {ALL}
    assert set(machine.chunks(Pace(ALL, settled=True), 100)) == {ALL}


def read(cell, steps=64):
    torch.manual_seed(1)
    xs = torch.randn(steps, 2, cell.input_size)
    with torch.no_grad():
        last, ys = native.run(cell, xs, cell.init_carry(2))
    return [ys, *last]


@pytest.mark.parametrize("cell_class", [LSTMCell, GRUCell, ElmanCell])
def test_the_bits_of_torchs_kernels_do_not_depend_on_the_pace(cell_class, monkeypatch):
    cell, used = cell_class(30, 70), []

    @contextmanager
    def count(self, steps):
        used.append((1, self.most)[len(used) % 2])
        yield used[-1]

    first = read(cell)
    monkeypatch.setattr(Pace, "threads", count)
    for _ in range(4):
        assert all(map(torch.equal, read(cell), first))
    assert used == [1, ALL, 1, ALL] and torch.get_num_threads() == ALL


def test_a_kernel_whose_bits_depend_on_its_threads_keeps_them_all(machine, monkeypatch):
    cell = ElmanCell(4, 5)

    def kernel(xs, h, *others):
        count = torch.get_num_threads()
        machine.now += 1.0 if count == 1 else 10.0
        return torch.full((len(xs), 2, 5), float(count)), h

    monkeypatch.setattr(torch, "rnn_tanh", kernel)
    for _ in range(3 * SOON):
        assert (read(cell)[0] == ALL).all()


@pytest.mark.parametrize("gradient", [False, True])
def test_reading_takes_one_thread_where_it_is_faster(gradient, machine, monkeypatch):
    cell, used, rnn = ElmanCell(4, 5), [], torch.rnn_tanh

    def kernel(*given):
        used.append(torch.get_num_threads())
        machine.now += 1.0 if used[-1] == 1 else 10.0
        return rnn(*given)

    monkeypatch.setattr(torch, "rnn_tanh", kernel)
    xs = torch.randn(64, 2, 4)
    for _ in range(SOON + 1):
        with torch.set_grad_enabled(gradient):
            native.run(cell, xs, cell.init_carry(2))
    assert used[0] == ALL and used[-1] == (ALL if gradient else 1) and torch.get_num_threads() == ALL
