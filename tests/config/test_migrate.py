"""Runs of the version before, one of every task: they load, score, go on and compare as they did in their own version.

tests/kept/v0.1.0 holds runs of 12 steps as version 0.1.0 wrote them, without what nobody reads again;
`extended.json` is what that version measured when it went on to step 20.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from seqlm.commands.compare import compare
from seqlm.config.comparison import changes, refused_changes, with_younger_options
from seqlm.config.migrate import RENAMED, migrate, renamed
from seqlm.config.values import load_config
from seqlm.config.yaml_files import read_yaml
from seqlm.runs.folder import RunFolder
from seqlm.runs.load import load_run

from ..conftest import seqlm as command

KEPT = Path(__file__).resolve().parents[1] / "kept" / "v0.1.0"
EXTENDED = json.loads((KEPT / "extended.json").read_text())
PATHS = {"classification": "data", "conditional": "data", "joint": "data/joint"}


@pytest.fixture
def kept(tmp_path):
    """A copy that may be written to."""
    shutil.copytree(KEPT, tmp_path / "kept")
    return tmp_path / "kept"


def words(name):
    """Where the data lies now."""
    return [f"data.path={PATHS[name]}"] if name in PATHS else []


@pytest.mark.parametrize("name", EXTENDED)
def test_an_older_run_scores_and_goes_on(kept, name):
    folder = kept / "runs" / name
    before = json.loads((folder / "eval-valid.json").read_text())
    command("eval", folder, "split=valid", *words(name), cwd=kept)
    again = json.loads((folder / "eval-valid.json").read_text())
    assert again["loss"] == pytest.approx(before["loss"], rel=1e-6) and again["tokens"] == before["tokens"]
    assert again["times_scored"] == before["times_scored"] + 1
    extend = [] if name == "lm_mixture" else ["schedule.extend=replan"]  # its schedule knows no end
    command("resume", folder, "train.steps=20", *extend, *words(name), cwd=kept)
    records = RunFolder.open(folder).records()
    for key in ("train/loss", "valid/loss"):
        last = [record for record in records if key in record][-1]
        assert last["step"] == 20 and last[key] == pytest.approx(EXTENDED[name][key], rel=1e-5)
    assert load_run(folder, checkpoint="20", data={"path": str(kept / PATHS[name])} if name in PATHS else None).model


@pytest.mark.parametrize("name", EXTENDED)
def test_a_migrated_config_stays_as_it_is(name):
    once = migrate(read_yaml(KEPT / "runs" / name / "config.yaml"))
    assert migrate(once) == once
    load_config(KEPT / "runs" / name / "config.yaml")


def test_a_share_of_more_than_all_is_all():
    saved = read_yaml(KEPT / "runs" / "lm" / "config.yaml")
    assert migrate({**saved, "sample": {**saved["sample"], "top_p": 2.0}})["sample"]["top_p"] == 1
    assert migrate(saved)["sample"]["top_p"] is None


def test_options_that_are_younger_than_a_run_do_not_keep_it_from_going_on():
    """As long as they are at their defaults: with resume=auto all of today's keys are there."""
    saved = load_config(KEPT / "runs" / "tagging" / "config.yaml")
    today = replace(saved, task={**saved.task, "scheme": None, "strict": False})
    assert refused_changes(with_younger_options(saved, today), today) == [] and changes(saved, today) == {}
    strict = replace(saved, task={**saved.task, "strict": True})
    assert refused_changes(with_younger_options(saved, strict), strict) == [("task.strict", False, True)]


def test_older_runs_compare(kept):
    runs = [RunFolder.open(kept / "runs" / name) for name in ("lm", "lm_mixture", "tagging")]
    assert len(compare(runs)) == 3


def test_an_old_key_is_answered_with_the_new_one(kept):
    for old, new in RENAMED.items():
        assert renamed(old) == new
        done = command("resume", kept / "runs" / "lm", f"{old}=1", cwd=kept, check=False)
        assert done.returncode == 2 and f"{old} is now {new}" in done.stderr
