"""Penalties by name and of one's own; what they compute is in test_regularisers.py."""

from __future__ import annotations

import pytest

from seqlm.errors import ConfigError
from seqlm.tasks.penalties import PENALTIES
from seqlm.training.launch import train

from ..conftest import tiny

OWN = """
class Mean:
    def __init__(self, weight):
        self.weight = weight

    def __call__(self, reading):
        return self.weight * reading.top.mean()
"""


def test_a_penalty_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "mylab.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    losses = [
        train(tiny(tmp_path, "train.steps=9", *words, name=f"run{index}"), {}).best
        for index, words in enumerate(
            [
                [],
                *(
                    [f"+task.penalties.mean={{_target_: mylab.Mean, weight: {weight}}}", "trust=[mylab.]"]
                    for weight in (0.0, 9.0)
                ),
            ]
        )
    ]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("task", ["task=lm", "task=bilm model=bilm"])
@pytest.mark.parametrize(("word", "message"), [
    ("task.penalties.activation=-1", "^task.penalties.activation=-1 must be at least 0$"),
    ("task.penalties.temporal=inf", "^task.penalties.temporal=inf must be at least 0$"),
    ("task.penalties.activation=much", "^task.penalties.activation=much should be a number"),
    ("+task.penalties.activity=1", f"^task.penalties.activity is unknown; there are: {', '.join(PENALTIES)}$"),
    ("+task.penalties.mean={_target_: mylab.Mean, weight: 1}", "mylab.Mean is outside the trusted code"),
])  # fmt: skip
def test_what_cannot_be(tmp_path, task, word, message):
    with pytest.raises(ConfigError, match=message):
        train(tiny(tmp_path, *task.split(), word), {})
