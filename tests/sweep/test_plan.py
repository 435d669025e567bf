"""The jobs of a sweep: as hydra expands and composes them, told apart by what they compute, found again later."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from seqlm.config.compose import compose_jobs, compose_words, expand
from seqlm.config.values import save_config, with_absolute_paths
from seqlm.errors import ConfigError
from seqlm.sweep.launcher import _gpus
from seqlm.sweep.place import FAILED, FINISHED, INTERRUPTED, NEW, RUNNING, Taken
from seqlm.sweep.plan import DIGITS, LONGEST_NAME, make_plan

from ..conftest import TINY

BASE = [word for word in TINY if not word.startswith(("model.", "optim."))]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def names(plan):
    return [job.place.run.name for job in plan.jobs]


def pretend(job, status="finished"):
    """A run folder as training leaves it, as far as a plan looks."""
    job.place.run.path.mkdir(parents=True)
    job.place.run.update(status=status, host="elsewhere")
    save_config(with_absolute_paths(job.config), job.place.run.config)


@pytest.mark.parametrize(
    "words",
    [
        ["model=lstm,gru", "seed=range(1,4)", "optim.lr=choice(0.1,1e-3)", "data=markov"],
        ["data=markov", "model.hidden_size=5,6", "model.layers=[{cell: gru}],[{hidden_size: 3}]"],
        ["+model.skip_sum=true,false", "~optim.betas", "model/cell=glob(m*)"],
        ["experiment=zaremba_small,wlm_200", "data=markov", "seed=1,2", "task.penalties.activation=1,2"],
    ],
)
def test_jobs_are_composed_as_train_composes_them(words):
    jobs = expand(words)
    assert len(jobs) > 3 or "+model" in words[0]
    for job, made in zip(jobs, compose_jobs(jobs), strict=True):
        try:
            expected = compose_words(job)
        except ConfigError as error:
            assert str(made) == str(error)
        else:
            assert made == expected


def test_values_that_an_experiment_lists_are_swept(tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    listed = "# @package _global_\nhydra:\n  sweeper:\n    params: {seed: '1,2', model.hidden_size: '3,4'}\n"
    (tmp_path / "mine" / "experiment" / "grid.yaml").write_text(listed)
    plan = make_plan("s", ["experiment=grid", "model=gru,lstm", "--config-dir", "mine"])
    assert len(plan.jobs) == 8 and plan.jobs[0].differing == "seed=1 model.hidden_size=3 model=gru"
    assert plan.title(plan.jobs[7]) == "[8/8] seed=2 model.hidden_size=4 model=lstm"


def test_a_folder_says_what_its_job_is_and_is_short():
    plan = make_plan("s", [*BASE, "model=lstm,gru", "optim.lr=0.1,0.2", "seed=1,2"])
    assert names(plan)[5].startswith("gru-lr0.1-s2-") and len(names(plan)[5].rpartition("-")[2]) == DIGITS
    assert all(job.place.run.path == Path("outputs/s") / name for job, name in zip(plan.jobs, names(plan), strict=True))
    long = make_plan(
        "s", [*BASE, *(f"model.dropout.{key}=0.11,0.22" for key in ("input", "hidden", "output", "weight"))]
    )
    assert max(map(len, names(long))) <= LONGEST_NAME and len(set(names(long))) == 16
    assert names(make_plan("s", BASE))[0].startswith("markov-lstm-")


def test_paths_and_devices_make_no_other_job():
    one = make_plan("s", [*BASE, "seed=1,2"])
    elsewhere = ["device=cpu", "threads=2", "checkpoint.every=7", "sample.tokens=3", "train.log_every=1", "trust=[a.]"]
    assert names(make_plan("s", [*BASE, "seed=1,2", *elsewhere])) == names(one)
    assert names(make_plan("s", [*BASE, "seed=1,2", "run.root=other"])) == names(one)
    assert not set(names(make_plan("s", [*BASE, "seed=1,2", "train.steps=41"]))) & set(names(one))
    text = ["data=text", "model=lstm", "seed=1"]
    assert names(make_plan("s", [*text, "data.path=a.txt"])) == names(make_plan("s", [*text, "data.path=b.txt"]))


def test_jobs_that_differ_in_a_path_alone_are_two_jobs():
    plan = make_plan("s", ["data=text", "data.path=a.txt,b.txt", "seed=1,2"])
    assert len(set(names(plan))) == 4 and plan.repeated == 0
    assert len(make_plan("s", [*BASE, "threads=1,2"]).jobs) == 2


def test_a_job_that_is_there_twice_is_one_job():
    plan = make_plan("s", [*BASE, "seed=1,2,1", "optim.lr=1,1.0"])
    assert len(plan.jobs) == 2 and plan.repeated == 4


def test_more_values_add_jobs_only():
    few = make_plan("s", [*BASE, "seed=1,2"])
    for job in few.jobs:
        pretend(job)
    more = make_plan("s", [*BASE, "seed=1,2,3", "model=lstm,gru"])
    assert set(names(few)) <= set(names(more)) and len(more.jobs) == 6 and not more.strays
    assert [job.place.state() for job in more.jobs].count(NEW) == 4


def test_a_path_that_comes_to_be_swept_orphans_nothing():
    words = ["data=text", "seed=1,2"]
    few = make_plan("s", [*words, "data.path=a.txt"])
    for job in few.jobs:
        pretend(job)
    more = make_plan("s", [*words, "data.path=a.txt,b.txt"])
    assert set(names(few)) <= set(names(more)) and len(more.jobs) == 4 and not more.strays


def test_a_changed_setting_says_which_key_orphans_which_jobs():
    for job in make_plan("s", [*BASE, "seed=1,2,3"]).jobs:
        pretend(job)
    plan = make_plan("s", [*BASE, "seed=1,2", "train.bptt=9"])
    assert [job.place.state() for job in plan.jobs] == [NEW, NEW]
    why = sorted(one.why for one in plan.strays)
    assert why == ["seed=3, now 1 or 2; train.bptt=7, now 9", *["train.bptt=7, now 9"] * 2]


def test_renamed_runs_and_runs_of_an_older_version_are_found():
    plan = make_plan("s", [*BASE, "seed=1,2"])
    for job in plan.jobs:
        pretend(job)
    job = plan.jobs[0]
    older = replace(job.config, model={key: item for key, item in job.config.model.items() if key != "skip_sum"})
    assert older.model != job.config.model
    save_config(with_absolute_paths(older), job.place.run.config)
    job.place.run.path.rename("outputs/s/mine")
    again = make_plan("s", [*BASE, "seed=1,2"])
    assert names(again) == ["mine", names(plan)[1]] and not again.strays


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["modle=gru", "seed=1,2"], r"^modle is neither a group nor a key"),
        (["modle=gru,lstm", "seed=1,2"], r"4 of 4 jobs .*, so none was started:\nmodle .*\n  in modle=gru seed=1; "),
        (["model=gru,gruu", "seed=1,2"], r"2 of 4 .*\nmodel=gruu is unknown.*\n  in model=gruu seed=1; model=gruu"),
        (["optim.lr=fast", "seed=1,2"], r"2 of 2 .*\noptim.lr=fast should be a number\n  in every job"),
        (["optim.lr=1,fast"], r"1 of 2 .*\noptim.lr=fast should be a number\n  in optim.lr=fast"),
        (["seed=a"], r"^seed=a should be a whole number or random$"),
        (["run.name=x"], r"run.name=...: a sweep names its runs"),
        (["resume=auto"], r"resume=...: a sweep"),
        (["run.root=a,b"], r"run.root=a,b: a sweep is in one folder"),
        (["seed=interval(1,2)"], r"does not support sweep type"),
    ],
)  # fmt: skip
def test_every_mistake_is_named_before_anything_starts(words, message):
    with pytest.raises(ConfigError, match=message):
        make_plan("s", [*BASE, *words])
    assert not Path("outputs").exists()


def test_a_run_is_no_sweep():
    pretend(make_plan("", BASE).jobs[0])
    name = next(Path("outputs").iterdir()).name
    with pytest.raises(ConfigError, match="is a run, so it cannot be a sweep"):
        make_plan(name, BASE)


def test_the_state_of_a_job_is_read_from_its_files():
    first, second = make_plan("s", [*BASE, "seed=1,2"]).jobs
    place = first.place
    assert place.state() == NEW
    with place.held():
        assert place.state() == RUNNING and second.place.state() == NEW
        with pytest.raises(Taken), place.held():
            pass
        place.set_failure("odd")
    assert place.state() == FAILED and place.failure() == "odd"
    pretend(first, "running")
    assert place.state() == FAILED
    place.set_failure(None)
    assert place.state() == INTERRUPTED  # running, it says, but nobody holds it
    with place.run.locked():
        assert place.state() == RUNNING
    for status, state in (("interrupted", INTERRUPTED), ("failed", FAILED), ("finished", FINISHED)):
        place.run.update(status=status)
        assert place.state() == state
    place.set_failure("of an earlier try")
    assert place.state() == FINISHED and place.ended()
    (place.run.path / "run.json").write_text("[")
    assert place.state() == FAILED and not place.ended()


def test_the_log_moves_into_the_run():
    job = make_plan("s", BASE).jobs[0]
    with job.place.held(), job.place.log.open("a") as log:
        print("early", file=log, flush=True)
        pretend(job)
        job.place.settle_log()
        print("late", file=log)
    assert job.place.log == job.place.run.path / "log.txt"
    assert job.place.log.read_text() == "early\nlate\n"
    job.place.settle_log()
    assert job.place.log.read_text() == "early\nlate\n"


def test_gpus_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5a")
    assert _gpus() == ["3", "GPU-5a"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert _gpus() == []


def test_a_failure_file_that_cannot_be_read_is_no_traceback():
    place = make_plan("s", BASE).jobs[0].place
    with place.held():
        place.set_failure("x", words=["a"])
    file = next(Path("outputs/s/.sweep").glob("*.json"))
    assert json.loads(file.read_text()) == {"error": "x", "words": ["a"]}
    file.write_text("")
    assert place.failure() == "see its log"
