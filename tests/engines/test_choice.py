"""What is measured decides, is remembered by the machine, and belongs to the run."""

from __future__ import annotations

import fcntl
import json
from functools import partial

import pytest
import torch

from seqlm.cells import GRUCell, JordanCell, LSTMCell
from seqlm.engines import pick
from seqlm.engines.choice import MOST_ROUNDS, Choices, length_class, measure, measured, shape_class
from seqlm.layers import Recurrent


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine that has measured nothing yet: the folder of what it measures."""
    monkeypatch.setenv("SEQLM_CACHE", str(tmp_path))
    monkeypatch.delenv("SEQLM_TUNE")
    return tmp_path / "choices"


def ways(**seconds):
    """Trials that take so long, as they say, and the list of those that were made."""
    tried = []

    def trial(name):
        tried.append(name)
        return seconds[name]

    return {name: (lambda name=name: trial(name)) for name in seconds}, tried


def test_the_fastest_is_chosen_and_of_equals_the_first(machine):
    choices = Choices()
    assert choices.choose("a", ways(usual=1.0, other=0.5)[0]) == "other"
    assert choices.choose("b", ways(usual=1.0, other=0.99)[0]) == "usual"
    assert choices.choose("c", ways(only=1.0)[0]) == "only" and "c" not in choices.made
    assert choices.times_as_fast("a", "other", "usual") == 2
    assert choices.times_as_fast("b", "other", "nobody") is None is choices.times_as_fast("z", "x", "y")


def test_a_short_pause_of_the_machine_does_not_decide(machine):
    for pause in range(4):
        tried = []

        def interrupted(tried=tried, pause=pause):
            tried.append(0.015 if len(tried) == pause else 0.004)
            return tried[-1]

        several = {"interrupted": interrupted, "steady": lambda: 0.007}
        assert Choices().choose(f"a pause at {pause}", several) == "interrupted"
        assert MOST_ROUNDS / 2 < len(tried) <= MOST_ROUNDS + 2


def test_what_was_slow_for_long_is_not_tried_again(machine):
    tried = []

    def interrupted():
        tried.append(0.5 if len(tried) == 1 else 0.004)  # after the first trial, which does not count
        return tried[-1]

    assert Choices().choose("a", {"interrupted": interrupted, "steady": lambda: 0.007}) == "steady"
    assert len(tried) == 2


def test_what_is_made_at_first_does_not_count_and_what_is_hopeless_is_not_tried_again(machine):
    seconds, tried = {"slow at first": iter([0.9, 0.11, 0.08]), "hopeless": iter([1.0])}, []

    def trial(name, usual):
        tried.append(name)
        return next(seconds[name], usual)

    several = {name: partial(trial, name, usual) for name, usual in [("hopeless", 0.2), ("slow at first", 0.07)]}
    several["neither"] = lambda: 0.09
    assert measure(several) == {"hopeless": 0.2, "slow at first": 0.07, "neither": 0.09}
    assert tried.count("hopeless") == 3 and tried.count("slow at first") > 4


def test_no_way_always_follows_the_same_one(machine):
    three, tried = ways(a=0.001, b=0.001, c=0.001)
    Choices().choose("a", three)
    assert "".join(tried[:6]) == "aabbcc"
    assert {"".join(tried[at : at + 3]) for at in range(6, len(tried), 3)} == {"abc", "cba"}


def test_what_was_measured_once_is_not_measured_again(machine):
    assert Choices().choose("a", ways(usual=1.0, other=0.5)[0]) == "other"
    again, tried = ways(usual=0.1, other=0.5)
    assert Choices().choose("a", again) == "other" and not tried
    assert Choices().choose("a", ways(usual=1.0, third=0.5)[0]) == "third"  # `other` is gone: asked anew


def test_measured_anew_another_must_win_clearly(machine):
    first = Choices()
    first.choose("a", ways(usual=1.0, other=0.9)[0])
    for usual, expected in [(0.85, "other"), (0.7, "usual")]:  # beside 0.9: by 6 %, by 28 %
        anew = Choices()
        anew.again = True
        assert anew.choose("a", ways(usual=usual, other=0.9)[0]) == expected


@pytest.mark.parametrize(
    "damage",
    [lambda text: "", lambda text: "{", lambda text: "[]", lambda text: "[" * 100_000, lambda text: "{}",
     lambda text: json.dumps(json.loads(text)["answers"]), lambda text: text.replace("0.5", "0.4")],
)  # fmt: skip
def test_a_damaged_file_is_measured_anew(machine, damage):
    Choices().choose("a", ways(usual=1.0, other=0.5)[0])
    (file,) = machine.glob("*.json")
    file.write_text(damage(file.read_text()))
    assert Choices().choose("a", ways(usual=0.5, other=1.0)[0]) == "usual"
    assert json.loads(file.read_text())["answers"]["a"]["way"] == "usual"


def test_without_a_folder_it_is_measured_all_the_same(machine, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SEQLM_CACHE", str(tmp_path / "file"))
    assert Choices().choose("a", ways(usual=1.0, other=0.5)[0]) == "other"


def test_nobody_waits_for_a_process_that_was_stopped(machine, monkeypatch):
    monkeypatch.setattr("seqlm.engines.choice.PATIENCE", 0.1)
    machine.mkdir(mode=0o700)
    with (machine / ".lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert Choices().choose("a", ways(usual=1.0, other=0.5)[0]) == "other"
        monkeypatch.setattr("seqlm.engines.choice.PATIENCE", 1e9)
        assert Choices().times_as_fast("a", "other", "usual") is None  # only reads: waits for nobody
    assert not list(machine.glob("*.json"))


def test_beside_other_processes_nothing_is_measured(machine, monkeypatch):
    monkeypatch.setenv("SEQLM_TUNE", "0")
    several, tried = ways(usual=1.0, other=0.5)
    assert Choices().choose("a", several) == "usual" and not tried and not machine.exists()


def test_a_way_that_torch_lacks_is_no_error(machine):
    def absent():
        return torch.ops.mkldnn.no_such_operation(torch.ones(1))

    assert Choices().choose("a", {"usual": absent, "other": lambda: 1.0}) == "other"


def test_a_trial_may_ask_a_question_of_its_own(machine):
    choices = Choices()

    def outer():
        return 1.0 if choices.choose("inner", ways(usual=1.0, other=0.5)[0]) == "usual" else 0.1

    assert choices.choose("outer", {"usual": lambda: 0.5, "other": outer}) == "other"
    (file,) = machine.glob("*.json")
    assert json.loads(file.read_text())["answers"].keys() == {"inner", "outer"}


def test_a_run_goes_on_with_its_choices(machine):
    choices, kept = Choices(), []
    choices.choose("a", ways(usual=1.0, other=0.5)[0])
    with choices.of_run({"a": "usual"}):
        choices.keep(lambda made: kept.append(dict(made)))
        assert choices.choose("a", ways(usual=1.0, other=0.5)[0]) == "usual"
        assert choices.choose("b", ways(usual=1.0, other=0.5)[0]) == "other"
        assert kept == [{"a": "usual"}, {"a": "usual", "b": "other"}]
    assert choices.made == {"a": "other"}
    choices.choose("c", ways(usual=1.0, other=0.5)[0])
    assert len(kept) == 2


def test_what_is_alike_is_one_question():
    assert shape_class(1, 7, 20, 32, 650, 2600, 10_000) == "1x7x20x32x768x3072x10240"
    assert [length_class(steps, 32) for steps in (1, 2, 3, 20, 70)] == [1, 2, 4, 32, 32]


def test_the_engine_is_measured_for_the_shape_it_is_used_at(machine):
    layer = Recurrent(GRUCell(4, 5))
    assert layer.plan.reason.startswith("the usual one, not measured")
    random = torch.get_rng_state()
    layer(torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0)), layer.init_carry(2))
    assert torch.equal(torch.get_rng_state(), random)
    assert "times as fast as" in layer.plan.reason
    (file,) = machine.glob("*.json")
    (question,) = json.loads(file.read_text())["answers"]
    assert question == f"training by GRUCell of 4x2x4x5, float32, {torch.get_num_threads()} threads"
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(3, 2, 4), layer.init_carry(2))
    asked = json.loads(file.read_text())["answers"]
    assert any(question.startswith("reading") and "bfloat16" in question for question in asked)


@pytest.mark.parametrize("engine", ["fused", "native"])
def test_a_choice_that_was_made_is_taken(monkeypatch, engine):
    question = f"training by LSTMCell of 4x2x4x5, float32, {torch.get_num_threads()} threads"
    with measured.of_run({question: engine}):
        assert pick(LSTMCell(4, 5), "auto", 3, 2).engine == engine
        assert pick(JordanCell(4, 5), "auto", 3, 2).engine == "deferred"
