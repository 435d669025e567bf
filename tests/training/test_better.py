"""One notion of a better evaluation: the best checkpoint, patience, schedules and averages all follow it."""

from __future__ import annotations

import json

import pytest

from seqlm.config.migrate import migrate_progress
from seqlm.optim.averaging import NonMonotone, Triggered, is_nonmonotone
from seqlm.optim.schedules import DivideOnPlateau, Moment
from seqlm.runs.folder import RunFolder
from seqlm.training.launch import train
from seqlm.training.session import Progress

from ..conftest import compose

START = Moment(0, 0, 0.0)
# F1 stands still at 0 while the loss falls: the beginning of most runs of task=tagging.
EQUAL = [
    "task=tagging", "model=tagger", "data=taipei", "data.sentences=40", "model.hidden_size=4", "train.steps=12",
    "train.eval_every=2", "train.log_every=2", "train.batch_size=4", "optim.lr=0.001", "threads=1", "sample.tokens=0",
]  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        ["schedule=plateau"],
        ["schedule=constant", "averaging=triggered", "averaging.patience=1", "averaging.start=0.99"],
        ["schedule=constant", "averaging=nt_asgd", "averaging.patience=0"],
        ["schedule=constant", "train.patience=1", "train.nonmonotone=0"],
    ],
)
def test_equal_f1_and_a_lower_loss_is_better_everywhere(tmp_path, words):
    train(compose(*EQUAL, *words, f"run.root={tmp_path}", "run.name=run"), {})
    run = RunFolder.open(tmp_path / "run")
    records = run.records()
    judged = [(one["valid/f1"], one["valid/loss"]) for one in records if "valid/f1" in one]
    assert len(judged) == 6 and {f1 for f1, _ in judged} == {0} and judged == sorted(judged, reverse=True)
    assert run.info()["best_step"] == 12
    assert {one["train/lr"] for one in records if "train/lr" in one} == {0.001}
    assert not json.loads((run.checkpoints / "step-000000012" / "meta.json").read_text())["averaged"]


def test_a_tie_with_a_higher_loss_is_no_improvement_anywhere():
    ranks = [(-0.5, 1.0), (-0.5, 1.1)]
    progress, schedule, triggered, nonmonotone = Progress(), DivideOnPlateau(divisor=4), Triggered(), NonMonotone()
    triggered.patience, nonmonotone.patience = 1, 0
    for monitored, loss in ranks:
        progress.observe(monitored, {"loss": loss})
        schedule.observe((monitored, loss))
    triggered.observe(ranks)
    nonmonotone.observe(ranks)
    assert progress.bad_evaluations == 1 and schedule.factor(START) == 1 / 4
    assert triggered.begun and nonmonotone.begun and is_nonmonotone(ranks, 0)


def test_evaluations_of_an_older_checkpoint_are_compared_as_they_were():
    """It kept the monitored metric of each alone."""
    assert migrate_progress({"losses": [2.0, 1.5]})["ranks"] == [(2.0, 2.0), (1.5, 1.5)]
    assert migrate_progress({"ranks": [(2.0, 0.3)]})["ranks"] == [(2.0, 0.3)]
    schedule = DivideOnPlateau(divisor=4)
    schedule.load_state_dict({"scale": 1.0, "best": 1.5, "bad": 0})
    schedule.observe((1.4, 1.4))
    assert schedule.factor(START) == 1
    schedule.observe((1.4, 1.4))
    assert schedule.factor(START) == 1 / 4
