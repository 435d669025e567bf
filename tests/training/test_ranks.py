"""Trainings by several ranks: one folder and one voice, the same words and data on all, and an end together."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from seqlm.engines.choice import Choices
from seqlm.errors import ConfigError, SeqlmError
from seqlm.runs import checkpoint
from seqlm.runs.folder import RunFolder
from seqlm.training import joining
from seqlm.training.distributed import Ranks
from seqlm.training.launch import resume, train
from seqlm.training.torchrun import Launched

from ..conftest import REPOSITORY, TINY, compose, tiny
from ..conftest import seqlm as command
from ..ranks import together


def each(ranks, work):
    """The outcome of `work(rank)`, or its error, and the output of this rank."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        try:
            done = work(ranks)
        except SeqlmError as error:
            done = f"{type(error).__name__}: {error}"
    return done, shown.getvalue()


def trained(ranks, configs, words=()):
    """Train each rank's own config."""
    return each(ranks, lambda ranks: str(train(configs[ranks.rank], {}, list(words), ranks=ranks).run.path))


def resumed(ranks, folder, words=()):
    return each(ranks, lambda ranks: str(resume(folder, list(words), ranks=ranks).run.path))


def test_rank_0_alone_makes_the_folder_and_a_resume_may_have_more_ranks_or_fewer(tmp_path, processes):
    config = tiny(tmp_path, "train.steps=10")
    done = together(processes, 2, tmp_path / "meet", trained, [config, config])
    assert [path for (path, _) in done] == 2 * [str(tmp_path / "run")]
    assert "2 processes (gloo), 2 rows each" in done[0][1] and "best valid" in done[0][1]
    assert [path.name for path in tmp_path.iterdir() if path.name != "meet"] == ["run"]
    run = RunFolder(tmp_path / "run")
    assert len(list(run.path.glob("events.out.*"))) == 1 and run.info()["ranks"] == 2
    steps = [record["step"] for record in run.records() if "train/loss" in record]
    assert steps == [3, 6, 9]
    for path, shown in together(processes, 2, tmp_path / "meet", resumed, str(run.path)):
        assert path == str(run.path) and "is finished" in shown
    _, shown = resumed(Ranks(), str(run.path), ["train.steps=13", "schedule.extend=hold"])
    assert "2 ranks" in shown and run.info()["ranks"] == 1 and run.info()["steps"] == 13
    done = together(processes, 2, tmp_path / "meet", resumed, str(run.path), ["train.steps=16", "schedule.extend=hold"])
    assert "resumed at step 13" in done[0][1] and run.info()["ranks"] == 2 and run.info()["steps"] == 16


def test_resume_auto_is_decided_by_rank_0_and_an_existing_name_is_told_to_all(tmp_path, processes):
    config = replace(tiny(tmp_path, "train.steps=5"), resume="auto")
    for word in ("best valid", "is finished"):
        done = together(processes, 2, tmp_path / "meet", trained, [config, config])
        assert word in done[0][1] and [path for path, _ in done] == 2 * [str(tmp_path / "run")]


def test_other_words_are_named_with_their_rank(tmp_path, processes):
    configs = [tiny(tmp_path), tiny(tmp_path, "optim.lr=0.02")]
    for told, _ in together(processes, 2, tmp_path / "meet", trained, configs):
        assert told.startswith("ConfigError: rank 1 has optim.lr=0.02, rank 0 has optim.lr=0.01; start all ranks with")
    assert not (tmp_path / "run").exists()


def test_other_data_is_refused(tmp_path, processes):
    words = [word for word in TINY if not word.startswith("data")] + ["data=text", "run.name=run"]
    configs = []
    for rank in range(2):
        path = tmp_path / f"{rank}.txt"
        path.write_text("x" * rank + "a text of some words\n" * 200)
        configs.append(compose(*words, f"data.path={path}", f"run.root={tmp_path}"))
    for told, _ in together(processes, 2, tmp_path / "meet", trained, configs):
        assert re.match(r"ConfigError: rank 1 has the data's fingerprint=\w+/\w+, rank 0 has", told), told
    assert not (tmp_path / "run").exists()
    configs[1].data["path"] = str(tmp_path / "copy.txt")  # where a machine keeps the text is its own matter
    (tmp_path / "copy.txt").write_bytes((tmp_path / "0.txt").read_bytes())
    configs = [replace(one, train=replace(one.train, steps=2)) for one in configs]
    done = together(processes, 2, tmp_path / "meet", trained, configs)
    assert done[0][0] == str(tmp_path / "run"), done


def test_a_drawn_seed_is_that_of_rank_0(tmp_path, processes):
    configs = [replace(tiny(tmp_path, "train.steps=2"), seed=seed) for seed in (11, 12)]
    done = together(processes, 2, tmp_path / "meet", trained, configs, ["seed=random"])
    assert done[0][0] == str(tmp_path / "run") and "seed=11 repeats this run" in done[0][1]
    assert RunFolder(tmp_path / "run").info()["seed"] == 11


def test_a_batch_that_cannot_be_shared_out_names_the_next_sizes(tmp_path, processes):
    config = tiny(tmp_path, "train.batch_size=5")
    for told, _ in together(processes, 2, tmp_path / "meet", trained, [config, config]):
        assert "train.batch_size=5" in told and "4" in told and "6" in told


def test_a_way_that_a_rank_has_measured_holds_for_all():
    known = {}
    first, second = Choices(), Choices()
    settle = lambda question, way: known.setdefault(question, way)  # noqa: E731
    with first.of_run({}, settle), second.of_run({}, settle):
        first.made, second.made = {}, {}
        first._answer, second._answer = lambda *_: "a", lambda *_: "b"
        ways = dict.fromkeys("ab", lambda: 1.0)
        assert [first.choose("q", ways), second.choose("q", ways)] == ["a", "a"]
        assert second.choose("r", ways) == "b" and first.choose("r", ways) == "b"
        assert second.choose("s", ways) == "b" and first.choose("s", dict.fromkeys("ac", lambda: 1.0)) == "a"


def test_each_rank_has_a_gpu_of_its_own(monkeypatch):
    ranks = Ranks(1, 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    assert joining.own_device(Ranks(), "cuda:1") == "cuda:1" and joining.own_device(ranks, "cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert joining.own_device(ranks, "auto") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="device=cuda:0 is one GPU, for 2 ranks; device=cuda gives each its own"):
        joining.own_device(ranks, "cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert joining.own_device(ranks, "auto") == joining.own_device(ranks, "cuda") == "cuda:1"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert joining.own_device(ranks, "cuda") == "cuda:0", "srun may show each process its own GPU alone"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(ConfigError, match="2 ranks here, but 1 GPUs; use --nproc-per-node=1"):
        joining.own_device(ranks, "cuda")


def test_a_master_port_in_use_is_named_with_the_way_out(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for name, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
        with pytest.raises(ConfigError, match=f"MASTER_PORT={port} is in use.*MASTER_PORT={port + 1}"):
            joining._store(Launched(0, 2, "127.0.0.1", port))


@pytest.mark.parametrize("rank", [0, 1])
def test_other_verbs_are_for_one_process(tmp_path, monkeypatch, rank):
    place = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    done = command("eval", "outputs/run", cwd=tmp_path, check=False, env={**os.environ, **place})
    assert done.returncode == 2
    told = "seqlm: seqlm eval is for one process, not for 2; start it without torchrun\n"
    assert done.stderr == (told if rank == 0 else "")


def test_under_torchrun_a_killed_rank_ends_all_and_the_run_resumes(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = [*TINY, "run.name=run", "train.steps=1000000", "train.eval_every=1000000", "checkpoint.every=5"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*launcher, "-m", "seqlm", "train", *words], cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as started:  # fmt: skip
        run = RunFolder(tmp_path / "outputs" / "run")
        try:
            end = time.monotonic() + 120
            while len(checkpoint.steps(run.checkpoints)) < 2 and time.monotonic() < end and started.poll() is None:
                time.sleep(0.1)
            assert checkpoint.steps(run.checkpoints)[-1], started.communicate(timeout=5)
            other = _processes_below(started.pid) - {run.info()["pid"]}
            assert len(other) == 1
            os.kill(other.pop(), signal.SIGKILL)
            out, told = started.communicate(timeout=30)
        finally:
            started.terminate()
    assert started.returncode == 1
    assert re.search(
        r"seqlm: rank 1 \(\S+, pid \d+\) is gone: it was killed, or has crashed\n"
        r"Resume it with: torchrun --standalone --nproc-per-node=2 -m seqlm resume outputs/run\n",
        told,
    ), told
    assert out.count("2 processes (gloo)") == 1 and told.count("seqlm:") == 1
    assert run.status() in ("interrupted", "crashed")
    reached = checkpoint.steps(run.checkpoints)[-1]
    _, shown = resumed(Ranks(), str(run.path), [f"train.steps={reached + 3}", "schedule.extend=hold"])
    assert f"resumed at step {reached}" in shown.replace(",", ""), shown


def _processes_below(parent: int) -> set[int]:
    """The processes that a process has started."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True).stdout
    return set(map(int, listed.split()))


def test_the_way_on_names_torchrun_only_where_that_was_the_way_in(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    told = joining.resume_command(Ranks(0, 2), "outputs/run")
    assert told == "seqlm resume outputs/run (started as these 2 processes were)"
    assert joining.resume_command(Ranks(), "outputs/run") == "seqlm resume outputs/run"
