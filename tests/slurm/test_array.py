"""`seqlm sweep ... slurm=true` on a stand-in cluster: submitted once, disturbed in every way, to the same numbers."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from seqlm.runs.folder import RunFolder

from ..conftest import TINY, seqlm
from ..sweep.test_sweep import losses, step_of, until

WORDS = [*(word for word in TINY if not word.startswith("model.")), "model.num_layers=1", "sample.tokens=0"]
LONG = [*WORDS, "train.steps=500", "train.eval_every=200", "checkpoint.every=100", "train.log_every=50"]


def test_usr1_preemption_and_a_lost_node_change_nothing(tmp_path, cluster):
    words = [*LONG, "seed=1,2,3"]
    folder = tmp_path / "outputs" / "grid"
    submitted = seqlm("sweep", "grid", *words, "slurm=true", "slurm.parallel=2", cwd=tmp_path).stdout
    assert "submitted array 1: 3 jobs, 2 at a time; outputs/grid/slurm/array-1.sh" in submitted
    names = [name for _, name, _ in json.loads((folder / "sweep.json").read_text())["jobs"]]
    disturb = [cluster.warn, cluster.preempt, lambda job: cluster.lose(job.node)]
    for name, job, how in zip(names, cluster.jobs, disturb, strict=True):
        until(lambda name=name: step_of(folder, name) >= 150)
        how(job)
    cluster.wait(120)
    assert [job.state for job in cluster.jobs] == ["COMPLETED"] * 3
    assert [job.restarts for job in cluster.jobs] == [1] * 3, [job.history for job in cluster.jobs]
    told = seqlm("sweep", "grid", "status", cwd=tmp_path).stdout
    assert "sweep outputs/grid: 3 jobs, 3 finished\n" in told
    assert len(re.findall(r"^\[\d/3\] seed=\d  finished  valid ppl \d", told, re.M)) == 3
    assert all(RunFolder(folder / name).info()["resumed"] == 1 for name in names)
    assert all((folder / name / "log.txt").read_text().count("best valid") == 1 for name in names)
    for seed in (1, 2, 3):
        seqlm("train", *LONG, f"seed={seed}", f"run.name=straight/s{seed}", cwd=tmp_path)
    assert list(losses(folder).values()) == list(losses(tmp_path / "outputs" / "straight").values())


def test_failed_and_diverged_jobs_are_not_requeued(tmp_path, cluster):
    words = [*WORDS, "optim=sgd", "train.clip_norm=null", "optim.lr=1e38", "init_from=null,no-run"]
    seqlm("sweep", "grid", *words, "slurm=true", cwd=tmp_path)
    cluster.wait(60)
    assert [(job.state, job.restarts) for job in cluster.jobs] == [("FAILED", 0)] * 2
    assert [job.history[-1] for job in cluster.jobs] == ["ended with 3", "ended with 2"]
    told = seqlm("sweep", "grid", "status", cwd=tmp_path).stdout
    assert "2 jobs, 1 failed, 1 diverged" in told
    assert re.search(r"init_from='no-run' +failed +init_from=no-run", told) and "not finite" in told
    again = seqlm("sweep", "grid", *words, "slurm=true", cwd=tmp_path).stdout
    assert "submitted" not in again
    cluster.nodes = dict.fromkeys(cluster.nodes, False)
    retried = seqlm("sweep", "grid", *words, "slurm=true", "retry=true", cwd=tmp_path).stdout
    assert "submitted array 3: 2 jobs; outputs/grid/slurm/array-2.sh" in retried


def test_only_what_is_due_and_not_in_the_queue_is_submitted(tmp_path, idle):
    first = seqlm("sweep", "grid", *WORDS, "seed=1,2", "slurm=true", cwd=tmp_path).stdout
    assert "submitted array 1: 2 jobs; outputs/grid/slurm/array-1.sh" in first
    more = seqlm("sweep", "grid", *WORDS, "seed=3,1,2", "slurm=true", cwd=tmp_path).stdout
    assert "2 jobs in the queue already\nsubmitted array 3: 1 job; outputs/grid/slurm/array-2.sh" in more
    subprocess.run(["scancel", "1_0"], check=True)
    told = seqlm("sweep", "grid", "status", cwd=tmp_path).stdout
    assert "3 jobs, 2 pending, 1 lost" in told
    assert re.search(r"seed=1  lost +by SLURM: CANCELLED, .*the same command submits it again", told)
    again = seqlm("sweep", "grid", *WORDS, "seed=1,2,3", "slurm=true", cwd=tmp_path).stdout
    assert "2 jobs in the queue already\nsubmitted array 4: 1 job" in again
    digests = [json.loads((tmp_path / f"outputs/grid/slurm/array-{n}.json").read_text())["jobs"][0][0] for n in (1, 3)]
    assert digests[0] == digests[1]


def test_a_limit_on_the_size_of_arrays_makes_several(tmp_path, idle):
    idle.largest_array = 2
    done = seqlm("sweep", "grid", *WORDS, "seed=range(1,6)", "slurm=true", "slurm.parallel=6", cwd=tmp_path).stdout
    assert re.findall(r"submitted array \d: (.*); ", done) == ["2 jobs, 2 at a time"] * 2 + ["1 job, 2 at a time"]
    assert [words[2] for words in idle.submitted] == ["--array=0-1%2", "--array=0-1%2", "--array=0-0%2"]


def test_a_script_is_printed_and_nothing_else_happens(tmp_path, idle):
    words = [*WORDS, "seed=1,2", "slurm=true", "slurm.time=1:30:00", "slurm.gpus=2", "slurm.cpus=8", "slurm.parallel=1"]
    words += ["slurm.setup=[module load cuda]", "slurm.extra=[--mail-type=END, '--comment=a \"b c\" #d']"]
    text = seqlm("sweep", "grid", *words, "trust=[mylab.]", "--print", cwd=tmp_path).stdout
    for line in (
        "#SBATCH --array=0-1%1", "#SBATCH --signal=B:USR1@120", "#SBATCH --requeue", "#SBATCH --open-mode=append",
        f"#SBATCH --output={tmp_path}/outputs/grid/slurm/%A_%a.out", "#SBATCH --time=1:30:00", "#SBATCH --gres=gpu:2",
        "#SBATCH --cpus-per-task=8", '#SBATCH --comment="a \\"b c\\" #d"', "module load cuda",
    ):  # fmt: skip
        assert f"{line}\n" in text, text
    command = f'exec {sys.executable} -m seqlm.batch --ranks=2 job outputs/grid "${{jobs[$SLURM_ARRAY_TASK_ID]}}"'
    assert text.endswith(f"{command} 'trust=[mylab.]'\n")
    assert not (tmp_path / "outputs").exists() and not idle.jobs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["slurm=yes"], "slurm=yes should be true or false"),
        (["slurm.time=4:00:00"], "slurm.time=4:00:00 is for jobs of SLURM: give slurm=true too"),
        (["--print"], "--print is for jobs of SLURM: give slurm=true too"),
        (["slurm=true", "slurm.tiem=1"], "slurm.tiem is not a key of this configuration; did you mean slurm.time?"),
        (["slurm=true", "slurm.time=1:00 --wrap=rm"], "slurm.time=1:00 --wrap=rm cannot be given to sbatch"),
        (["slurm=true", "slurm.time=soon"], "slurm.time=soon cannot be given to sbatch; write it as 2:30:00, 3-12"),
        (["slurm=true", "slurm.partition=a b"], "slurm.partition=a b cannot be given to sbatch"),
        (["slurm=true", 'slurm.account="a\\nrm -r x"'], "slurm.account='a\\nrm -r x' cannot be given to sbatch"),
        (["slurm=true", 'slurm.setup=["a\\nb"]'], "slurm.setup: 'a\\nb' must be one line"),
        (["slurm=true", 'slurm.extra=["--comment=a\\n#SBATCH --x"]'], "slurm.extra: '--comment=a\\n#SBATCH --x' must"),
        (["slurm=true", "slurm.extra=[-p debug]"], "slurm.extra: -p debug is no option"),
        (["slurm=true", "slurm.extra=[--array=0-9]"], "slurm.extra: --array is written by seqlm itself"),
        (["slurm=true", "slurm.gpus=0"], "slurm.gpus=0 must be at least 1"),
        (["slurm=true", "jobs=2"], "jobs=2 is for processes of this machine; use slurm.parallel=2"),
        (["slurm=true", "modle=gru"], "modle is neither a group nor a key"),
    ],
)
def test_mistakes_end_with_2_before_anything_is_written(tmp_path, words, message):
    failed = seqlm("sweep", "grid", *words, cwd=tmp_path, check=False)
    assert failed.returncode == 2 and message in failed.stderr and "Traceback" not in failed.stderr
    assert not list(tmp_path.iterdir())


def test_sbatch_that_refuses_is_quoted_and_its_script_kept(tmp_path, idle):
    idle.refusal = "Batch job submission failed: Invalid account or account/partition combination specified"
    failed = seqlm("sweep", "grid", *WORDS, "seed=1,2", "slurm=true", "slurm.account=x", cwd=tmp_path, check=False)
    assert failed.returncode == 1 and f"sbatch: error: {idle.refusal}" in failed.stderr
    assert "nothing was submitted by outputs/grid/slurm/array-1.sh, which is kept" in failed.stderr
    assert "--account=x" in (tmp_path / "outputs/grid/slurm/array-1.sh").read_text()
    idle.refusal = ""
    assert "array-1.sh" in seqlm("sweep", "grid", *WORDS, "seed=1,2", "slurm=true", cwd=tmp_path).stdout


def test_a_machine_without_slurm(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:  # not for the jobs below: the process that they are forked from would keep it
        patch.setenv("PATH", "/nowhere")
        failed = seqlm("sweep", "grid", *WORDS, "slurm=true", cwd=tmp_path, check=False)
    assert failed.returncode == 1 and "scontrol is not on the PATH" in failed.stderr
    seqlm("sweep", "here", *WORDS, "seed=1,2", "model.hidden_size=0,8", cwd=tmp_path, check=False)
    told = seqlm("sweep", "here", "status", cwd=tmp_path).stdout
    assert "sweep outputs/here: 4 jobs, 2 finished, 2 failed\n" in told and "SLURM" not in told
    assert re.search(r"model.hidden_size=0 +failed +model.hidden_size=0 must be at least 1", told)
    (tmp_path / "outputs/here/sweep.json").unlink()  # as of an older version, or of a search
    assert "2 jobs, 2 finished\n" in seqlm("sweep", "here", "status", cwd=tmp_path).stdout
    none = seqlm("sweep", "nothing", "status", cwd=tmp_path, check=False)
    assert none.returncode == 2 and "outputs/nothing is no sweep" in none.stderr


def test_words_in_a_title_stay_in_their_comment(tmp_path, idle):
    seqlm("sweep", "grid", *WORDS, "note='a\ntouch owned',b", "seed=1,2", "slurm=true", cwd=tmp_path)
    text = (tmp_path / "outputs/grid/slurm/array-1.sh").read_text()
    assert "touch owned" not in [line.strip() for line in text.splitlines()]
