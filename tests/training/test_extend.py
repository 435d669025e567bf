"""A run with another end: its learning rate is asked for, its limits hold, and a finished run stays as it is."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import signal
import threading
import time

import pytest
import torch

import seqlm.training.launch
import seqlm.training.running
from seqlm.config.values import load_config
from seqlm.errors import ConfigError, Stopped
from seqlm.optim.averaging import Mean, Triggered
from seqlm.optim.schedules import Moment, WarmupCosine
from seqlm.runs import checkpoint, finding
from seqlm.runs.folder import RunFolder
from seqlm.runs.load import load_run
from seqlm.tasks.lm import LanguageModeling
from seqlm.training.assemble import assemble_session
from seqlm.training.launch import resume, train
from seqlm.training.plan import Plan
from seqlm.training.session import Progress
from seqlm.training.signals import StopSignal

from ..conftest import compose, tiny
from ..conftest import seqlm as command
from .test_resume import DROPOUT, losses, mutate_state, stop_at, weights

COSINE = ["schedule=cosine", "schedule.warmup_steps=4", "schedule.final=0.1", "train.log_every=1", "optim.lr=0.01"]
CHOICES = ("hold", "replan", "rewarm")


def rates(folder):
    return {record["step"]: record["train/lr"] for record in RunFolder(folder).records() if "train/lr" in record}


def files(folder):
    """Every file of a run with its content."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"}


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A finished run of 20 steps under a cosine."""
    folder = tmp_path_factory.mktemp("short")
    train(tiny(folder, *COSINE, *DROPOUT, "train.steps=20"), {})
    return folder / "run"


@pytest.fixture
def run(short, tmp_path):
    shutil.copytree(short, tmp_path / "run")
    return tmp_path / "run"


def expected(how, step):
    """The learning rate of the step after `step` of a run of 20 that was extended to 40."""
    cosine = WarmupCosine(warmup_steps=4, final=0.1)
    if step < 20:
        at = Moment(step, 0, step / 20)
    else:
        at = {"hold": Moment(step, 0, 1.0), "replan": Moment(step, 0, step / 40),
              "rewarm": Moment(step - 20, 0, (step - 20) / 20)}[how]  # fmt: skip
    return 0.01 * cosine.factor(at)


@pytest.mark.parametrize("how", CHOICES)
def test_the_learning_rate_goes_on_as_was_asked_for(run, how, capsys):
    resume(run, ["train.steps=40", f"schedule.extend={how}"])
    for step, rate in rates(run).items():
        assert rate == pytest.approx(expected(how, step - 1), rel=1e-9), step
    told = capsys.readouterr().out
    assert f"learning rate {expected(how, 19):.3g} so far, now {expected(how, 20):.3g}" in told
    assert f"(schedule.extend={how})" in told and len(rates(run)) == 40


def test_another_end_asks_what_becomes_of_the_learning_rate(run, tmp_path):
    before = files(run)
    failed = command("resume", run, "train.steps=40", cwd=tmp_path, check=False)
    assert failed.returncode == 2 and "Traceback" not in failed.stderr and failed.stdout == ""
    assert "planned to end at step 20, now at step 40" in failed.stderr
    lines = {line.split()[0]: line for line in failed.stderr.splitlines() if line.startswith("  schedule.extend=")}
    assert list(lines) == [f"schedule.extend={how}" for how in CHOICES]
    for how in CHOICES:
        assert f" {expected(how, 20):.3g}" in lines[f"schedule.extend={how}"]
    assert "up to 0.00951, 0.00106 at the end" in lines["schedule.extend=rewarm"]
    assert max(map(len, lines.values())) <= 100
    assert files(run) == before
    failed = command("resume", run, "train.steps=40", "schedule.extend=longer", cwd=tmp_path, check=False)
    assert failed.returncode == 2 and "schedule.extend=longer should be one of hold, replan, rewarm" in failed.stderr


@pytest.mark.parametrize("how", CHOICES)
@pytest.mark.parametrize("stop", [1, 9])
def test_an_extended_run_resumes_to_the_bit(short, tmp_path, how, stop, monkeypatch):
    for name in ("whole", "parts"):
        shutil.copytree(short, tmp_path / name)
    resume(tmp_path / "whole", ["train.steps=40", f"schedule.extend={how}"])
    stop_at(monkeypatch, stop)
    with pytest.raises(Stopped):
        resume(tmp_path / "parts", ["train.steps=40", f"schedule.extend={how}"])
    if stop == 9:  # killed instead: the newest checkpoint is that of the run before
        for newer in (step for step in checkpoint.steps(tmp_path / "parts" / "checkpoints") if step > 20):
            shutil.rmtree(tmp_path / "parts" / "checkpoints" / checkpoint.step_name(newer))
    resume(tmp_path / "parts", [])
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_the_plan_is_in_the_checkpoint(run, monkeypatch):
    """Without it the learning rate goes on otherwise."""
    stop_at(monkeypatch, 5)
    with pytest.raises(Stopped):
        resume(run, ["train.steps=40", "schedule.extend=hold"])
    mutate_state(monkeypatch, lambda state: state["progress"].pop("plan"))
    resume(run, [])
    assert rates(run)[25] == pytest.approx(expected("hold", 24)) != pytest.approx(rates(run)[26])


def test_an_unfinished_run_may_get_another_end_too(tmp_path, monkeypatch):
    stop_at(monkeypatch, 10)
    with pytest.raises(Stopped):
        train(tiny(tmp_path, *COSINE, "train.steps=20"), {})
    with pytest.raises(ConfigError, match="add one of"):
        resume(tmp_path / "run", ["train.steps=30"])
    resume(tmp_path / "run", ["train.steps=30", "schedule.extend=hold"])
    cosine = WarmupCosine(warmup_steps=4, final=0.1)
    for step, rate in rates(tmp_path / "run").items():
        assert rate == pytest.approx(0.01 * cosine.factor(Moment(step - 1, 0, min(1.0, (step - 1) / 20)))), step
    resume(tmp_path / "run", ["train.steps=36"])  # hold is in the config now
    assert rates(tmp_path / "run")[36] == pytest.approx(0.01 * 0.1)


def test_the_choice_may_be_made_when_a_run_is_started(tmp_path):
    train(tiny(tmp_path, *COSINE, "train.steps=20", "schedule.extend=rewarm"), {})
    resume(tmp_path / "run", ["train.steps=40"])
    assert rates(tmp_path / "run")[31] == pytest.approx(expected("rewarm", 30))


@pytest.mark.parametrize("schedule", ["constant", "plateau", "hold_decay", "milestones"])
def test_a_schedule_that_knows_no_end_just_goes_on(tmp_path, schedule, capsys):
    words = [f"schedule={schedule}", "train.eval_every=6", "data.tokens=560"]
    train(tiny(tmp_path, *words, "train.steps=30", name="whole"), {})
    train(tiny(tmp_path, *words, "train.steps=12", name="parts"), {})
    capsys.readouterr()
    resume(tmp_path / "parts", ["train.steps=30"])
    assert "learning rate" not in capsys.readouterr().out
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_an_average_of_the_last_part_begins_anew_with_the_plan():
    for averaging in (Mean(start=0.5), Triggered(patience=9, start=0.5)):
        weights = [torch.nn.Parameter(torch.ones(2))]
        averaging.update(weights, Moment(9, 0, 0.9))
        assert not averaging.restart(Moment(9, 0, 0.6)) and averaging.average
        assert averaging.restart(Moment(9, 0, 0.4)) and not averaging.average and averaging.steps == 0
        averaging.update(weights, Moment(9, 0, 0.4))
        assert not averaging.average
        averaging.update(weights, Moment(9, 0, 0.5))
        assert averaging.average


@pytest.mark.parametrize("how", CHOICES)
def test_the_average_of_an_extended_run(tmp_path, how, capsys):
    train(tiny(tmp_path, *COSINE, "averaging=mean", "averaging.start=0.5", "train.steps=20"), {})
    resume(tmp_path / "run", ["train.steps=24", f"schedule.extend={how}"])
    steps = finding.find(tmp_path / "run" / "checkpoints", "last", print).load_state()["averaging"]["steps"]
    assert ("the average of the weights starts again" in capsys.readouterr().out) == (how == "rewarm")
    assert steps == {"hold": 14, "replan": 14, "rewarm": 2}[how]


def test_a_plan_by_the_clock():
    plan = Plan(end=("seconds", 60.0), run_end=("seconds", 60.0))
    assert plan.moment(7, 1, 15.0) == Moment(7, 1, 0.25) and plan.moment(7, 1, 99.0).fraction == 1.0
    later = Plan(5, 1, 60.0, ("seconds", 80.0), ("seconds", 80.0))
    assert later.moment(7, 3, 65.0) == Moment(2, 2, 0.25)


def test_more_minutes_ask_too(tmp_path):
    train(tiny(tmp_path, *COSINE, "train.steps=null", "train.minutes=0.01"), {})
    with pytest.raises(ConfigError, match="planned to end at 0.01 minutes, now at 0.02 minutes"):
        resume(tmp_path / "run", ["train.minutes=0.02"])
    resume(tmp_path / "run", ["train.minutes=0.02", "schedule.extend=hold"])
    assert list(rates(tmp_path / "run").values())[-1] == pytest.approx(0.001, rel=0.1)


# ---- finished, and too little


def test_a_finished_run_says_so_and_stays_as_it_is(run, tmp_path):
    before = files(run)
    for words in ([], ["sample.tokens=3"], ["train.steps=20"]):
        said = command("resume", run, *words, cwd=tmp_path).stdout
        assert "is finished: 20 steps, best at step" in said and "nothing is changed" in said
        assert f"seqlm resume {run} train.steps=40" in said and len(said.splitlines()) == 2
        assert files(run) == before
    best = json.loads((run / "run.json").read_text())["metrics"]["valid/loss"]
    config = tiny(tmp_path, *COSINE, *DROPOUT, "train.steps=20", "resume=auto")
    assert train(config, {}).best == pytest.approx(best)


def test_a_run_that_stopped_early_is_told_what_would_go_on(tmp_path, capsys):
    train(tiny(tmp_path, "optim.lr=0", "train.patience=2", "train.eval_every=5", "schedule=constant"), {})
    resume(tmp_path / "run", [])
    assert "train.patience=4" in capsys.readouterr().out.splitlines()[-1]
    resume(tmp_path / "run", ["train.patience=4"])
    assert RunFolder(tmp_path / "run").info()["steps"] == 25


def test_a_limit_below_the_present_place_is_refused(tmp_path):
    train(tiny(tmp_path, "data.tokens=560", "train.steps=25"), {})
    before = files(tmp_path / "run")
    for word, reached in {"steps=24": "25 steps", "epochs=1": "2 epochs", "tokens=10": "700 tokens",
                          "minutes=1e-6": r"\S+ minutes"}.items():  # fmt: skip
        unit = word.partition("=")[0]
        with pytest.raises(ConfigError, match=f"^train.{unit}=\\S+ is too small: .*run has come to {reached}; give"):
            resume(tmp_path / "run", ["train.steps=null", f"train.{word}"])
    assert files(tmp_path / "run") == before


def test_a_run_without_a_checkpoint_says_that_it_starts_from_step_0(tmp_path, capsys):
    for name in ("whole", "parts"):
        train(tiny(tmp_path, "train.steps=8", name=name), {})
    folder = tmp_path / "parts" / "checkpoints"
    for state in folder.glob("step-*/state.pt"):
        state.write_bytes(b"damaged")
    damaged = {path.name for path in folder.iterdir()}
    for kept in ("checkpoints.damaged", "checkpoints.damaged.2"):
        capsys.readouterr()
        resume(tmp_path / "parts", [])
        said = capsys.readouterr().out
        assert "has no checkpoint that is whole: it starts from step 0" in said and kept in said
        assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
        assert {path.name for path in (tmp_path / "parts" / kept).iterdir()} == damaged
        for state in folder.glob("step-*/state.pt"):
            state.write_bytes(b"damaged")
    shutil.rmtree(folder)
    resume(tmp_path / "parts", [])
    assert "has no checkpoint yet: it starts from step 0" in capsys.readouterr().out
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


# ---- saving by the clock, signals, time that is up


def test_checkpoints_by_the_clock(tmp_path, capsys):
    assert (compose().checkpoint.every, compose().checkpoint.minutes) == (500, 10.0)
    words = ["checkpoint.every=null", "train.eval_every=100", "checkpoint.keep_last=99", "train.steps=6"]
    train(tiny(tmp_path, *words, "checkpoint.minutes=1e-9", name="often"), {})
    train(tiny(tmp_path, *words, name="never"), {})
    assert checkpoint.steps(tmp_path / "often" / "checkpoints") == [0, 1, 2, 3, 4, 5, 6]
    assert checkpoint.steps(tmp_path / "never" / "checkpoints") == [6]
    assert weights(tmp_path / "often") == weights(tmp_path / "never")
    assert capsys.readouterr().out.count(" s of it saving") == 2
    info = RunFolder(tmp_path / "often").info()
    assert 0 < info["saving_seconds"] < info["seconds"]


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGXCPU", "SIGTERM"])
def test_signals_save_and_leave(tmp_path, name, monkeypatch):
    number, steps, step = signal.Signals[name], itertools.count(1), seqlm.training.running.Console.step

    def send(console):
        step(console)
        if next(steps) == 5:
            os.kill(os.getpid(), number)

    before = [signal.getsignal(one) for one in StopSignal.HANDLED]
    monkeypatch.setattr(seqlm.training.running.Console, "step", send)
    with pytest.raises(Stopped, match="stopped at step 5, everything is saved") as caught:
        train(tiny(tmp_path), {})
    assert caught.value.exit_code == 128 + number
    assert RunFolder(tmp_path / "run").info()["status"] == "interrupted"
    assert finding.find(tmp_path / "run" / "checkpoints", "last", print).step == 5
    assert [signal.getsignal(one) for one in StopSignal.HANDLED] == before


def test_only_the_keyboard_leaves_at_once():
    """SIGXCPU comes every second, and `timeout` sends SIGTERM twice: what is being saved must not be cut short."""
    with StopSignal() as stop:
        for number in (signal.SIGXCPU, signal.SIGXCPU, signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)
        assert stop.number == signal.SIGXCPU
        with pytest.raises(KeyboardInterrupt):
            signal.signal(signal.SIGINT, stop._handle)
            stop._before[signal.SIGINT] = signal.default_int_handler
            left(stop)


def left(stop):
    """What a second Ctrl-C does, with Python's own handling in place of the system's, which ends the process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "SIG_DFL", signal.default_int_handler)
        signal.raise_signal(signal.SIGINT)


def test_nohup_is_honoured():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.number == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signals_are_left_alone_in_other_threads():
    found = []

    def enter():
        with StopSignal() as stop:
            found.append(stop.number)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [0]


TIMED = ["data.tokens=40000", "train.eval_batch_size=1", "train.steps=null", "schedule=plateau", "sample.tokens=0"]


def test_time_is_up_inside_an_evaluation(tmp_path, monkeypatch, capsys):
    """It ends there, is used for nothing, and the run says so."""
    calls, score = [], LanguageModeling.score

    def slowly(*arguments):
        calls.append(1)
        time.sleep(0.4)
        return score(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModeling, "score", slowly)
        train(tiny(tmp_path, *TIMED, "train.minutes=0.02", "train.eval_every=2"), {})
    run = RunFolder(tmp_path / "run")
    info, said = run.info(), capsys.readouterr().out
    assert info["status"] == "finished" and len(calls) <= 3, "there are 4 batches, and time for less than 3"
    assert "valid not used: time was up inside the evaluation" in said and "never evaluated" in said
    assert f"seqlm eval {run.path} split=test checkpoint=last" in said and info["seconds"] >= 1.2
    assert not any("valid/loss" in record for record in run.records()) and not info["metrics"]
    found = finding.find(run.checkpoints, "last", print)
    state = found.load_state()
    assert state["progress"]["ranks"] == [] and state["schedule"]["best"] == (math.inf, math.inf)
    assert state["progress"]["bad_evaluations"] == 0 and found.meta["rank"] is None
    with pytest.raises(ConfigError, match="checkpoint=best does not exist"):
        load_run(run.path)
    resume(run.path, ["train.steps=6", "train.minutes=9"])
    assert run.info()["metrics"]["valid/loss"] and load_run(run.path).checkpoint.step == 6


def test_time_is_kept_for_the_last_evaluation(tmp_path):
    session = assemble_session(tiny(tmp_path, *TIMED, "train.minutes=1"))
    ends = lambda **known: session.ended(Progress(step=5, **known))  # noqa: E731
    assert not ends(seconds=47.0, evaluation_seconds=10.0) and ends(seconds=47.6, evaluation_seconds=10.0)
    assert not ends(seconds=29.0, evaluation_seconds=999.0) and ends(seconds=30.1, evaluation_seconds=999.0)
    tokens = 10 * session.valid.targets  # before the first evaluation: half as long for a token as training takes
    assert not ends(seconds=56.0, tokens=tokens) and ends(seconds=57.0, tokens=tokens)


def test_a_signal_ends_an_evaluation_that_is_made_again(tmp_path, monkeypatch):
    words = ["train.steps=12", "train.eval_every=5", "data.tokens=40000", "train.eval_batch_size=1"]
    train(tiny(tmp_path, *words, name="whole"), {})
    calls, score = itertools.count(1), LanguageModeling.score

    def interrupted(*arguments):
        if next(calls) == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        return score(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Stopped, match="stopped at step 5"):
        patch.setattr(LanguageModeling, "score", interrupted)
        train(tiny(tmp_path, *words, name="parts"), {})
    assert not any("valid/loss" in record for record in RunFolder(tmp_path / "parts").records())
    resume(tmp_path / "parts", [])
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert load_config(tmp_path / "parts" / "config.yaml").train.steps == 12
