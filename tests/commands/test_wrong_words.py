"""Wrong command lines of every verb: a few lines that name the fix, never a traceback, and nothing is written."""

from __future__ import annotations

import re
import shlex

import pytest

from ..conftest import TINY, seqlm
from .wrong_words import LINES


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    seqlm("train", *TINY, "train.steps=2", "run.name=done", cwd=folder)
    (folder / "f.txt").write_text("some text\n")
    return folder


@pytest.mark.parametrize(("line", "answer"), LINES, ids=[line for line, _ in LINES])
def test_a_wrong_line_is_answered_with_the_right_one(home, line, answer, monkeypatch):
    for place in ("seqlm.training.assemble.build_data", "seqlm.bench.levels.gemm_peak"):
        monkeypatch.setattr(place, lambda *_: 1 / 0)  # it would have trained, or measured
    before = sorted(home.rglob("*"))
    failed = seqlm(*shlex.split(line.replace("RUN", "outputs/done")), cwd=home, check=False)
    assert failed.returncode == 2, failed.stdout + failed.stderr
    assert failed.stderr.startswith("seqlm: ") and len(failed.stderr.splitlines()) <= 6, failed.stderr
    assert re.search(answer, failed.stderr, re.S), failed.stderr
    assert "Traceback" not in failed.stdout + failed.stderr
    assert sorted(home.rglob("*")) == before, "something was written"
