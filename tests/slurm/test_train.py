"""`seqlm train slurm=true` and `seqlm resume RUN slurm=true`: one run as a batch job, and how that leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from seqlm.errors import ConfigError
from seqlm.slurm import single
from seqlm.slurm.script import comment, option_line

from ..conftest import REPOSITORY, TINY, seqlm
from ..sweep.test_sweep import losses, step_of, until
from .test_array import LONG

RANK = """
import os, signal, sys, time
signal.signal(signal.SIGUSR1, lambda number, frame: sys.exit(138))
open(os.environ["RANK"], "w").close()
time.sleep(60)
"""


def test_a_run_is_named_when_it_is_submitted_and_resumed_when_it_is_requeued(tmp_path, cluster):
    done = seqlm("train", *LONG, "seed=1", "slurm=true", "slurm.time=10", cwd=tmp_path).stdout
    name = next((tmp_path / "outputs" / "slurm").glob("*.sh")).stem
    assert f"submitted outputs/{name} as job 1; outputs/slurm/{name}.sh" in done and f"{name}-1.out" in done
    job = cluster.jobs[0]
    until(lambda: step_of(tmp_path / "outputs", name) >= 150)
    again = seqlm("resume", f"outputs/{name}", "slurm=true", cwd=tmp_path, check=False)
    assert again.returncode == 2 and "is in the queue already, as job 1; scancel 1 takes it out" in again.stderr
    cluster.warn(job)
    cluster.wait(120)
    assert job.state == "COMPLETED" and job.restarts == 1, job.history
    output = (tmp_path / f"outputs/slurm/{name}-1.out").read_text()
    assert "everything is saved" in output and output.count("best valid") == 1
    seqlm("train", *LONG, "seed=1", "run.name=straight", cwd=tmp_path)
    found = losses(tmp_path / "outputs")
    assert found[name] == found["straight"]
    longer = seqlm("resume", f"outputs/{name}", "train.steps=600", "slurm=true", "--print", cwd=tmp_path).stdout
    assert f"set -- resume outputs/{name} train.steps=600\n" in longer and longer.endswith(' -m seqlm.batch "$@"\n')


def test_names_of_waiting_runs_are_taken(tmp_path, idle):
    words = ["train", *TINY, "trust=[mylab.]", "slurm=true"]
    first, second = (seqlm(*words, cwd=tmp_path).stdout.split()[1] for _ in range(2))
    assert second == f"{first}.2" and len(idle.jobs) == 2
    text = (tmp_path / "outputs" / "slurm" / f"{first.rpartition('/')[2]}.sh").read_text()
    assert f"if [ -e {first}/run.json ]; then set -- resume {first} 'trust=[mylab.]'; else set -- train data=" in text
    taken = seqlm("train", *TINY, f"run.name={first.rpartition('/')[2]}", "slurm=true", cwd=tmp_path, check=False)
    assert taken.returncode == 2 and "is in the queue already, as job 1" in taken.stderr


def test_a_multirun_is_a_sweep(tmp_path, idle):
    failed = seqlm("train", "-m", *TINY, "seed=1,2", "slurm=true", cwd=tmp_path, check=False)
    assert failed.returncode == 2 and "several: seqlm sweep NAME ... slurm=true" in failed.stderr


def test_a_drawn_seed_is_drawn_once(tmp_path):
    words = single.train_words(["seed=random", "run.name=a", "resume=auto", "model=gru"], tmp_path / "b", 5)
    assert words == ["seed=5", "model=gru", f"run.root={tmp_path}", "run.name=b"]


@pytest.mark.parametrize("value", ["a b", 'a "b" \\c', "#c", "it's", "$(rm x)", "`x`"])
def test_an_option_is_one_word_to_sbatch(value):
    """Its reading of a script's lines: words between spaces, quotes, and backslashes in front of quotes."""
    words, quoted, word, letters = [], False, "", iter(option_line("comment", value) + " ")
    for letter in letters:
        if letter == "\\":
            word += next(letters)
        elif letter == '"':
            quoted = not quoted
        elif (letter == " " or letter == "#") and not quoted:
            words, word = [*words, word], ""
        else:
            word += letter
    assert words == [f"--comment={value}"]


def test_a_comment_stays_on_its_line():
    assert comment("a\nb\r\x85\u2028c é") == "a\\nb\\r\\x85\\u2028c é"


def batch(*words, cwd, env):
    command = [sys.executable, "-m", "seqlm.batch", *words]
    paths = {"PYTHONPATH": str(REPOSITORY / "src"), "SLURM_JOB_ID": "7"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=cwd, env={**os.environ, **paths, **env}, **pipes)


def test_ranks_get_the_warning_and_give_their_exit_code(tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    code = "import sys; from seqlm.slurm.ranks import run_ranks; sys.exit(run_ranks(2, ['rank.py']))"
    paths = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=paths, stderr=subprocess.DEVNULL)
    until(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists())
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 138


def test_a_job_that_cannot_be_requeued_says_so(tmp_path):
    (tmp_path / "scontrol").write_text(
        "#!/bin/sh\necho $* >> asked\necho Requested operation is disabled >&2\nexit 1\n"
    )
    (tmp_path / "scontrol").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    process = batch("train", *LONG, "train.steps=100000", "run.name=a", cwd=tmp_path, env=env)
    until(lambda: step_of(tmp_path / "outputs", "a") >= 1)
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 138 and (tmp_path / "asked").read_text() == "requeue 7\n"
    assert "the run is saved, but its job cannot be requeued: Requested operation is disabled" in output


def test_a_warning_before_seqlm_is_there_requeues_too(tmp_path):
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho $* >> asked\n")
    (tmp_path / "scontrol").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    process = batch("train", *TINY, "run.name=a", cwd=tmp_path, env=env)
    until(lambda: int(caught(process.pid), 16) >> (signal.SIGUSR1 - 1) & 1)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=60)
    assert process.returncode == 138 and (tmp_path / "asked").read_text() == "requeue 7\n"


def caught(pid):
    """The signals that a process has handlers for, as a number in hexadecimal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("SigCgt"))


def test_a_file_of_a_job_grants_no_trust_and_a_damaged_one_is_told(tmp_path, idle):
    from seqlm.slurm.task import read_job

    seqlm("sweep", "grid", *LONG, "trust=[mylab.]", "slurm=true", cwd=tmp_path)
    file = next((tmp_path / "outputs/grid/.sweep").glob("*.yaml"))
    job, title = read_job(tmp_path / "outputs/grid", file.stem)
    assert job.config.trust == [] and title == "[1/1]" and job.config.train.steps == 500
    file.write_text("name: x\n")
    with pytest.raises(ConfigError, match="is damaged"):
        read_job(tmp_path / "outputs/grid", file.stem)
