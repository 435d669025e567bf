"""Locks: flock between processes of a machine, and the lease for machines whose file system hands no flock on.

Other machines are played by other names of this one; `no_flock` is a file system that grants every flock.
"""

from __future__ import annotations

import os
import threading
import time

import pytest

from seqlm.errors import ConfigError
from seqlm.runs import lock
from seqlm.runs.folder import RunFolder
from seqlm.runs.lock import Held, LeaseLost, held, is_held
from seqlm.sweep import worker
from seqlm.sweep.place import NEW, RUNNING, Place, Taken
from seqlm.sweep.plan import Job
from seqlm.training.callbacks import Callback
from seqlm.training.launch import train

from ..conftest import TINY, compose, tiny
from ..conftest import seqlm as command


@pytest.fixture
def no_flock(monkeypatch):
    monkeypatch.setattr(lock, "_locks", lambda handle, kind: True)


@pytest.fixture
def at(monkeypatch):
    """Be on another machine from now on."""
    return lambda name: monkeypatch.setattr(lock, "hostname", lambda: name)


def silent(path, seconds=61.0):
    """Make the last sign of life of a lock so old."""
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def abandoned(path, host, seconds=0.0):
    """A lock as a process of `host` leaves it that was killed `seconds` after its last sign of life."""
    path.write_text(f"77 {host} 0123456789abcdef\n")
    silent(path, seconds)


def test_on_one_machine_flock_alone_decides(tmp_path, capsys):
    path = tmp_path / "lock"
    abandoned(path, lock.hostname())
    assert not is_held(path)
    with held(path):  # at once, and without a word, right after a kill -9
        assert is_held(path)
        silent(path, 1000)
        assert is_held(path)
        with pytest.raises(Held, match=f"^pid {os.getpid()}$"), held(path):
            pass
    assert not is_held(path) and capsys.readouterr().err == ""


@pytest.mark.parametrize("clock", [0, 1e6, -1e6])  # of this machine, beside that of the file system
def test_the_lease_of_another_machine_counts_while_it_gives_signs_of_life(tmp_path, monkeypatch, capsys, clock):
    path, wall, monotonic = tmp_path / "lock", time.time, time.monotonic
    monkeypatch.setattr(time, "time", lambda: wall() + clock)
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + abs(clock))
    monkeypatch.setattr(lock, "_clocks", {})
    abandoned(path, "node7", 30)
    assert is_held(path)
    with (
        pytest.raises(Held, match=r"^pid 77 on node7; if that machine is gone, its lease ends in [23]\d s$"),
        held(path),
    ):
        pass
    silent(path, 31)
    assert not is_held(path) and not capsys.readouterr().err
    with held(path):
        assert f"{tmp_path} is taken over from pid 77 on node7, which gives no sign of life" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["lock"]


def test_a_lock_that_was_given_back_is_free_everywhere_at_once(tmp_path, at, no_flock):
    path = tmp_path / "lock"
    with held(path):
        at("node7")
        assert is_held(path)
    assert not is_held(path)
    with held(path):
        pass


def test_a_holder_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    path, threads = tmp_path / "lock", threading.active_count()
    with held(path):
        silent(path)
        old = path.stat().st_mtime
        end = time.monotonic() + 60
        while path.stat().st_mtime < old + 30:
            assert time.monotonic() < end
            time.sleep(0.01)
    ended = path.stat().st_mtime
    time.sleep(0.05)
    assert path.stat().st_mtime == ended and threading.active_count() == threads


def test_who_was_taken_over_touches_nothing(tmp_path, at, monkeypatch, no_flock):
    path = tmp_path / "lock"
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    with held(path) as lease:
        lease.check()
        abandoned(path, "node7")
        theirs = path.read_bytes()
        with pytest.raises(LeaseLost, match=f"{tmp_path} was taken over by another machine") as lost:
            lease.check()
        assert lost.value.exit_code == 1
        time.sleep(0.05)  # for a beat
        silent(path)
        old = path.stat().st_mtime
        time.sleep(0.05)
        assert path.stat().st_mtime == old  # it keeps nobody else's lease alive
    assert path.read_bytes() == theirs


def test_of_machines_that_take_over_at_once_one_does(tmp_path, monkeypatch, no_flock, capsys):
    here = threading.local()
    monkeypatch.setattr(lock, "hostname", lambda: here.name)
    path, holding, most, refused = tmp_path / "lock", [], [], []
    abandoned(path, "node7", 1000)
    begin, end, write = threading.Barrier(8), threading.Barrier(8), lock.Lease.write
    monkeypatch.setattr(lock.Lease, "write", lambda lease: time.sleep(0.1) or write(lease))

    def take(number):
        here.name = f"node{100 + number}"
        begin.wait()
        try:
            with held(path):
                holding.append(number)
                end.wait(60)
                most.append(len(holding))
        except Held as other:
            refused.append(str(other))
            end.wait(60)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] and len(refused) == 7 and capsys.readouterr().err.count("is taken over") == 1


def test_what_a_kill_leaves_while_a_lock_is_taken_stops_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "LOOKS", 3)
    (tmp_path / "lock.claim").touch()
    with held(tmp_path / "lock"):
        pass
    assert os.listdir(tmp_path) == ["lock"]


def test_many_locks_of_other_machines_are_one_look_at_the_clock(tmp_path, monkeypatch):
    looks, original = [], lock._time_there
    monkeypatch.setattr(lock, "_clocks", {})
    monkeypatch.setattr(lock, "_time_there", lambda path: looks.append(path) or original(path))
    for number in range(100):
        abandoned(tmp_path / f"{number}", "node7", number)
    assert sum(is_held(tmp_path / f"{number}") for number in range(100)) in (60, 61) and len(looks) == 1


def test_the_status_of_a_run_of_another_machine(tmp_path):
    run = RunFolder(tmp_path)
    run.update(status="running", host="node7")
    (tmp_path / ".lock").write_text("77")  # of an older version: nobody here can know
    assert run.status() == "running"
    abandoned(tmp_path / ".lock", "node7", 50)
    assert run.status() == "running"
    silent(tmp_path / ".lock")
    assert run.status() == "crashed"


class TakenOver(Callback):
    """Another machine takes the run over after a step, as if this one had stood still."""

    def __init__(self, after):
        self.after = after

    def on_step(self, state):
        if state.step == self.after:
            abandoned(state.run.path / ".lock", "node7")
            self.left = contents(state.run.path)

    def on_end(self, state):
        self.status = state.status


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and "tfevents" not in path.name]
    return {path: path.read_bytes() for path in files}


@pytest.mark.parametrize("after", [3, 4, 10])  # then it would log, save, evaluate
def test_a_run_that_was_taken_over_stops_at_once_and_writes_nothing(tmp_path, after):
    other = TakenOver(after)
    with pytest.raises(LeaseLost, match="taken over"):
        train(tiny(tmp_path, "train.eval_every=5"), {}, callbacks=[other])
    assert contents(tmp_path / "run") == other.left and other.status == "lost"
    with pytest.raises(ConfigError, match="is being trained by another process"), RunFolder(tmp_path / "run").locked():
        pass


def test_resume_says_which_machine_holds_a_run(tmp_path):
    command("train", *TINY, "train.steps=2", "run.name=run", cwd=tmp_path)
    abandoned(tmp_path / "outputs" / "run" / ".lock", "node7", 20)
    done = command("resume", "outputs/run", "train.steps=4", cwd=tmp_path, check=False)
    assert done.returncode == 2 and "by another process (pid 77 on node7; if that machine is gone" in done.stderr


def test_jobs_of_a_sweep_are_held_across_machines(tmp_path, at, no_flock):
    here, there = (Place(tmp_path, "job", "0a1b") for _ in range(2))
    with here.held():
        at("node7")
        assert there.state() == RUNNING
        with pytest.raises(Taken), there.held():
            pass
        silent(tmp_path / ".sweep" / "0a1b.lock")
        assert there.state() == NEW


def test_a_job_that_was_taken_over_has_not_failed(tmp_path, monkeypatch):
    def lost(*arguments):
        raise LeaseLost("taken over")

    monkeypatch.setattr("seqlm.training.launch.train", lost)
    place = Place(tmp_path, "job", "0a1b")
    with pytest.raises(SystemExit) as ended:
        worker.train_job(Job(0, [], "", compose(*TINY), {}, {}, place), 1)
    assert ended.value.code == Taken.exit_code and not list(tmp_path.iterdir())
