"""What a training shows of its inside when asked: weights, gradients, diagnoses, time. None of it changes a bit."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seqlm.commands.eval import evaluate_run
from seqlm.errors import ConfigError, Stopped
from seqlm.runs.folder import RunFolder
from seqlm.training.launch import resume, train
from seqlm.training.loggers.base import Logger, Opening
from seqlm.training.loggers.run_logger import RunLogger

from ..conftest import seqlm, tiny
from .test_resume import stop_at


def events(folder):
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0, "images": 0})
    found.Reload()
    return found


def losses(folder):
    records = RunFolder(folder).records()
    return [(one["step"], one["train/loss"]) for one in records if "train/loss" in one]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    train(tiny(folder), {})
    return folder / "run"


def test_weights_and_gradients_on_request(tmp_path, plain):
    train(tiny(tmp_path, "train.log_parameters=20"), {})
    run = RunFolder(tmp_path / "run")
    assert losses(run.path) == losses(plain)
    records = [one for one in run.records() if "weight_norm/embedding.weight" in one]
    assert [one["step"] for one in records] == [20, 40]
    weights = load_file(run.checkpoints / "step-000000040" / "model.safetensors")
    names = sorted(weights)
    for name, parameter in weights.items():
        assert records[-1][f"weight_norm/{name}"] == pytest.approx(float(parameter.norm()), rel=1e-5)
    whole = sum(records[-1][f"gradient_norm/{name}"] ** 2 for name in names) ** 0.5
    assert 0 < whole <= 1.0001, "as the optimizer sees it: clipped"
    assert set(events(run.path).Tags()["histograms"]) == {
        f"{kind}/{name}" for kind in ("weight", "gradient") for name in names
    }


def test_diagnoses_while_a_run_trains(tmp_path, plain):
    pytest.importorskip("matplotlib")
    common = ["data.tokens=8000", "model.dropout.hidden=0.3"]
    words = [*common, "diagnose.every=20"]
    train(tiny(tmp_path, *common, name="plain"), {})
    train(tiny(tmp_path, *words), {})
    run = RunFolder(tmp_path / "run")
    assert losses(run.path) == losses(tmp_path / "plain"), "it draws nothing, and leaves the model in train mode"
    found = [one for one in run.records() if "diagnose/context" in one]
    assert [one["step"] for one in found] == [20, 40]
    assert 0 <= found[0]["diagnose/gradient_left/layer1.h"] < 1 and found[0]["diagnose/stuck/layer0.forget"] <= 1
    seen = events(run.path)
    assert set(seen.Tags()["images"]) == {f"diagnose/{name}" for name in ("gradients", "spectra", "context", "gates")}
    assert [one.step for one in seen.Images("diagnose/gates")] == [20, 40]


def test_without_matplotlib_there_are_numbers_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    train(tiny(tmp_path, "diagnose.every=40", "data.tokens=8000"), {})
    assert any("diagnose/context" in one for one in RunFolder(tmp_path / "run").records())
    assert "note: pictures of diagnose.every need matplotlib" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.tokens=600"], "diagnose.every=5: split=valid has"),
        (["task=tagging", "model=tagger", "data=taipei"], "diagnose.every=5: this is no language model"),
    ],
)
def test_a_run_that_cannot_be_diagnosed_is_refused_before_it_begins(tmp_path, words, message):
    done = seqlm("train", "threads=1", "data=markov", "diagnose.every=5", *words, cwd=tmp_path, check=False)
    assert done.returncode == 2 and message in done.stderr and not (tmp_path / "outputs").exists()


def test_points_over_tokens(tmp_path, monkeypatch):
    """An interrupted, resumed and evaluated run has its points at tokens, once each, and in order."""
    words = ["logger.tensorboard.x_axis=tokens", "train.steps=30"]
    with pytest.raises(Stopped), monkeypatch.context() as patch:
        stop_at(patch, 17)
        train(tiny(tmp_path, *words), {})
    resume(tmp_path / "run", [])
    evaluate_run(str(tmp_path / "run"), ["split=test"], as_json=True)
    run = RunFolder(tmp_path / "run")
    seen = events(run.path)
    at = {one["step"]: one["tokens"] for one in run.records()}
    assert [one.step for one in seen.Scalars("train/loss")] == [at[step] for step in range(3, 31, 3)]
    assert [one.step for one in seen.Scalars("valid/ppl")] == [at[15], at[30]]
    assert all(one.step in at.values() for one in seen.Scalars("test/ppl"))
    with pytest.raises(ConfigError, match=r"logger.tensorboard.x_axis=epoch should be one of step, tokens"):
        train(tiny(tmp_path, "logger.tensorboard.x_axis=epoch", name="other"), {})


def test_a_run_that_goes_back_goes_back_in_tokens(tmp_path):
    class Heard(Logger):
        local, x_axis = True, "tokens"

        def open(self, opening):
            self.steps = [opening.step]

        def back_to(self, step):
            self.steps.append(step)

        def scalars(self, step, values):
            self.steps.append(step)

    heard = Heard()
    logger = RunLogger(Opening(tmp_path, 3, False, tokens=300), {"heard": heard})
    logger.scalars(4, 400, 1.0, {"train/loss": 1.0})
    logger.back_to(2, 200)
    logger.best(3, 300, "ppl", 4.0)
    logger.close("finished")
    assert heard.steps == [300, 400, 200, 300]


def test_where_the_time_of_a_step_goes(tmp_path):
    small = ["debug=profile", "data=markov", "model.hidden_size=8", "train.batch_size=4", "train.bptt=7", "threads=1"]
    done = seqlm("train", *small, "run.name=p", cwd=tmp_path)
    lines = done.stdout.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("profile of 20 steps"))
    parts = {line.split("  ")[1]: line for line in lines[start + 1 : start + 5]}
    assert list(parts) == ["forward", "backward", "optimizer", "the rest"]
    shares = [float(line.split()[-1].rstrip("%")) for line in parts.values()]
    assert sum(shares) == pytest.approx(100, abs=0.3) and min(shares) >= 0
    trace = json.loads((tmp_path / "outputs" / "p" / "profile.json").read_text())
    assert {"forward", "backward", "optimizer"} <= {one.get("name") for one in trace["traceEvents"]}
    assert torch.autograd.profiler._is_profiler_enabled is False
