"""`seqlm sweep` as people run it: stopped, killed, started twice, given again; its numbers are always the same."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seqlm.runs.folder import RunFolder
from seqlm.sweep import launcher as launching
from seqlm.sweep import worker

from ..conftest import TINY, seqlm

WORDS = [*(word for word in TINY if not word.startswith("model.")), "model.num_layers=1", "sample.tokens=0"]
LONG = [*WORDS, "train.steps=1000000", "train.eval_every=100000", "checkpoint.every=100000"]


@pytest.fixture
def start(tmp_path):
    """Starts a launcher in a process of its own, which does not outlive the test."""
    started = []

    def start(*words):
        command = [sys.executable, "-m", "seqlm", "sweep", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=tmp_path, start_new_session=True, **pipes))
        return started[-1]

    yield start
    for launcher in started:
        launcher.kill()
        launcher.communicate()


def until(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never came to it"
        time.sleep(0.02)
    return found


def runs(folder):
    """run.json of every job, by the name of its folder."""
    return {path.parent.name: RunFolder(path.parent).info() for path in sorted(folder.glob("[!.]*/run.json"))}


def with_status(folder, status):
    return [name for name, info in runs(folder).items() if info.get("status") == status]


def losses(folder):
    """Every logged loss of every job, without clock readings."""
    found = {}
    for name in runs(folder):
        records = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        tags = ("step", "tokens", "train/loss", "train/grad_norm", "valid/loss")
        found[name] = [[record.get(tag) for tag in tags] for record in records]
    return found


def step_of(folder, name):
    records = RunFolder(folder / name).records()
    return records[-1]["step"] if records else 0


def test_kills_change_nothing(tmp_path, start):
    """8 jobs, 2 of which fail: one killed, then the launcher killed, then the same command again."""
    common = [*WORDS, "train.steps=400", "train.eval_every=200", "checkpoint.every=50", "train.log_every=50", "jobs=2"]
    words = [*common, "model.hidden_size=8,10,12,0", "seed=1,2"]
    folder = tmp_path / "outputs" / "grid"
    launcher = start("grid", *words)
    until(lambda: len(with_status(folder, "finished")) >= 1)
    victim = until(lambda: [name for name in with_status(folder, "running") if step_of(folder, name) >= 100])[0]
    os.kill(runs(folder)[victim]["pid"], signal.SIGKILL)
    until(lambda: len(with_status(folder, "finished")) >= 2)
    until(lambda: [name for name in with_status(folder, "running") if name != victim])
    launcher.kill()
    launcher.communicate()
    assert launcher.returncode == -signal.SIGKILL
    finished = {name: (folder / name / "run.json").read_bytes() for name in with_status(folder, "finished")}
    assert 2 <= len(finished) < 6

    again = seqlm("sweep", "grid", *words, cwd=tmp_path, check=False)
    assert again.returncode == 1 and "2 of 8 jobs failed; retry=true runs them again" in again.stderr, again.stderr
    for name, before in finished.items():
        assert (folder / name / "run.json").read_bytes() == before  # kept, not built again
    started = [
        line for line in again.stdout.splitlines() if re.fullmatch(r"\[\d/8\] model.hidden_size=\d+ seed=\d", line)
    ]
    assert len(started) == 6 - len(finished) + 2 - len(failed_before(again.stdout))
    assert runs(folder)[victim]["resumed"] == 1 and len(with_status(folder, "finished")) == 6
    assert re.search(r"\[7/8\] model.hidden_size=0 seed=1 failed: model.hidden_size=0 must be at least 1", again.stdout)
    table = again.stdout.partition("\n\n")[2]
    assert re.search(r"6 runs of 3 settings, best first", table) and "±" in table

    seqlm("sweep", "straight", *common, "model.hidden_size=8,10,12", "seed=1,2", cwd=tmp_path)
    assert losses(folder) == losses(tmp_path / "outputs" / "straight")
    assert not [path for path in folder.iterdir() if path.name.startswith(".") and path.name != ".sweep"]


def failed_before(stdout):
    found = re.search(r"8 jobs, .*?(\d+) failed", stdout.splitlines()[0])
    return range(int(found[1]) if found else 0)


def test_two_launchers_run_each_job_once(tmp_path, start):
    words = ["grid", *WORDS, "train.steps=120", "seed=range(1,6)"]
    launchers = [start(*words) for _ in range(2)]
    outputs = [launcher.communicate(timeout=300) for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], outputs
    found = runs(tmp_path / "outputs" / "grid")
    assert len(found) == 5 and all(info["status"] == "finished" and "resumed" not in info for info in found.values())
    started = sum(len(re.findall(r"^\[\d/5\] seed=\d$", stdout, re.M)) for stdout, _ in outputs)
    ended = sum(
        len(re.findall(r"^\[\d/5\] seed=\d  finished  valid .*\d+:\d\d$", stdout, re.M)) for stdout, _ in outputs
    )
    logs = [(tmp_path / "outputs" / "grid" / name / "log.txt").read_text() for name in found]
    assert ended >= 5 and started >= 5 and all(log.count("best valid") == 1 for log in logs)
    assert all("5 runs alike" in stdout for stdout, _ in outputs)  # both wait for all


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])  # to whom: as a terminal does, and as SLURM does
def test_a_signal_stops_all_at_a_checkpoint(tmp_path, start, number):
    words = ["grid", *LONG, "seed=1,2,3,4,5", "jobs=2"]
    folder = tmp_path / "outputs" / "grid"
    launcher = start(*words)
    until(lambda: [n for n in with_status(folder, "running") if step_of(folder, n) > 0][1:])
    os.killpg(launcher.pid, number)
    for info in runs(folder).values() if number == signal.SIGTERM else ():
        os.kill(info["pid"], number)
    stdout, stderr = launcher.communicate(timeout=120)
    assert launcher.returncode == 128 + number and "Traceback" not in stderr
    assert "not started:\n  [3/5] seed=3\n  [4/5] seed=4\n  [5/5] seed=5" in stdout
    assert "0 of 5 jobs finished, 2 begun, 3 not started; the same command resumes" in stderr
    assert len(with_status(folder, "interrupted")) == 2
    assert all((folder / name / "checkpoints" / "last").is_file() for name in runs(folder))
    assert "everything is saved" in (folder / runs(folder).popitem()[0] / "log.txt").read_text()


def test_jobs_stop_when_their_launcher_is_gone(tmp_path, start):
    launcher = start("grid", *LONG, "seed=1,2", "jobs=2")
    folder = tmp_path / "outputs" / "grid"
    until(lambda: [n for n in with_status(folder, "running") if step_of(folder, n) > 0][1:])
    launcher.kill()
    launcher.communicate()
    until(lambda: len(with_status(folder, "interrupted")) == 2)


def test_failed_jobs_are_listed_and_run_again_when_asked(tmp_path):
    words = ["sweep", "grid", *(w for w in WORDS if not w.startswith("data")), "data=text", "data.path=a.txt,b.txt"]
    text = "abcdefgh ijklmnop\n" * 300
    (tmp_path / "a.txt").write_text(text)
    first = seqlm(*words, cwd=tmp_path, check=False)
    assert first.returncode == 1 and "1 of 2 jobs failed; retry=true runs them again" in first.stderr
    assert "[2/2] data.path='b.txt' failed: data.path=b.txt does not exist" in first.stdout
    (tmp_path / "b.txt").write_text(text[::-1])
    second = seqlm(*words, cwd=tmp_path, check=False)
    assert second.returncode == 1 and "2 jobs, 1 finished, 1 failed" in second.stdout
    third = seqlm(*words, "retry=true", cwd=tmp_path)
    assert "[2/2] data.path='b.txt'  finished" in third.stdout and "2 runs of 2 settings" in third.stdout
    assert "[1/2]" not in third.stdout
    fourth = seqlm(*words, cwd=tmp_path)
    assert "2 jobs, 2 finished" in fourth.stdout and "[" not in fourth.stdout.splitlines()[0]


def work_on_a_small_disk(job, *arguments):
    """A job whose file system takes no file of more than a megabyte."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    worker.work(job, *arguments)


def test_a_diverging_job_and_a_full_disk_are_the_matter_of_one_job(tmp_path, monkeypatch):
    monkeypatch.setattr(launching, "work", work_on_a_small_disk)
    words = ["sweep", "grid", *WORDS, "optim=sgd", "schedule=constant", "train.steps=6"]
    words += ["model.hidden_size=8,400", "optim.lr=1e39,0.1"]
    first = seqlm(*words, cwd=tmp_path, check=False)
    assert first.returncode == 1 and "Traceback" not in first.stdout + first.stderr
    assert "3 of 4 jobs failed, 1 of them diverged; retry=true runs them again" in first.stderr
    poisoned = r"\] optim.lr=1e\+39 model.hidden_size=8 diverged: .* is not finite at step 1 .*\n  outputs/grid/"
    assert len(re.findall(poisoned, first.stdout)) == 1, first.stdout
    full = r"model.hidden_size=400 failed: the checkpoint .* could not be written \(a file may not be that large here: "
    assert len(re.findall(full, first.stdout)) == 2, first.stdout
    found = runs(tmp_path / "outputs" / "grid")
    assert sorted(info["status"] for info in found.values()) == ["diverged", "failed", "failed", "finished"]
    assert "4 jobs, 1 finished, 2 failed, 1 diverged\n" in seqlm(*words, "--dry-run", cwd=tmp_path).stdout
    again = seqlm(*words, cwd=tmp_path, check=False)
    assert again.returncode == 1 and "watch" not in again.stdout  # none is started
    monkeypatch.undo()  # there is room now
    third = seqlm(*words, "retry=true", cwd=tmp_path, check=False)
    assert third.returncode == 1 and "2 of 4 jobs failed, 2 of them diverged\n" in third.stderr
    assert "optim.lr=0.1 model.hidden_size=400  finished" in third.stdout


def test_a_run_of_a_sweep_is_a_run(tmp_path):
    seqlm("sweep", "grid", *WORDS, "seed=1,2", cwd=tmp_path)
    name = next(iter(runs(tmp_path / "outputs" / "grid")))
    seqlm("eval", f"outputs/grid/{name}", cwd=tmp_path)
    seqlm("resume", f"outputs/grid/{name}", "train.steps=44", "schedule.extend=hold", cwd=tmp_path)
    assert name in seqlm("runs", "outputs/grid", cwd=tmp_path).stdout
    alone = seqlm("train", *WORDS, "seed=1", "run.name=alone", cwd=tmp_path)
    assert alone.returncode == 0
    other = next(n for n in runs(tmp_path / "outputs" / "grid") if n.startswith("s2-"))
    seqlm("train", *WORDS, "seed=2", "run.name=two", cwd=tmp_path)
    assert losses(tmp_path / "outputs" / "grid")[other] == losses(tmp_path / "outputs")["two"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "seqlm sweep needs a name first: seqlm sweep NAME"),
        (["seed=1,2"], "seqlm sweep needs a name first"),
        (["../x", "seed=1"], "the name leaves run.root"),
        (["s", "jobs=0"], "jobs=0 must be at least 1"),
        (["s", "seed=1,2", "jbos=2"], "jbos is not a key"),
        (["s", "--fast"], "--fast is unknown"),
        (["s", "--cfg", "job"], "--cfg is for `seqlm train`; seqlm sweep takes --dry-run"),
        (["s", "hydra/launcher=joblib"], "hydra/launcher=joblib: seqlm sweep runs the jobs itself"),
        (["s", "--config-dir", "nowhere"], "--config-dir=nowhere is not a folder"),
    ],
)
def test_mistakes_end_with_2_before_anything_starts(tmp_path, words, message):
    failed = seqlm("sweep", *words, cwd=tmp_path, check=False)
    assert failed.returncode == 2 and message in failed.stderr and "Traceback" not in failed.stderr
    assert not list(tmp_path.iterdir())


def test_a_dry_run_lists_the_jobs_and_starts_none(tmp_path):
    listed = seqlm("sweep", "grid", *WORDS, "seed=1,2", "model=lstm,gru", "--dry-run", "-m", cwd=tmp_path)
    assert "sweep outputs/grid: 4 jobs, 4 new" in listed.stdout
    assert re.search(r"\[4/4\] seed=2 model=gru +new +s2-gru-[0-9a-f]{8}", listed.stdout)
    assert not Path(tmp_path / "outputs").exists()
