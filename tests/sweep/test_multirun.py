"""`seqlm train -m`: hydra's multirun, a line above each job, a table below them all, and the right exit code."""

from __future__ import annotations

import pickle
import re

import pytest

from seqlm.commands.train import JobFailed

from ..conftest import TINY, seqlm

WORDS = [*(word for word in TINY if not word.startswith("model.hidden")), "sample.tokens=0", "train.steps=20"]


def test_jobs_have_titles_and_end_in_a_table(tmp_path):
    done = seqlm("train", "-m", *WORDS, "model.hidden_size=0,8", "seed=1,2", cwd=tmp_path, check=False)
    assert done.returncode == 2
    titles = re.findall(r"^\[\d/4\] model.hidden_size=\d seed=\d$", done.stdout, re.M)
    assert [title[1] for title in titles] == ["1", "2", "3", "4"]
    assert "seqlm: model.hidden_size=0 must be at least 1\n[2/4] model.hidden_size=0 seed=2 failed\n" in done.stderr
    assert "Traceback" not in done.stderr
    table = done.stdout.partition("2 runs alike")[2]
    assert "±" in table and "`seqlm sweep NAME` with the same words" in table


def test_the_exit_code_is_that_of_the_first_failure(tmp_path):
    words = [*WORDS, "optim=sgd", "train.clip_norm=null", "optim.lr=0.1,1e38"]
    done = seqlm("train", "-m", *words, cwd=tmp_path, check=False)
    assert done.returncode == 3 and "[2/2] optim.lr=1e+38 failed" in done.stderr


def test_a_failure_comes_home_from_another_process():
    assert pickle.loads(pickle.dumps(JobFailed(3))).exit_code == 3


def test_the_exit_code_is_right_under_joblib(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["train", "-m", *WORDS, "model.hidden_size=8,0", "hydra/launcher=joblib"]
    done = seqlm(*words, cwd=tmp_path, check=False, process=True)
    assert done.returncode == 2 and "[2/2] model.hidden_size=0 failed" in done.stderr
