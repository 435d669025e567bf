"""Ends that a run does not choose: memory that is out, signals in every phase; and readers beside who trains."""

from __future__ import annotations

import fcntl
import importlib
import os
import re
import resource
import shutil
import signal
import socket
import time

import pytest
import safetensors.torch
import torch

import seqlm.runs.load
import seqlm.training.assemble
import seqlm.training.launch
import seqlm.training.loop
import seqlm.training.running
from seqlm.diagnose.health import update_ratios
from seqlm.errors import ConfigError, NoRoom
from seqlm.runs import checkpoint, finding
from seqlm.runs.checks import check_run
from seqlm.runs.finite import last_finite
from seqlm.runs.folder import RunFolder
from seqlm.runs.load import load_run

from ..conftest import TINY, tiny
from ..conftest import seqlm as command
from .test_resume import train, trained


def test_looking_at_a_run_holds_it_from_nobody(tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    run.update(status="running", host=socket.gethostname())
    assert run.status() == "crashed" and not (tmp_path / ".lock").exists()
    with run.locked():
        assert run.status() == "running"
        with pytest.raises(ConfigError, match=rf"trained by another process \(pid {os.getpid()}\)"), run.locked():
            pass
    looking = (tmp_path / ".lock").open()
    fcntl.flock(looking, fcntl.LOCK_SH)  # `seqlm runs`, at this very moment
    monkeypatch.setattr(time, "sleep", lambda seconds: looking.close())
    with run.locked():
        assert looking.closed and run.status() == "running"


def test_a_lock_without_room_for_it_is_told_with_its_path(tmp_path):
    """As on a full disk: closing the file must not fail once more, without a path."""
    run = RunFolder(tmp_path)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
    try:
        with pytest.raises(NoRoom, match=r"\.lock could not be written"), run.locked():
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def begun_with(run):
    words = (f"init_from.run={run.path}", "init_from.optimizer=true")
    train(tiny(run.path.parent, "train.steps=1", *words, name="it"), {})
    return (run.path.parent / "it" / "checkpoints" / "last").is_file()


READERS = {
    "best": lambda run: load_run(run.path).checkpoint.step,
    "last": lambda run: load_run(run.path, checkpoint="last").checkpoint.step,
    "mean": lambda run: load_run(run.path, average_last=2).checkpoint.step,
    "init_from": begun_with,
    "last_finite": lambda run: last_finite(run.checkpoints).step,
    "update_ratios": update_ratios,
    "verify": lambda run: [one.found for one in check_run(run) if not one.ok] == [],
}


def deleted_by_who_trains(folder, path):
    """Delete a checkpoint as a training does, which has a better and a newer one then."""
    best = (folder / "best").read_text().strip()
    shutil.copytree(path, aside := folder / ".aside")
    newer = folder / checkpoint.step_name(checkpoint.steps(folder)[-1] + 1)
    aside.rename(newer)
    (folder / "last").write_text(newer.name)
    if best == path.name:
        (folder / "best").write_text(newer.name)
    shutil.rmtree(path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("moment", ["the manifest", "a digest", "the weights, by torch", "the state"])
def test_a_checkpoint_that_is_deleted_while_it_is_read_is_replaced(tmp_path, monkeypatch, reader, moment):
    """torch opens weights again after safetensors, and tells by a RuntimeError that there are none any more."""
    folder = trained(tmp_path)
    owner, name = {
        "the manifest": (checkpoint, "read_bounded"),
        "a digest": (checkpoint, "sha256_of"),
        "the weights, by torch": (safetensors.torch, "load_file"),
        "the state": (torch, "load"),
    }[moment]
    original, deleted = getattr(owner, name), []

    def read(path, *args, **keywords):
        if not deleted and path.parent.parent == folder:
            deleted.append(path.parent)
            deleted_by_who_trains(folder, path.parent)
            if owner is safetensors.torch:
                raise RuntimeError(f"unable to open file <{path}> in read-only mode: No such file or directory (2)")
        return original(path, *args, **keywords)

    monkeypatch.setattr(owner, name, read)
    assert READERS[reader](RunFolder(tmp_path / "run"))
    needs_state = {"init_from", "last_finite", "verify"}
    assert deleted or (moment == "the state" and reader not in needs_state)


def test_a_checkpoint_that_is_deleted_each_time_is_told(tmp_path, monkeypatch, capsys):
    folder = trained(tmp_path)

    def load_weights(self, model):
        deleted_by_who_trains(folder, self.path)
        raise checkpoint.Deleted(self.path)

    monkeypatch.setattr(checkpoint.Checkpoint, "load_weights", load_weights)
    with pytest.raises(ConfigError, match=r"was deleted while it was read: .* 5 times in turn; try again"):
        load_run(tmp_path / "run", checkpoint="last")
    assert capsys.readouterr().err.count("trying the next one") == 5


ALLOCATION = (
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4096000000 bytes. Error code 12 (Cannot allocate memory)"
)


NO_STACK = RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError(ALLOCATION), torch.OutOfMemoryError("CUDA out of memory."), NO_STACK]
)
def test_out_of_memory_is_told_with_advice(tmp_path, monkeypatch, error):
    def fail(*arguments):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(seqlm.training.loop, "descend", fail)
        done = command("train", *TINY, "run.name=run", cwd=tmp_path, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 3
    assert ("4.1 GB more were asked for" in done.stderr) == (str(error) == ALLOCATION)
    assert "train.accumulate=2 (the same gradient), train.batch_size=2" in done.stderr
    assert "step 0 in outputs/run/checkpoints; with more memory: seqlm resume outputs/run" in done.stderr
    assert RunFolder(tmp_path / "outputs" / "run").info()["status"] == "failed"
    monkeypatch.setattr(seqlm.training.assemble, "build_data", fail)
    done = command("train", *TINY, "run.name=second", cwd=tmp_path, check=False)
    assert done.returncode == 1 and "train.batch_size=2" in done.stderr and "resume" not in done.stderr
    monkeypatch.setattr(seqlm.runs.load, "build_model", fail)
    for verb, words in (("eval", []), ("sample", []), ("predict", ["-"])):
        done = command(verb, "run", *words, "checkpoint=last", cwd=tmp_path, check=False)
        assert done.returncode == 1 and re.match("seqlm: out of memory.*\nIt needs less", done.stderr)
    monkeypatch.setattr(importlib.import_module("seqlm.commands.train"), "main", fail)  # before its words are known
    done = command("train", cwd=tmp_path, check=False)
    assert done.returncode == 1 and "It needs less with a smaller train.batch_size" in done.stderr


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGQUIT", "SIGXCPU", "SIGTERM"])
def test_a_signal_before_the_first_step_leaves_nothing_behind(tmp_path, monkeypatch, name):
    number = signal.Signals[name]
    monkeypatch.setattr(seqlm.training.assemble, "build_data", lambda *_: signal.raise_signal(number))
    done = command("train", *TINY, "run.name=run", cwd=tmp_path, check=False)
    assert done.returncode == 128 + number and f"stopped by {name}" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("outputs/*")) and not list(tmp_path.glob("outputs/.*"))


@pytest.mark.parametrize(
    ("place", "status"), [("header", "interrupted"), ("hparams", "interrupted"), ("closing", "finished")]
)
def test_a_signal_around_the_loop_is_answered(tmp_path, monkeypatch, place, status):
    original = getattr(seqlm.training.running, place)

    def send(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return original(*arguments)

    monkeypatch.setattr(seqlm.training.running, place, send)
    done = command("train", *TINY, "run.name=run", "train.steps=4", cwd=tmp_path, check=False)
    run = RunFolder(tmp_path / "outputs" / "run")
    assert done.returncode == (0 if status == "finished" else 143) and run.info()["status"] == status
    assert finding.find(run.checkpoints, "last", print).step == (4 if status == "finished" else 0)
