"""The space of a search as it is typed: its words, and errors that name the piece."""

from __future__ import annotations

import pytest

from seqlm.errors import ConfigError
from seqlm.sweep.space import parse_space


class Fixed:
    """A trial whose numbers are the ends that it is asked for, and what it was asked."""

    def __init__(self):
        self.asked = []

    def suggest_float(self, key, low, high, *, step, log):
        self.asked.append((key, low, high, step, log))
        return 0.00123456 if log else low + (step or 0)

    def suggest_int(self, key, low, high, *, step, log):
        self.asked.append((key, low, high, step, log))
        return high

    def suggest_categorical(self, key, options):
        self.asked.append((key, options))
        return options[-1]


def test_every_kind_has_its_words():
    text = (
        "optim.lr=log(1e-4, 1e-1)  train.clip_norm=float(0.1,0.9,0.2) model.dropout.inputs=uniform(0,1) "
        "model.hidden_size=int(100,400,50) train.bptt=logint(8,64) model=choice(lstm,gru) "
        "data.x=choice([1, 2],'a, (b',null)"
    )
    space, trial = parse_space(text), Fixed()
    assert [one.ends for one in space] == [
        ["optim.lr=0.0001", "optim.lr=0.1"],
        ["train.clip_norm=0.1", "train.clip_norm=0.9"],
        ["model.dropout.inputs=0.0", "model.dropout.inputs=1.0"],
        ["model.hidden_size=100", "model.hidden_size=400"],
        ["train.bptt=8", "train.bptt=64"],
        ["model=lstm", "model=gru"],
        ["data.x=[1, 2]", "data.x='a, (b'", "data.x=null"],
    ]
    words = [one.suggest(trial) for one in space]
    assert words[0] == "optim.lr=0.001235"  # four digits, which can be read and pasted
    assert words[1] == "train.clip_norm=0.3"  # not 0.30000000000000004
    assert words[3:6] == ["model.hidden_size=400", "train.bptt=64", "model=gru"]
    assert trial.asked[0] == ("optim.lr", 1e-4, 1e-1, None, True)
    assert trial.asked[3] == ("model.hidden_size", 100, 400, 50, False)
    assert trial.asked[4] == ("train.bptt", 8, 64, 1, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim.lr=log(1e-4,1e-1) model=chioce(lstm,gru)", "search: model=chioce(lstm,gru) (character 25): chioce"),
        ("a=log(0,1)", "a=log(0,1) (character 1): 0 has no logarithm; begin above 0"),
        ("a=float(2,1)", "2 must be below 1"),
        ("a=int(100,400,70)", "steps of 70 from 100 do not come to 400; end at 380"),
        ("a=int(1.5,3)", "1.5 is no whole number"),
        ("a=float(1,x)", "x is no number"),
        ("a=log(1,2,3)", "log takes two numbers"),
        ("a=float(0,inf)", "inf is not finite"),
        ("a=log(1,2) +a=int(1,2)", "+a=int(1,2) (character 12): +a is searched twice"),
        ("a=choice(x)", "choice needs two options or more"),
        ("a=choice(x,x)", "each once"),
        ("a = log(1,2)", "without spaces around =; allowed: log(a,b), float(a,b[,step])"),
        ("a=0.1", "a=0.1 (character 1): write key=kind(...)"),
        ("  ", "search= is empty"),
    ],
)
def test_a_mistake_is_told_with_its_piece_and_place(text, message):
    with pytest.raises(ConfigError) as raised:
        parse_space(text)
    assert message in str(raised.value)
