"""Resume is equality: k steps, a stop of any kind, and the rest equal one uninterrupted run, bit for bit."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial

import pytest
import safetensors.torch
import torch

import seqlm.training.launch
import seqlm.training.running
from seqlm.config.values import load_config
from seqlm.errors import ConfigError, SeqlmError, Stopped
from seqlm.runs import checkpoint, finding, upkeep
from seqlm.runs.folder import RunFolder
from seqlm.runs.load import load_run
from seqlm.training.launch import resume, train
from seqlm.training.session import Progress

from .. import inprocess
from ..conftest import TINY, tiny
from ..conftest import seqlm as command

DROPOUT = [f"model.dropout.{place}=0.2" for place in ("embedding", "input", "hidden", "output")]
REPLAN = "schedule.extend=replan"
OPTIMIZERS = {"sgd": ["optim=sgd", "optim.lr=0.5", "optim.momentum=0.9"], "adamw": ["optim=adamw"]}


def losses(folder):
    """Every logged loss: (step, tag, value), without clock readings."""
    tags = ("train/loss", "train/grad_norm", "train/lr", "valid/loss", "valid/bpc")
    found = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        found += [(record["step"], record["tokens"], tag, record[tag]) for tag in tags if tag in record]
    return found


def weights(folder):
    """SHA-256 of the last weights."""
    last = (folder / "checkpoints" / "last").read_text().strip()
    return last, hashlib.sha256((folder / "checkpoints" / last / "model.safetensors").read_bytes()).hexdigest()


def stop_at(monkeypatch, step):
    """Stop the next run after `step` steps, as Ctrl-C does."""

    class Stop(seqlm.training.running.StopSignal):
        def __enter__(self):
            original = seqlm.training.running.Console.step

            def count(console):
                original(console)
                self.seen = getattr(self, "seen", 0) + 1
                if self.seen == step:
                    self.number = signal.SIGINT

            monkeypatch.setattr(seqlm.training.running.Console, "step", count)
            return self

        def __exit__(self, *_):
            monkeypatch.undo()

    monkeypatch.setattr(seqlm.training.running, "StopSignal", Stop)


def mutate_state(monkeypatch, change):
    """Every checkpoint from now on is loaded with `change` made to its state."""
    original = checkpoint.Checkpoint.load_state

    def mutated(self):
        state = original(self)
        change(state)
        return state

    monkeypatch.setattr(checkpoint.Checkpoint, "load_state", mutated)


def stops_change_nothing(folder, config, steps, monkeypatch):
    """`config(name)` trained at once as `whole`, and as `parts` with a stop after each of `steps`, to the same bits."""
    train(config("whole"), {})
    for index, count in enumerate(steps):
        stop_at(monkeypatch, count)
        with pytest.raises(Stopped) as caught:
            if index == 0:
                train(config("parts"), {})
            else:
                resume(folder / "parts", [])
        assert caught.value.exit_code == 130
        assert RunFolder(folder / "parts").info()["status"] == "interrupted"
    resume(folder / "parts", [])
    assert losses(folder / "parts") == losses(folder / "whole")
    assert weights(folder / "parts") == weights(folder / "whole")


def train_to_be_killed(words, folder):
    """`seqlm train WORDS` that waits for its end after 40 steps, should the killer be late."""
    step, steps = seqlm.training.loop.Console.step, itertools.count(1)

    def wait_at_last(console):
        step(console)
        if next(steps) == 40:
            signal.pause()

    seqlm.training.loop.Console.step = wait_at_last
    torch.set_num_threads(1)
    inprocess.run(["train", *words], folder)


@pytest.mark.parametrize("engine", ["scan", "native", "fused"])
def test_bf16_resumes_to_the_bit(tmp_path, monkeypatch, engine):
    config = partial(tiny, tmp_path, "precision=bf16", f"engine={engine}", "train.steps=12", *DROPOUT)
    stops_change_nothing(tmp_path, lambda name: config(name=name), [5], monkeypatch)
    assert RunFolder(tmp_path / "whole").info()["device"] == "cpu, 1 threads, bf16"
    scored = load_run(tmp_path / "whole", checkpoint="last")
    assert scored.model.training is False and next(scored.model.parameters()).dtype is torch.float32


def test_a_run_keeps_its_engines_where_others_are_faster(tmp_path, monkeypatch):
    """Engines differ in the last digits: what was measured first holds, also on a machine that measures otherwise."""

    @contextmanager
    def machine(fastest):
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("SEQLM_TUNE")
            patch.setenv("SEQLM_CACHE", str(tmp_path / "cache" / fastest))
            patch.setattr("seqlm.engines.choice.measure", lambda ways: {way: 2.0 - (way == fastest) for way in ways})
            yield

    config = partial(tiny, tmp_path, "train.steps=12", "model=lstm")
    with machine("fused"):
        train(config(name="whole"), {})
        stop_at(monkeypatch, 5)
        with pytest.raises(Stopped):
            train(config(name="parts"), {})
    kept = RunFolder(tmp_path / "parts").info()["measured"]
    assert "fused" in kept.values() and "native" not in kept.values()
    with machine("native"):
        resume(tmp_path / "parts", [])
        train(config(name="other"), {})
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole") != weights(tmp_path / "other")
    assert kept.items() <= RunFolder(tmp_path / "parts").info()["measured"].items()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("cell", ["elman", "jordan", "lstm", "gru"])
def test_kill_9_and_resume_equals_an_uninterrupted_run(tmp_path, cell, optimizer, processes):
    words = [*TINY, f"model={cell}", *OPTIMIZERS[optimizer], *DROPOUT, "schedule=plateau", "train.steps=60",
             "train.eval_every=16", "checkpoint.every=7", "data.tokens=1000", f"run.root={tmp_path}"]  # fmt: skip
    command("train", *words, "run.name=whole", cwd=tmp_path)
    killed = processes.Process(target=train_to_be_killed, args=([*words, "run.name=killed"], tmp_path))
    killed.start()
    metrics, deadline = tmp_path / "killed" / "metrics.jsonl", time.monotonic() + 300
    while time.monotonic() < deadline and not (metrics.is_file() and '"step": 24' in metrics.read_text()):
        time.sleep(0.002)
    killed.kill()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert RunFolder(tmp_path / "killed").status() == "crashed"
    reached = RunFolder(tmp_path / "killed").records()[-1]["step"]
    assert 24 <= reached < 60, "killed too late to show anything"
    command("resume", tmp_path / "killed", cwd=tmp_path)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert RunFolder(tmp_path / "killed").status() == "finished"


@pytest.mark.parametrize("steps", [(1,), (7, 1, 14), (15,), (20,), (39,)])
def test_stops_at_any_step_change_nothing(tmp_path, steps, monkeypatch):
    """After the first step, inside an epoch, at a checkpoint, where an evaluation is due, at an epoch's end."""
    overrides = [*DROPOUT, "data.tokens=560", "checkpoint.every=7", "schedule=plateau"]
    stops_change_nothing(tmp_path, lambda name: tiny(tmp_path, *overrides, name=name), steps, monkeypatch)


MUTANTS = {
    "weights": lambda c: None,  # handled below
    "optimizer": lambda s: s.update(optimizer={**s["optimizer"], "state": {}}),
    "schedule": lambda s: s.update(schedule={}),
    "carry": lambda s: s.update(carry=[torch.zeros_like(t) for t in s["carry"]]),
    "random numbers": lambda s: s.update(random={"cpu": torch.Generator().manual_seed(9).get_state()}),
    **{
        name: (lambda s, name=name: s["progress"].pop(name))
        for name in (
            "step",
            "epoch",
            "batch",
            "tokens",
            "loss_sum",
            "loss_tokens",
            "evaluated_at",
            "best_loss",
            "best_step",
            "bad_evaluations",
            "valid",
        )
    },  # fmt: skip
}


@pytest.fixture(scope="module")
def whole_and_parts(tmp_path_factory):
    """A folder with an uninterrupted run, and one whose newest checkpoint is of step 25, just evaluated."""

    @cache
    def made(schedule):
        folder = tmp_path_factory.mktemp("mutants")
        overrides = [*DROPOUT, "data.tokens=560", *schedule.split(), "optim.lr=0.1", "train.patience=4",
                     "train.eval_every=5", "train.log_every=3", "train.steps=60", "checkpoint.every=5"]  # fmt: skip
        train(tiny(folder, *overrides, name="whole"), {})
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
            stop_at(patch, 29)
            train(tiny(folder, *overrides, name="parts"), {})
        shutil.rmtree(folder / "parts" / "checkpoints" / "step-000000029")
        return folder

    return made


@pytest.mark.parametrize("mutant", [None, *MUTANTS])
def test_everything_in_a_checkpoint_is_needed(tmp_path, mutant, monkeypatch, whole_and_parts):
    """Drop one saved item, and the resumed run must differ: the equality above is not an accident."""
    schedule = "schedule=hold_decay schedule.hold_epochs=1" if mutant == "epoch" else "schedule=plateau"
    for name in ("whole", "parts"):
        shutil.copytree(whole_and_parts(schedule) / name, tmp_path / name)
    if mutant == "weights":
        monkeypatch.setattr(checkpoint.Checkpoint, "load_weights", lambda self, model: None)
    elif mutant:
        mutate_state(monkeypatch, MUTANTS[mutant])
    resume(tmp_path / "parts", [])
    infos = [RunFolder(tmp_path / name).info() for name in ("whole", "parts")]
    kept = ("best_step", "metrics", "steps", "tokens")
    outcome = [(losses(tmp_path / name), weights(tmp_path / name), {key: info[key] for key in kept})
               for name, info in zip(("whole", "parts"), infos, strict=True)]  # fmt: skip
    if mutant is None:
        assert outcome[0] == outcome[1]
    else:
        assert outcome[0] != outcome[1]


def test_a_longer_run_is_a_short_one_gone_on(tmp_path):
    overrides = [*DROPOUT, "schedule=constant", "train.eval_every=8"]
    train(tiny(tmp_path, *overrides, "train.steps=40", name="whole"), {})
    train(tiny(tmp_path, *overrides, "train.steps=16", name="parts"), {})
    resume(tmp_path / "parts", ["train.steps=40"])
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert load_config(tmp_path / "parts" / "config.yaml").train.steps == 40


def test_an_evaluation_made_by_a_resumed_run_is_kept(tmp_path, monkeypatch):
    """Stopped before the only evaluation, ended by the resume: the best is saved and named, and logged once."""
    overrides = [*DROPOUT, "train.eval_every=1000"]
    stop_at(monkeypatch, 20)
    with pytest.raises(Stopped):
        train(tiny(tmp_path, *overrides), {})
    for _ in range(2):
        resume(tmp_path / "run", ["train.steps=20"])
        assert load_run(tmp_path / "run").checkpoint.step == 20
        assert [step for step, _, tag, _ in losses(tmp_path / "run") if tag == "valid/loss"] == [20]
    (tmp_path / "run" / "checkpoints" / "best").unlink()  # killed after saving it, before saying it is the best
    RunFolder(tmp_path / "run").update(status="running")
    resume(tmp_path / "run", [])
    assert load_run(tmp_path / "run").checkpoint.step == 20


def test_a_kill_while_a_checkpoint_is_replaced_loses_none(tmp_path):
    folder = trained(tmp_path, "checkpoint.keep_last=1")
    (folder / "step-000000020").rename(folder / ".old-step-000000020")
    (folder / ".step-000000030-1").mkdir()  # killed while it wrote another
    upkeep.tidy(folder)
    assert finding.find(folder, "last", print).step == 20 and not list(folder.glob(".*"))


def test_a_reader_leaves_alone_what_a_trainer_is_writing(tmp_path):
    folder = trained(tmp_path)
    (folder / ".step-000000030-1").mkdir()
    assert finding.find(folder, "last", print).step == 20 and finding.find(folder, "best", print)
    assert (folder / ".step-000000030-1").is_dir()
    resume(tmp_path / "run", ["train.steps=22", REPLAN])  # who holds the run may clear it
    assert not (folder / ".step-000000030-1").is_dir()


@pytest.mark.parametrize("name", ["state.pt", "model.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04.", b"\x1f\x8b" * 99, (1 << 60).to_bytes(8, "little") + b"{}", b"PK\3\4"]
)
def test_a_file_of_another_kind_under_a_manifest_that_holds_is_refused(tmp_path, name, content):
    folder = trained(tmp_path)
    path = finding.find(folder, "last", print).path
    (path / name).write_bytes(content)
    files = ("model.safetensors", "state.pt", "meta.json")
    lines = [f"{hashlib.sha256((path / file).read_bytes()).hexdigest()}  {file}\n" for file in files]
    (path / "MANIFEST.sha256").write_text("".join(lines))
    with pytest.raises(ConfigError, match=f"{name} holds no .*nothing in it was executed"):
        resume(tmp_path / "run", ["train.steps=22", REPLAN])


def test_a_kill_while_an_old_checkpoint_is_deleted_leaves_no_part_of_it(tmp_path, monkeypatch):
    folder = trained(tmp_path, "checkpoint.keep_last=2")

    def killed(path, **_):
        (path / "meta.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        upkeep.prune(folder, keep_last=1, keep_best=0, keep_every=None)
    assert not any(checkpoint.verify(folder / checkpoint.step_name(step)) for step in checkpoint.steps(folder))
    upkeep.tidy(folder)
    assert not list(folder.glob(".*"))


def test_a_failed_write_never_costs_the_config(tmp_path, monkeypatch):
    train(tiny(tmp_path, "train.steps=8"), {})
    before = (tmp_path / "run" / "config.yaml").read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(os, "fsync", full)
        resume(tmp_path / "run", ["train.steps=9", REPLAN])
    assert (tmp_path / "run" / "config.yaml").read_text() == before
    assert not [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".config")]
    resume(tmp_path / "run", ["train.steps=9", REPLAN])


def test_resume_refuses_what_would_be_another_run(tmp_path):
    train(tiny(tmp_path, "train.steps=8"), {})
    before = (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(ConfigError) as caught:
        resume(tmp_path / "run", ["model.hidden_size=300", "seed=2", "train.steps=20"])
    assert "  model.hidden_size: 12 -> 300" in str(caught.value) and "  seed: 1 -> 2" in str(caught.value)
    assert "train.steps" in str(caught.value).split("change only:")[1]
    with pytest.raises(ConfigError, match="train.stepz is not a key.*did you mean train.steps?"):
        resume(tmp_path / "run", ["train.stepz=20"])
    with pytest.raises(ConfigError, match="train.steps=many should be a whole number or null"):
        resume(tmp_path / "run", ["train.steps=many"])
    for wrong in ("foo", "[5]", "[{reverse: true}]"):
        with pytest.raises(ConfigError, match="  model.language_models: None -> "):
            resume(tmp_path / "run", [f"model.language_models={wrong}"])
    assert (tmp_path / "run" / "config.yaml").read_text() == before
    assert RunFolder(tmp_path / "run").info()["status"] == "finished"


def test_a_run_tells_all_that_it_was_computed_on(tmp_path, capsys):
    train(tiny(tmp_path, "train.steps=4", "engine=fused"), {})
    for steps, threads in ((6, 1), (8, 2), (10, 2)):
        resume(tmp_path / "run", [f"train.steps={steps}", f"threads={threads}", REPLAN])
    resume(tmp_path / "run", ["train.steps=12", "precision=bf16", REPLAN])
    torch.set_num_threads(1)
    info = RunFolder.open(tmp_path / "run").info()
    devices = [f"cpu, {computed}" for computed in ("1 threads, float32", "2 threads, float32", "2 threads, bf16")]
    assert info["device"] == "; then ".join(devices) and info["resumed"] == 4
    told = [line for line in capsys.readouterr().out.splitlines() if "bits will differ" in line]
    assert told == [
        f"trained on {old} so far, now on {new}: from here on its bits will differ"
        for old, new in zip(devices[:2], devices[1:], strict=True)
    ]


def test_resume_refuses_changed_data(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {i} of it\n" for i in range(300)))
    words = ["data=text", f"data.path={text}", "train.steps=8", "model.hidden_size=8"]
    command("train", *words, f"run.root={tmp_path}", "run.name=run", cwd=tmp_path)
    moved = tmp_path / "moved.txt"
    text.rename(moved)
    failed = command("resume", tmp_path / "run", "train.steps=9", cwd=tmp_path, check=False)
    assert failed.returncode == 2 and "does not exist" in failed.stderr
    command("resume", tmp_path / "run", "train.steps=9", REPLAN, f"data.path={moved}", cwd=tmp_path)
    moved.write_text(moved.read_text().replace("line 7 ", "line 8 "))
    failed = command("resume", tmp_path / "run", "train.steps=10", cwd=tmp_path, check=False)
    assert failed.returncode == 2 and "has changed since it was started" in failed.stderr


def test_resume_auto_starts_or_goes_on(tmp_path):
    train(tiny(tmp_path, "resume=auto", "train.steps=8"), {})
    train(tiny(tmp_path, "resume=auto", "train.steps=8"), {})
    assert RunFolder(tmp_path / "run").info()["steps"] == 8
    train(tiny(tmp_path, "resume=auto", "train.steps=11", REPLAN), {})  # a longer limit is taken from the command line
    assert RunFolder(tmp_path / "run").info()["steps"] == 11
    with pytest.raises(ConfigError, match="model.hidden_size: 12 -> 9"):
        train(tiny(tmp_path, "resume=auto", "model.hidden_size=9"), {})
    with pytest.raises(ConfigError, match="resume=auto needs run.name"):
        train(tiny(tmp_path, "resume=auto", name="null"), {})
    with pytest.raises(ConfigError, match="exists; choose another name, or resume=auto"):
        train(tiny(tmp_path), {})
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("no run")
    (tmp_path / "file").write_text("no run")
    for name in ("notes", "file"):
        with pytest.raises(ConfigError, match="exists; choose another name"):
            train(tiny(tmp_path, "resume=auto", name=name), {})


def test_a_resume_that_fails_leaves_the_run_as_it_was(tmp_path, monkeypatch):
    train(tiny(tmp_path, "train.steps=8"), {})
    run = RunFolder(tmp_path / "run")
    before = (run.path / "run.json").read_bytes()

    def broken(*_):
        raise OSError("a broken disk")

    monkeypatch.setattr(seqlm.training.launch.Session, "restore", broken)
    with pytest.raises(OSError, match="a broken disk"):
        resume(run.path, ["train.steps=9", REPLAN])
    assert (run.path / "run.json").read_bytes() == before and run.status() == "finished"
    monkeypatch.undo()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(seqlm.training.running.RunLogger, "hparams", interrupted)
    with pytest.raises(KeyboardInterrupt):
        resume(run.path, ["train.steps=9", REPLAN])
    info = run.info()
    assert (info["status"], info["steps"], info["best_step"]) == ("interrupted", 8, 8) and "valid/loss" in info[
        "metrics"
    ]


def test_two_processes_never_train_one_run(tmp_path):
    train(tiny(tmp_path, "train.steps=8"), {})
    run = RunFolder(tmp_path / "run")
    with run.locked(), pytest.raises(ConfigError, match="is being trained by another process"):
        resume(run.path, ["train.steps=9", REPLAN])
    resume(run.path, ["train.steps=9", REPLAN])


def test_a_run_killed_before_its_first_checkpoint_starts_anew(tmp_path):
    for name in ("whole", "parts"):
        train(tiny(tmp_path, *DROPOUT, name=name), {})
    shutil.rmtree(tmp_path / "parts" / "checkpoints")
    train(tiny(tmp_path, *DROPOUT, "resume=auto", name="parts"), {})
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


# ---- checkpoints on disk


def trained(tmp_path, *overrides):
    train(tiny(tmp_path, "train.steps=20", "checkpoint.every=4", "checkpoint.keep_last=9", *overrides), {})
    return tmp_path / "run" / "checkpoints"


def names(folder):
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def test_a_damaged_checkpoint_is_skipped_for_the_newest_whole_one(tmp_path):
    folder = trained(tmp_path, "train.eval_every=100")
    assert names(folder) == [0, 4, 8, 12, 16, 20]
    for name, damage in (("step-000000020/model.safetensors", "flip"), ("step-000000016/state.pt", "cut"),
                         ("step-000000012/MANIFEST.sha256", "delete")):  # fmt: skip
        path = folder / name
        content = bytearray(path.read_bytes())
        if damage == "flip":
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        elif damage == "cut":
            path.write_bytes(content[:100])
        else:
            path.unlink()
    said = []
    found = finding.find(folder, "last", said.append)
    assert found.step == 8 and len(said) == 3 and "model.safetensors does not match its SHA-256" in said[0]
    with pytest.raises(ConfigError, match="is damaged.*use checkpoint=last"):
        finding.find(folder, "20", said.append)
    whole = {path.name: path.read_bytes() for path in (folder / "step-000000008").iterdir()}
    resume(tmp_path / "run", [])
    assert finding.find(folder, "last", print).step == 20 and not checkpoint.verify(folder / "step-000000016")
    assert whole == {path.name: path.read_bytes() for path in (folder / "step-000000008").iterdir()}


def test_checkpoints_may_be_read_as_the_umask_says(tmp_path, monkeypatch):
    """By others too, and where they may not be read that is said: nothing is damaged."""
    before = os.umask(0o022)
    try:
        train(tiny(tmp_path), {})
    finally:
        os.umask(before)
    folder = tmp_path / "run" / "checkpoints"
    for file in (folder / "step-000000040").iterdir():
        assert file.stat().st_mode & 0o777 == 0o644, file.name
    hidden = folder / "step-000000040" / "model.safetensors"

    def refused(path):
        if path == hidden:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(checkpoint, "sha256_of", refused)
    for which in ("last", "best"):
        with pytest.raises(ConfigError, match="safetensors may not be read by this user; its owner can type chmod"):
            finding.find(folder, which, pytest.fail)


def test_every_single_bit_counts(tmp_path):
    folder = trained(tmp_path) / "step-000000020"
    generator = torch.Generator().manual_seed(0)
    for file in checkpoint.FILES:
        content = (folder / file).read_bytes()
        for _ in range(30):
            place = int(torch.randint(len(content) * 8, (1,), generator=generator))
            flipped = bytearray(content)
            flipped[place // 8] ^= 1 << place % 8
            (folder / file).write_bytes(flipped)
            assert checkpoint.verify(folder), (file, place)
        (folder / file).write_bytes(content)
    assert checkpoint.verify(folder) == ""


def test_another_format_is_refused_with_both_versions(tmp_path):
    folder = trained(tmp_path)
    meta = folder / "step-000000020" / "meta.json"
    meta.write_text(meta.read_text().replace('"format": 1', '"format": 7'))
    manifest = folder / "step-000000020" / "MANIFEST.sha256"
    lines = [
        f"{hashlib.sha256((manifest.parent / name).read_bytes()).hexdigest()}  {name}\n" for name in checkpoint.FILES
    ]
    manifest.write_text("".join(lines))
    failed = command("resume", tmp_path / "run", cwd=tmp_path, check=False)
    assert failed.returncode == 2 and "format 7, this seqlm reads format 1" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_retention(tmp_path):
    folder = trained(tmp_path, "checkpoint.keep_last=2", "checkpoint.keep_best=1", "checkpoint.keep_every=8",
                     "checkpoint.every=2", "train.eval_every=6")  # fmt: skip
    best = int((folder / "best").read_text().strip().removeprefix("step-"))
    assert set(names(folder)) == {8, 16, 18, 20, best}


def test_the_best_are_kept(tmp_path):
    folder = trained(tmp_path, "checkpoint.keep_last=1", "checkpoint.keep_best=3", "train.eval_every=2",
                     "optim.lr=0.3", "schedule=constant")  # fmt: skip
    by_loss = sorted((loss, step) for step, _, tag, loss in losses(tmp_path / "run") if tag == "valid/loss")
    best = {step for _, step in by_loss[:3]}
    assert len(by_loss) == 10 and best != {16, 18, 20} and set(names(folder)) == best | {20}


def test_pointers_are_never_pruned(tmp_path):
    folder = trained(tmp_path, "train.eval_every=4", "optim.lr=0", "checkpoint.keep_last=1", "checkpoint.keep_best=0")
    assert names(folder) == [4, 20]  # the first evaluation stays the best when nothing is learned
    assert (folder / "best").read_text().strip() == "step-000000004"
    assert load_run(tmp_path / "run").checkpoint.step == 4
    assert load_run(tmp_path / "run", checkpoint="last").checkpoint.step == 20
    with pytest.raises(ConfigError, match=r"checkpoint=7 does not exist.*there are: best, last, 4, 20"):
        load_run(tmp_path / "run", checkpoint="7")


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    for failing in ("save_file", "torch.save", "fsync"):
        folder = tmp_path / failing
        original = checkpoint.save

        def save(where, model, state, meta, failing=failing, original=original):
            if meta["step"] == 8:
                error = (
                    OSError(28, "No space left on device")
                    if failing != "torch.save"
                    else RuntimeError("[enforce fail] pos 640 vs 534")
                )
                target = {
                    "save_file": (safetensors.torch, "save_file"),
                    "torch.save": (torch, "save"),
                    "fsync": (os, "fsync"),
                }[failing]

                def fail(*_, **__):
                    raise error

                with monkeypatch.context() as patch:
                    patch.setattr(*target, fail)
                    return original(where, model, state, meta)
            return original(where, model, state, meta)

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save", save)
            with pytest.raises(
                SeqlmError, match="step-000000008 could not be written.*earlier checkpoints are untouched"
            ) as caught:
                train(tiny(folder, "checkpoint.every=4", *DROPOUT), {})
        assert caught.value.exit_code == 1
        assert names(folder / "run" / "checkpoints") == [0, 4]
        assert not list((folder / "run" / "checkpoints").glob(".*"))
        resume(folder / "run", [])
    train(tiny(tmp_path, "checkpoint.every=4", *DROPOUT, name="whole"), {})
    assert weights(tmp_path / "whole") == weights(tmp_path / "save_file" / "run")


def test_a_damaged_best_is_told_and_the_next_best_takes_its_place(tmp_path, monkeypatch, capsys):
    """One that is older than the checkpoint that a resume begins with would be believed until it is asked for."""
    folder = trained(tmp_path, "train.eval_every=4")
    best, second = [step for step in upkeep.ranked(folder) if step != 20][:2]
    state = Progress.of
    monkeypatch.setattr(Progress, "of", lambda start: replace(state(start), best_step=best))
    monkeypatch.setattr(upkeep, "ranked", lambda folder: [best, second])
    path = folder / f"step-{best:09d}" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    resume(tmp_path / "run", [])
    assert f"step-{best:09d}, the best so far, is damaged (model.safetensors does not" in capsys.readouterr().err
    assert (folder / "best").read_text() == f"step-{second:09d}\n"
    (folder / f"step-{second:09d}" / "MANIFEST.sha256").unlink()
    resume(tmp_path / "run", [])
    assert capsys.readouterr().err.count("the best so far, is damaged") == 2, "with no other it stays"
    with pytest.raises(ConfigError, match=f"step-{best:09d} is damaged"):
        finding.find(folder, "best", print)


def test_leftovers_of_a_killed_save_are_swept(tmp_path):
    folder = trained(tmp_path)
    shutil.copytree(folder / "step-000000020", folder / ".step-000000024-999")
    resume(tmp_path / "run", ["train.steps=24", REPLAN])
    assert not list(folder.glob(".*")) and 24 in names(folder)


def test_leftovers_of_a_killed_write_are_swept(tmp_path):
    trained(tmp_path)
    ours = [f"checkpoints/.{name}.{end}" for name in ("last", "best") for end in (os.getpid(), "0a1b2c3d4e5f6071")]
    ours += [".run.json.0a1b2c3d4e5f6071", ".metrics.jsonl.77", ".config.new.yaml"]
    ours += ["..config.new.yaml.0a1b2c3d4e5f6071", "samples/.step-000000008.txt.0a1b2c3d4e5f6071"]
    others = [".eval-test.json.0a1b2c3d4e5f6071", ".notes"]  # of who holds no lock, and of the user
    for name in ours + others:
        (tmp_path / "run" / name).write_text("half")
    resume(tmp_path / "run", ["train.steps=24", REPLAN])
    assert [name for name in ours + others if (tmp_path / "run" / name).exists()] == others


def test_folders_of_killed_beginnings_are_swept(tmp_path):
    stale, held, young, foreign = (tmp_path / f".{name}-0a1b2c3d" for name in ("stale", "held", "young", "foreign"))
    for folder in (stale, held, young, foreign):
        folder.mkdir()
        (folder / ("notes" if folder == foreign else ".lock")).touch()
    for folder in (stale, held, foreign):
        os.utime(folder, (0, 0))
    with RunFolder(held).locked():
        train(tiny(tmp_path, "train.steps=2"), {})
    assert not stale.exists() and held.exists() and young.exists() and foreign.exists()


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe\x00", b"step-000000777\n", b"../../elsewhere\n", None])
def test_damaged_pointers_are_not_believed_and_written_again(tmp_path, damage):
    """None: a folder is in its place."""
    folder = trained(tmp_path)
    best = (folder / "best").read_text()
    for pointer in ("last", "best"):
        (folder / pointer).unlink()
        (folder / pointer).mkdir() if damage is None else (folder / pointer).write_bytes(damage)
    assert finding.best_step(folder) == int(best.strip().removeprefix("step-"))
    resume(tmp_path / "run", ["train.steps=24", REPLAN])
    assert (folder / "last").read_text() == "step-000000024\n" and names(folder)[-1] == 24
    assert (folder / (folder / "best").read_text().strip()).is_dir()


def test_a_pointer_that_a_kill_left_behind_is_corrected(tmp_path):
    folder = trained(tmp_path)
    (folder / "last").write_text("step-000000004\n")
    resume(tmp_path / "run", [])  # which is finished: nothing is trained
    assert (folder / "last").read_text() == "step-000000020\n"


def test_ctrl_c_ends_a_sweep(tmp_path):
    words = ["train", "-m", *TINY, "train.steps=1000000", "seed=1,2", f"run.root={tmp_path / 'runs'}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "seqlm", *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step"):
            break
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=300)[1]
    assert process.returncode == 130 and "everything is saved" in stderr and "Traceback" not in stderr
    assert len([path for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")]) == 1


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    words = [*TINY, "train.steps=1000000", f"run.root={tmp_path}", "run.name=run", "checkpoint.every=null"]
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)):
        first = [sys.executable, "-m", "seqlm", "train", *words]
        again = [sys.executable, "-m", "seqlm", "resume", str(tmp_path / "run")]
        process = subprocess.Popen(
            again if (tmp_path / "run").exists() else first,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            if line.startswith("step"):
                break
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == code, stderr
        assert f"seqlm resume {tmp_path / 'run'}" in stderr and "Traceback" not in stderr
        run = RunFolder(tmp_path / "run")
        assert run.info()["status"] == "interrupted"
        assert finding.find(run.checkpoints, "last", print).step == run.info()["steps"] > 0
