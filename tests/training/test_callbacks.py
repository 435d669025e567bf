"""Callbacks: when they are called, how they end a run, how they fail, and that they change no bit of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import seqlm
from seqlm import Callback, StopTraining
from seqlm.errors import CallbackError, ConfigError
from seqlm.runs import checkpoint
from seqlm.runs.folder import RunFolder
from seqlm.training.callbacks import PruneTraining
from seqlm.training.launch import resume, train

from ..conftest import seqlm as command
from ..conftest import tiny

SHORT = ["train.steps=12", "train.eval_every=5", "checkpoint.every=4", "schedule=constant", "sample.tokens=0"]

MINE = """
import seqlm

class Count(seqlm.Callback):
    def __init__(self, *, most: int) -> None:
        self.most, self.seen = most, 0

    def on_step(self, state):
        self.seen += 1
        state.log({"mine/seen": self.seen})
        if self.seen == self.most:
            raise seqlm.StopTraining("enough seen")

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]

class Broken(seqlm.Callback):
    def on_step(self, state):
        return 1 / 0

class Unmade(seqlm.Callback):
    def __init__(self) -> None:
        raise RuntimeError("no server")

class Stranger:
    pass
"""


class Diary(Callback):
    """Writes down every call."""

    def __init__(self):
        self.calls, self.states = [], []

    def on_step(self, state):
        assert state.loss > 0 and state.grad_norm > 0 and state.model.training
        self.calls.append(f"step {state.step}")

    def on_evaluation(self, state):
        assert set(state.metrics) == {"loss", "ppl", "bpc"} and state.improved == (
            state.progress.best_step == state.step
        )
        self.calls.append(f"evaluation {state.step}")

    def on_save(self, state):
        assert not checkpoint.verify(state.checkpoint)
        self.calls.append(f"save {state.checkpoint.name[-2:]}")

    def on_end(self, state):
        self.calls.append(f"end {state.status}")


class At(Callback):
    """Does something in one of its hooks, at one step."""

    def __init__(self, hook, step, action):
        self.hook, self.step, self.action = hook, step, action

    def _act(self, hook, state):
        if (hook, state.step) == (self.hook, self.step):
            self.action()

    def on_step(self, state):
        self._act("on_step", state)

    def on_evaluation(self, state):
        self._act("on_evaluation", state)

    def on_save(self, state):
        self._act("on_save", state)

    def on_end(self, state):
        self._act("on_end", state)


class Decay(Callback):
    """Shrinks the weights by what it has seen of the loss: its attribute decides every later step."""

    def __init__(self):
        self.seen = 0.0

    def on_step(self, state):
        self.seen += state.loss
        for parameter in state.model.parameters():
            parameter.mul_(1 - 1e-3 * self.seen)

    def state_dict(self):
        return {"seen": self.seen, "kept": [torch.tensor(1.0), {"deep": (None, True, "text")}]}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def stop():
    raise StopTraining("it is enough")


def fail():
    raise RuntimeError("no more")


def weights(run):
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def equal(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def last(folder):
    return weights(seqlm.load_run(folder, checkpoint="last"))


def test_every_hook_is_called_in_its_order(tmp_path):
    diary = Diary()
    train(tiny(tmp_path, *SHORT, "train.steps=6"), {}, callbacks=[diary])
    assert diary.calls == [
        "save 00", "step 1", "step 2", "step 3", "step 4", "save 04", "step 5", "evaluation 5", "save 05", "step 6",
        "evaluation 6", "save 06", "end finished",
    ]  # fmt: skip
    assert seqlm.load_run(tmp_path / "run").folder.info()["callbacks"] == [f"{Diary.__module__}.Diary"]


@pytest.mark.parametrize(("hook", "step"), [("on_step", 7), ("on_evaluation", 5), ("on_save", 8), ("on_save", 10)])
def test_a_callback_ends_a_run_as_a_limit_does(tmp_path, capsys, hook, step):
    diary = Diary()
    train(tiny(tmp_path, *SHORT), {}, callbacks=[At(hook, step, stop), diary])
    assert f"step {step:>7}  ended by callback {At.__module__}.At: it is enough" in capsys.readouterr().out
    run = seqlm.load_run(tmp_path / "run", checkpoint="last")
    info = run.folder.info()
    assert (info["status"], info["steps"], run.checkpoint.step) == ("finished", step, step)
    assert info["stopped_by"].endswith("At: it is enough")
    assert run.records[-1]["step"] == step and "valid/loss" in run.records[-1]
    assert diary.calls.count(f"evaluation {step}") == 1 and diary.calls[-1] == "end finished"
    resume(tmp_path / "run", [])
    info = run.folder.info()
    assert (info["steps"], info["callbacks"], info["stopped_by"]) == (12, [], None)


def test_a_pruned_run_has_a_checkpoint_and_is_resumed_all_the_same(tmp_path, capsys):
    class Ends(Diary):
        def on_evaluation(self, state):
            self.states.append(state.ended)

    def prune():
        raise PruneTraining("below the others")

    train(tiny(tmp_path, *SHORT), {}, callbacks=[At("on_evaluation", 5, prune)])
    run = seqlm.load_run(tmp_path / "run", checkpoint="last")
    info = run.folder.info()
    assert (info["status"], info["steps"], run.checkpoint.step) == ("pruned", 5, 5)
    assert info["stopped_by"].endswith("At: below the others")
    capsys.readouterr()
    ends = Ends()
    resume(tmp_path / "run", [], callbacks=[ends])
    assert "was pruned at step 5; its training is resumed all the same" in capsys.readouterr().out
    assert run.folder.info()["status"] == "finished" and ends.states == [False, True]


@pytest.mark.parametrize(("hook", "step", "saved"), [("on_step", 2, 0), ("on_step", 7, 5), ("on_save", 8, 8)])
def test_a_failing_callback_is_named_and_leaves_whole_checkpoints(tmp_path, hook, step, saved):
    diary = Diary()
    with pytest.raises(CallbackError) as raised:
        train(tiny(tmp_path, *SHORT), {}, callbacks=[diary, At(hook, step, fail)])
    message = str(raised.value)
    assert message.startswith(f"callback {At.__module__}.At failed in {hook}: RuntimeError: no more (test_callbacks.py")
    assert f"step {step} of {tmp_path / 'run'}; it" in message and isinstance(raised.value.__cause__, RuntimeError)
    assert (
        f"its newest checkpoint is of step {saved}. Resume it with: seqlm.resume('{tmp_path / 'run'}', callbacks=[...])"
        in message
    )
    run = RunFolder.open(tmp_path / "run")
    assert run.status() == "failed" and diary.calls[-1] == "end failed"
    assert all(
        not checkpoint.verify(run.checkpoints / f"step-{step:09d}") for step in checkpoint.steps(run.checkpoints)
    )
    assert resume(tmp_path / "run", []).run.status() == "finished"


def test_a_failure_at_the_end_of_a_finished_run_is_told_and_it_stays_finished(tmp_path, capsys):
    with pytest.raises(CallbackError, match="failed in on_end"):
        train(tiny(tmp_path, *SHORT), {}, callbacks=[At("on_end", 12, fail)])
    assert seqlm.load_run(tmp_path / "run").folder.status() == "finished"
    with pytest.raises(CallbackError, match="failed in on_step"):  # the first error is the one that counts
        train(tiny(tmp_path, *SHORT, name="other"), {}, callbacks=[At("on_step", 3, fail), At("on_end", 3, fail)])
    assert "note: callback" in (told := capsys.readouterr().err) and "At#2 failed in on_end" in told


def test_a_callback_that_looks_on_changes_no_bit(tmp_path):
    class Draws(Callback):
        def on_step(self, state):
            torch.rand(3)
            state.model.eval()

        on_evaluation = on_save = on_step

    dropout = ["model.dropout.input=0.3", "model.dropout.hidden=0.2"]
    train(tiny(tmp_path, *SHORT, *dropout), {})
    train(tiny(tmp_path, *SHORT, *dropout, name="watched"), {}, callbacks=[Draws()])
    assert equal(last(tmp_path / "run"), last(tmp_path / "watched"))


@pytest.mark.parametrize("step", [6, 11])
def test_a_callback_with_a_state_resumes_to_the_bit(tmp_path, step):
    train(tiny(tmp_path, *SHORT), {}, callbacks=[Decay(), Decay()])
    with pytest.raises(CallbackError):
        train(tiny(tmp_path, *SHORT, name="again"), {}, callbacks=[Decay(), Decay(), At("on_step", step, fail)])
    resume(tmp_path / "again", [], [Decay(), Decay()])
    assert equal(last(tmp_path / "run"), last(tmp_path / "again"))

    class Forgets(Decay):  # the mutant: it changes later steps and says nothing of it
        state_dict = Callback.state_dict

    with pytest.raises(CallbackError):
        train(tiny(tmp_path, *SHORT, name="forgot"), {}, callbacks=[Forgets(), Forgets(), At("on_step", step, fail)])
    resume(tmp_path / "forgot", [], [Forgets(), Forgets()])
    assert not equal(last(tmp_path / "run"), last(tmp_path / "forgot"))


def test_a_state_that_nobody_takes_is_told(tmp_path, capsys):
    train(tiny(tmp_path, *SHORT), {}, callbacks=[Decay()])
    resume(tmp_path / "run", ["train.steps=13"])
    assert f"note: callback {Decay.__module__}.Decay was not given this time" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "where", "kind"),
    [({"a": [1.0, np.float64(2)]}, "['a'][1]", "numpy.float64"), ({"b": {3}}, "['b']", "set"),
     ({np.int64(1): 2}, " key", "numpy.int64"), (Diary(), "", f"{Diary.__module__}.Diary")],
)  # fmt: skip
def test_a_state_that_could_not_be_loaded_is_never_saved(tmp_path, state, where, kind):
    class Odd(Callback):
        def state_dict(self):
            return state

    with pytest.raises(CallbackError) as raised:
        train(tiny(tmp_path, *SHORT), {}, callbacks=[Odd()])
    assert f"Odd: state_dict(){where} is of type {kind};" in str(raised.value)
    assert not checkpoint.steps(tmp_path / "run" / "checkpoints")


def test_values_are_logged_beside_those_of_the_run(tmp_path):
    class Logs(Callback):
        def on_step(self, state):
            state.log({"mine/square": state.step**2})

    train(tiny(tmp_path, *SHORT), {}, callbacks=[Logs()])
    records = seqlm.load_run(tmp_path / "run").records
    assert [one["mine/square"] for one in records if "mine/square" in one] == [step**2 for step in range(1, 13)]

    class Poaches(Callback):
        def on_step(self, state):
            state.log({"valid/loss": 0.0})

    with pytest.raises(CallbackError, match="valid/loss is a name of the run's own"):
        train(tiny(tmp_path, *SHORT, name="other"), {}, callbacks=[Poaches()])


class Misspelt(Callback):
    def on_evaluate(self, state):
        pass


@pytest.mark.parametrize(
    ("given", "message"),
    [(Diary, r"callbacks\[0\]=Diary is a class; give an object, Diary\(...\)"), (print, "is no callback; derive"),
     (Misspelt(), "Misspelt.on_evaluate would never be called; did you mean on_evaluation")],
)  # fmt: skip
def test_what_is_no_callback_is_refused_before_anything_is_written(tmp_path, given, message):
    with pytest.raises(ConfigError, match=message):
        train(tiny(tmp_path, *SHORT), {}, callbacks=[given])
    assert not list(tmp_path.iterdir())


@pytest.fixture
def mylab(tmp_path):
    (tmp_path / "mylab.py").write_text(MINE)
    return tmp_path


def run_with(folder, node, *words, check=True):
    overrides = [*tiny_words(folder), *SHORT, f"callbacks=[{node}]", *words]
    return command("train", *overrides, cwd=folder, check=check)


def tiny_words(folder):
    from ..conftest import TINY

    return [*TINY, f"run.root={folder}", "run.name=run"]


def test_a_config_names_callbacks_under_trust(mylab):
    done = run_with(mylab, "{_target_: mylab.Count, most: 7}", "trust=[mylab.]")
    assert "step       7  ended by callback mylab.Count: enough seen" in done.stdout
    logged = [json.loads(line).get("mine/seen") for line in (mylab / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(filter(None, logged)) == 7
    assert seqlm.load_run(mylab / "run").checkpoint.step, "who only reads the run needs no trust"
    refused = command("resume", "run", cwd=mylab, check=False)
    assert refused.returncode == 2 and "callbacks.0._target_=mylab.Count is outside the trusted code" in refused.stderr
    command("resume", "run", "trust=[mylab.]", cwd=mylab)
    assert json.loads((mylab / "run" / "run.json").read_text())["steps"] == 12, "it had counted to 7 already"
    command("resume", "run", "callbacks=[]", "train.steps=14", cwd=mylab)


@pytest.mark.parametrize(
    ("node", "code", "message"),
    [("{_target_: mylab.Broken}", 1, "callback mylab.Broken failed in on_step: ZeroDivisionError: division by zero "
      "(mylab.py, line 22)\nThat was at step 1 of "),
     ("{_target_: mylab.Unmade}", 1, "callbacks.0: mylab.Unmade could not be made: RuntimeError: no server (mylab.py"),
     ("{_target_: mylab.Stranger}", 2, "is no callback; derive its class from seqlm.Callback"),
     ("{_target_: mylab.Count}", 2, "callbacks.0.most is required by Count"),
     ("{_target_: mylab.Count, mots: 3}", 2, "callbacks.0.mots is not an argument of Count; did you mean"),
     ("{_target_: mylab.Count, most: 3}, 3", 2, "callbacks.1=3 is not a part"),
     ("{most: 3}", 2, "callbacks.0._target_=(missing)"), ("3", 2, "callbacks.0=3 is not a part")],
)  # fmt: skip
def test_failures_end_in_a_few_lines(mylab, node, code, message):
    done = run_with(mylab, node, "trust=[mylab.]", check=False)
    assert done.returncode == code and message in done.stderr and "Traceback" not in done.stderr
    assert (mylab / "run").exists() == ("Broken" in node)


def test_what_should_be_a_list_is_told(mylab):
    for word in ("callbacks={_target_: mylab.Count, most: 3}", "trust=mylab."):
        done = run_with(mylab, "", word, check=False)
        assert done.returncode == 2 and f"{word} should be a list" in done.stderr


def test_a_module_that_cannot_be_imported_is_named(tmp_path):
    (tmp_path / "mylab.py").write_text("class X(:\n")
    done = run_with(tmp_path, "{_target_: mylab.X}", "trust=[mylab.]", check=False)
    assert done.returncode == 2 and "callbacks.0._target_=mylab.X: mylab fails, SyntaxError" in done.stderr


def test_python_passes_trust_on(mylab, monkeypatch):
    monkeypatch.syspath_prepend(str(mylab))
    node = {"_target_": "mylab.Count", "most": 5}
    run = seqlm.train(*tiny_words(mylab), *SHORT, {"callbacks": [node], "trust": ["mylab."]})
    assert run.folder.info()["stopped_by"] == "mylab.Count: enough seen"
