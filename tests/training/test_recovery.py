"""Numbers that are not finite: nothing of them is kept, and the run stops, skips the batch or goes back."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from tensorboard.plugins.hparams import api_pb2

import seqlm.training.loop
import seqlm.training.session
from seqlm.errors import NonFiniteError, Stopped
from seqlm.runs import checkpoint, finding
from seqlm.runs.finite import last_finite, non_finite
from seqlm.runs.folder import RunFolder
from seqlm.training import recovery
from seqlm.training.callbacks import Callback
from seqlm.training.launch import resume, train

from ..conftest import TINY, tiny
from ..conftest import seqlm as command
from .test_resume import losses, stop_at, weights
from .test_tensorboard import sessions

POISON = ["optim=sgd", "optim.lr=1e39", "schedule=constant"]  # its first step takes every weight beyond float32


@pytest.mark.parametrize(
    ("tensor", "name"),
    [
        ([1.0, 2.0], None),
        ([3e38, 3e38], None),  # only their sum is not finite
        ([1.0, float("nan")], "b"),
        ([float("inf"), -float("inf")], "b"),
    ],
)
def test_a_tensor_that_is_not_finite_is_named(tensor, name):
    assert non_finite([("a", torch.ones(3)), ("whole", torch.ones(2).long()), ("b", torch.tensor(tensor))]) == name


@pytest.mark.parametrize("words", [["checkpoint.every=1"], ["train.eval_every=1", "checkpoint.every=null"]])
def test_a_step_that_poisons_the_weights_is_neither_saved_nor_evaluated(tmp_path, words):
    with pytest.raises(NonFiniteError, match="is not finite") as caught:
        train(tiny(tmp_path, *POISON, *words), {})
    run = RunFolder(tmp_path / "run")
    assert all(step == 0 for step in checkpoint.steps(run.checkpoints))
    assert not any("valid/loss" in record for record in run.records())
    assert ("The last finite checkpoint is of step 0" in str(caught.value)) == (words[0] == "checkpoint.every=1")
    assert caught.value.exit_code == 3 and run.status() == "diverged"
    assert sessions(run.path)[1].status == api_pb2.STATUS_FAILURE


def test_nothing_that_is_not_finite_joins_an_average(tmp_path, monkeypatch):
    taken = []
    original = seqlm.training.session.Averaging.update

    def update(self, parameters, at):
        taken.extend(parameter.isfinite().all() for parameter in parameters)
        original(self, parameters, at)

    monkeypatch.setattr(seqlm.training.session.Averaging, "update", update)
    with pytest.raises(NonFiniteError):
        train(tiny(tmp_path, *POISON, "averaging=ema", "checkpoint.every=null"), {})
    assert all(taken)


class Poison(Callback):
    """NaN in the state of the optimizer after the sixth step."""

    def on_step(self, state):
        if state.step == 6:
            next(iter(state.optimizer.state.values()))["exp_avg"].view(-1)[0] = torch.nan


def test_an_optimizer_that_is_not_finite_is_not_saved(tmp_path):
    with pytest.raises(NonFiniteError, match=r"optimizer\.state\.0\.exp_avg is not finite at step 6"):
        train(tiny(tmp_path, "checkpoint.every=3"), {}, callbacks=[Poison()])
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [0, 3]


def poisoned_checkpoint(folder):
    """Write NaN into the weights of the newest checkpoint, as an older version could."""
    newest = finding.newest(folder / "checkpoints", 1, print)[0]
    from safetensors.torch import load_file, save_file

    stored = load_file(newest.path / "model.safetensors")
    next(iter(stored.values())).view(-1)[0] = torch.nan
    save_file(stored, newest.path / "model.safetensors")
    lines = [f"{checkpoint.sha256_of(newest.path / name)}  {name}\n" for name in checkpoint.FILES]
    (newest.path / "MANIFEST.sha256").write_text("".join(lines))
    return newest.step


@pytest.mark.parametrize("verb", ["eval", "sample", "predict"])
def test_every_verb_names_the_finite_checkpoint(tmp_path, verb):
    train(tiny(tmp_path / "outputs", "checkpoint.every=15"), {})
    assert poisoned_checkpoint(tmp_path / "outputs" / "run") == 40
    (tmp_path / "lines.txt").write_text("ab\n")
    words = {"eval": [], "sample": ["tokens=5"], "predict": ["lines.txt"]}[verb]
    first = words[:1] if verb == "predict" else []
    done = command(verb, "run", *first, "checkpoint=last", *words[len(first) :], cwd=tmp_path, check=False)
    assert done.returncode == 3 and "use checkpoint=30, the newest that is finite" in done.stderr
    assert len(done.stderr.splitlines()) <= 2 and "Traceback" not in done.stderr


def fail_at(monkeypatch, *calls):
    """The loss of these steps, counted from 1 as they are computed, is not finite."""
    original, count = seqlm.training.session.gradient, itertools.count(1)

    def gradient(*arguments, **options):
        carry, loss = original(*arguments, **options)
        return carry, loss * float("nan") if next(count) in calls else loss

    monkeypatch.setattr(seqlm.training.session, "gradient", gradient)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_is_skipped(tmp_path, monkeypatch, capsys, accumulate):
    fail_at(monkeypatch, 6, 7)
    words = ["train.on_nonfinite=skip", f"train.accumulate={accumulate}", "averaging=ema"]
    train(tiny(tmp_path, *words, "train.log_every=1"), {})
    run = RunFolder(tmp_path / "run")
    assert run.info()["status"] == "finished" and run.info()["steps"] == 40
    skipped = [(one["step"], one["train/skipped"]) for one in run.records() if "train/skipped" in one]
    assert skipped == [(6, 1), (6, 2)]
    assert capsys.readouterr().out.count("batch skipped") == 2


def test_no_more_than_so_many_are_skipped_in_a_row(tmp_path, monkeypatch):
    fail_at(monkeypatch, *range(6, 60))
    with pytest.raises(NonFiniteError, match=f"{recovery.MOST_SKIPPED} batches before it were skipped"):
        train(tiny(tmp_path, "train.on_nonfinite=skip"), {})
    skipped = [one["train/skipped"] for one in RunFolder(tmp_path / "run").records() if "train/skipped" in one]
    assert skipped == [*range(1, recovery.MOST_SKIPPED + 1)]


def nan_above(monkeypatch, rate, least):
    """The loss is not finite from step `least` on as long as the learning rate is above `rate`."""
    original = seqlm.training.loop.Loop._step

    def step(self, carry):
        taken = self.gradient
        high = self.session.learning_rates[0] * 0.5**self.progress.rollbacks > rate

        def gradient(*arguments):
            carry, loss = taken(*arguments)
            return carry, loss * float("nan") if high and self.progress.step >= least else loss

        self.gradient = gradient
        try:
            return original(self, carry)
        finally:
            self.gradient = taken

    monkeypatch.setattr(seqlm.training.loop.Loop, "_step", step)


def test_a_run_goes_back_with_half_the_learning_rate(tmp_path, monkeypatch, capsys):
    nan_above(monkeypatch, 0.003, 18)
    words = ["train.on_nonfinite=rollback", "schedule=constant", "train.log_every=1", "averaging=ema"]
    train(tiny(tmp_path, *words), {})
    run = RunFolder(tmp_path / "run")
    info = run.info()
    assert info["status"] == "finished" and info["steps"] == 40
    assert [part["changed"]["optim.lr"] for part in info["history"]] == [[0.01, 0.005], [0.005, 0.0025]]
    rates = {one["step"]: one["train/lr"] for one in run.records() if "train/lr" in one}
    assert rates == {step: 0.01 if step <= 16 else 0.0025 for step in range(1, 41)}
    assert capsys.readouterr().out.count("back to step 16") == 2


@pytest.mark.parametrize("stop", [15, 18, 20, 30])
def test_a_resume_after_a_rollback_is_the_same_to_the_bit(tmp_path, monkeypatch, stop):
    words = ["train.on_nonfinite=rollback", "model.dropout.output=0.2", "averaging=ema"]
    with monkeypatch.context() as patched:
        nan_above(patched, 0.006, 18)
        train(tiny(tmp_path, *words, name="whole"), {})
    stop_at(monkeypatch, stop)
    nan_above(monkeypatch, 0.006, 18)
    with pytest.raises(Stopped):
        train(tiny(tmp_path, *words, name="parts"), {})
    nan_above(monkeypatch, 0.006, 18)  # stopping took it back
    resume(tmp_path / "parts", [])
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_a_run_goes_back_so_many_times_only(tmp_path, monkeypatch):
    nan_above(monkeypatch, 0.0, 18)
    with pytest.raises(NonFiniteError, match=f"gone back {recovery.MOST_ROLLBACKS} times"):
        train(tiny(tmp_path, "train.on_nonfinite=rollback"), {})


def test_a_stopped_run_is_resumed_from_what_is_finite(tmp_path, monkeypatch):
    train(tiny(tmp_path, "checkpoint.every=15"), {})
    poisoned_checkpoint(tmp_path / "run")
    with pytest.raises(NonFiniteError, match=r"of step 30 .*\n.*train.on_nonfinite=rollback"):
        resume(tmp_path / "run", ["train.steps=60", "schedule.extend=replan"])
    resume(tmp_path / "run", ["train.steps=60", "schedule.extend=replan", "train.on_nonfinite=rollback"])
    run = RunFolder(tmp_path / "run")
    assert run.info()["steps"] == 60 and last_finite(run.checkpoints).step == 60
    assert (tmp_path / "run" / "step-000000040.damaged").is_dir()


def test_an_older_record_is_of_a_run_that_stops():
    from dataclasses import asdict

    from seqlm.config.comparison import comparable_config

    from ..conftest import compose

    assert "on_nonfinite" not in json.dumps(comparable_config(asdict(compose(*TINY))))
    assert "on_nonfinite" in json.dumps(comparable_config(asdict(compose(*TINY, "train.on_nonfinite=skip"))))
