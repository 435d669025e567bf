"""seqlm diff: what differs between two runs, and from where on."""

from __future__ import annotations

import json

import pytest

from seqlm.commands.diff import pairs, parted

from ..conftest import TINY, seqlm


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diff")
    common = [*TINY, "train.steps=12", "train.log_every=1", "sample.tokens=0"]
    for name, words in {
        "one": [], "same": [], "more": ["train.steps=14", "schedule=constant"], "later": ["train.clip_norm=1e-4"],
        "seed": ["seed=2"],
    }.items():  # fmt: skip
        seqlm("train", *common, *words, f"run.name={name}", cwd=folder)
    return folder


def told(home, *names):
    return json.loads(seqlm("diff", *names, "--json", cwd=home).stdout)


def test_equal_runs(home):
    assert told(home, "one", "same") == {"config": {}, "facts": {}, "parted": None, "shared": 13, "records": [13, 13]}
    said = seqlm("diff", "one", "same", cwd=home).stdout
    same, equal = said.split("\n\n")
    assert same == "configuration, data and versions are the same"
    assert equal == "the 13 records that both have are equal, but for the clock\n"


def test_what_differs_and_where_numbers_part(home):
    found = told(home, "one", "later")
    assert found["config"] == {"train.clip_norm": [1.0, 1e-4]} and found["facts"] == {}
    assert found["parted"]["step"] == 2 and found["parted"]["tag"] == "train/loss", "the first step moved weights"
    assert told(home, "one", "seed")["parted"]["step"] == 1
    lines = seqlm("diff", "one", "later", cwd=home).stdout.splitlines()
    assert lines[0].split() == ["config", "one", "later"] and lines[1].split() == ["train.clip_norm", "1.0", "0.0001"]
    assert lines[-1].startswith("what was logged parts at step 2: train/loss is ")


def test_refused(home):
    for words, message in ((["one"], "needs two runs, not 1"), (["one", "none"], "none does not exist"),
                           (["one", "same", "--all"], "seqlm diff knows no --all")):  # fmt: skip
        done = seqlm("diff", *words, cwd=home, check=False)
        assert done.returncode == 2 and message in done.stderr


def test_records_are_compared_by_step():
    one = [{"step": step, "train/loss": 3.0 - step} for step in range(1, 5)]
    assert parted(one, one[1::2]) is None and len(pairs(one, one[1::2])) == 2
    assert pairs(one, [{"step": 1, "train/skipped": 1}]) == [], "of another kind"
    assert parted(one, [{"step": 2, "train/loss": 1.0}, {"step": 4, "train/loss": 0.5}])["step"] == 4
