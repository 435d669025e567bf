"""The real command: what it prints, what it writes, and how it fails; each verb at least once in a process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile

import pytest

from seqlm.files import to_json
from seqlm.runs.folder import RunFolder

from ..conftest import REPOSITORY, TINY, seqlm


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with one finished run, texts of several kinds, and nothing else."""
    folder = tmp_path_factory.mktemp("home")
    seqlm("train", *TINY, "run.name=done", cwd=folder)
    (folder / "empty.txt").touch()
    (folder / "latin.txt").write_bytes(b"line of text\n" * 50 + b"caf\xe9\n" + b"more\n" * 50)
    (folder / "short.txt").write_text("just a few words\n" * 40)
    (folder / "notarun").mkdir()
    return folder


def test_train_writes_a_run_and_says_where(home):
    run = home / "outputs" / "done"
    names = {path.name.split(".")[0] for path in run.iterdir() if not path.name.startswith(".")}
    assert names == {"config", "run", "metrics", "events", "tokenizer", "samples", "checkpoints"}
    info = json.loads((run / "run.json").read_text())
    assert info["status"] == "finished" and info["steps"] == 40 and info["parameters"]["total"] > 1000
    assert {"torch", "python", "device", "seed", "data_fingerprint", "started", "ended", "host"} <= info.keys()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "train/loss" in r] == list(range(3, 41, 3))
    assert [r["step"] for r in records if "valid/ppl" in r] == [15, 30, 40]
    assert all({"step", "tokens", "seconds"} <= record.keys() for record in records)


def test_what_the_terminal_shows(home):
    done = seqlm("train", *TINY, "model=jordan", "run.name=shown", cwd=home, process=True)
    header, rest = done.stdout.split("watch", 1)
    assert "outputs/shown" in header and "cpu, 1 threads, float32" in header
    assert re.search(r"parameters +[\d,]+ \(embedding [\d,]+, recurrent [\d,]+\)", header)
    assert "layer 1     JordanCell 12 -> 12, engine deferred: fused: JordanCell is not a gated or linear cell" in header
    assert "entropy rate" in header and "until 40 steps" in header
    assert "tensorboard --logdir outputs" in rest and "best so far" in rest
    assert "next        seqlm eval outputs/shown split=test" in rest and "best valid" in rest
    assert done.stderr == ""


def test_eval_sample_and_runs(home):
    table = seqlm("eval", "outputs/done", "split=test", cwd=home).stdout
    assert "tokens               400" in table and "perplexity" in table
    result = json.loads(seqlm("eval", "outputs/done", "--json", "batch_size=4", "split=test", cwd=home).stdout)
    assert result["tokens"] == 400 and result["split"] == "test"
    words = ["sample", "outputs/done", "tokens=30", "prompt=ab"]
    texts = {seqlm(*words, cwd=home, process=process).stdout for process in (False, True)}
    assert len(texts) == 1 and texts.pop().startswith("ab")
    listed = seqlm("runs", cwd=home).stdout.splitlines()
    assert listed[0].split()[:3] == ["name", "status", "model"]
    assert any(line.startswith("done") and "finished" in line for line in listed)


def test_a_sweep_is_as_many_runs(home, tmp_path):
    words = [word for word in TINY if not word.startswith("run.")]
    seqlm("train", "-m", *words, "model=elman,jordan,lstm,gru", cwd=tmp_path)
    runs = [path for path in (tmp_path / "outputs").iterdir() if not path.name.startswith(".")]
    assert len(runs) == 4 and all(RunFolder(path).info()["status"] == "finished" for path in runs)
    assert {path.name.split("-")[1] for path in runs} == {"elman", "jordan", "lstm", "gru"}
    ppl = [row["valid ppl"] for row in json.loads(seqlm("runs", "--json", cwd=tmp_path).stdout)]
    assert len(ppl) == 4 and ppl == sorted(ppl)
    # A run of a sweep is the run one gets alone: no state leaks from job to job.
    alone = seqlm("train", *words, "model=gru", "run.name=alone", cwd=tmp_path)
    assert alone.returncode == 0
    sweep = next(path for path in runs if "-gru-" in path.name)
    losses = [RunFolder(path).info()["metrics"] for path in (sweep, tmp_path / "outputs" / "alone")]
    assert losses[0] == losses[1]


def test_a_failing_job_does_not_stop_a_sweep(tmp_path):
    done = seqlm("train", "-m", *TINY, "model.hidden_size=0,8", cwd=tmp_path, check=False)
    assert done.returncode == 2 and "model.hidden_size=0 must be at least 1" in done.stderr
    assert len([path for path in (tmp_path / "outputs").iterdir() if not path.name.startswith(".")]) == 1


FAILURES = [
    ("train model.hiden_size=3", "model.hiden_size is not a key .*; did you mean model.hidden_size?"),
    ("train tran.steps=3 seeds=4", "did you mean train.steps?.*did you mean seed?"),
    ("train optim.momentum=1", "in optim there are: .*lr, betas"),
    ("train hidden_size=3", "did you mean model.hidden_size?"),
    ("train train.steps=abc", "train.steps=abc should be a whole number or null"),
    ("train train.batch_size=3.5", "train.batch_size=3.5 should be a whole number"),
    ("train optim.lr=fast", "optim.lr=fast should be a number"),
    ("train model.tied=maybe", "model.tied=maybe should be true or false"),
    ("train train=3", "train=3"),
    ("train precision=fp8", "precision=fp8 is unknown; allowed: float32, tf32, bf16"),
    ("train model=bigg", "model=bigg is unknown; allowed: bilm, classifier, cloze, conditional, elman"),
    ("train data/tokenizer=bpe", "data/tokenizer=bpe is unknown; allowed: byte, char, examples, word"),
    ("train experiment=zaremba", "experiment=zaremba is unknown; did you mean zaremba_large.*allowed: .*book_rnnlm, "),
    ("train seed=1,2", "Ambiguous value.*multirun"),
    ("train data = x", "without spaces around ="),
    ("train model._target_=os.system", "model._target_=os.system is outside the trusted code"),
    ("train model.cell=gru", "model.cell=gru is not a part; choose one with model/cell=gru"),
    ("train data.tokenizer=word", "data.tokenizer=word is not a part; choose one with data/tokenizer=..."),
    ("train model.dropout.input=high", "model.dropout.input=high should be a number"),
    ("train model.dropout.kind=wet", "model.dropout.kind=wet should be one of locked, standard"),
    ("train model.layers=[{hidden_size:big}]", "model.layers.0.hidden_size=big should be a whole number"),
    ("train model.layers=[{hiden_size:3}]", "did you mean model.layers.0.hidden_size?"),
    ("train optim.betas=[0.9]", "optim.betas=.* should be a list of 2 numbers"),
    ("train data=markov optim._target_=torch.optim.LBFGS ~optim.betas ~optim.eps ~optim.weight_decay ~optim.fused",
     "LBFGS .*use another"),
    ("train seed=99999999999999999999", "seed=99999999999999999999 must be at most"),
    ("train sample.prompt=qqq data=markov", "sample.prompt='qqq' has what the vocabulary lacks"),
    ("train run.name=../out data=markov", "run.name=../out leaves run.root"),
    ("train +model.depth=3", "model.depth is not an argument of build_language_model"),
    ("train data=atis task=tagging model=tagger", "data.path is not set and has no default"),
    ("train data=ptb data.path=notarun", "has no train.txt and no ptb.train.txt"),
    ("train data=text", "data.path is not set: give a file or folder"),
    ("train data=text data.path=nope.txt", "data.path=nope.txt does not exist"),
    ("train data=text data.path=empty.txt", "data.path=empty.txt is empty"),
    ("train data=text data.path=latin.txt", "line 51: byte 0xe9 is not UTF-8 .*at byte 653.; data.encoding="),
    ("train data=text data.path=short.txt", "train.bptt=64 is longer than the text.*use train.bptt="),
    ("train data=text data.path=short.txt train.batch_size=999", "train.batch_size=999 is larger than the stream"),
    ("train model.tied=true model.embedding_size=7", "model.tied=true needs equal widths.*model.embedding_size=320"),
    ("train model.bidirectional=true", "the backward half sees the token .*; use model.bidirectional=false"),
    ("train model=jordan engine=native", "layer 0: engine=native cannot serve this layer: torch has no JordanCell"),
    ("train device=cuda:77", "device=cuda:77 is not there"),
    ("train run.name=done", "run.name=done.*exists; choose another name, or resume=auto"),
    ("resume", "seqlm resume needs a run folder first"),
    ("resume notarun", "notarun is not a run: it has no config.yaml and no run.json"),
    ("resume nowhere", "nowhere does not exist"),
    ("resume outputs/done model.hidden_size=9", "model.hidden_size: 12 -> 9"),
    ("eval outputs/done split=dev", "split=dev does not exist in this data; it has: train, valid, test"),
    ("eval outputs/done data=markov", "data=markov should be a mapping"),
    ("eval outputs/done checkpoint=../best", "checkpoint=../best does not exist"),
    ("eval outputs/done batchsize=2", "batchsize is not a key.*did you mean batch_size?"),
    ("eval outputs/done checkpoint=3", "checkpoint=3 does not exist.*there are: best, last"),
    ("sample outputs/done prompt=xyz", "lacks: 'x', 'y', 'z'"),
    ("sample outputs/done prompt=${HOME}", "has what the vocabulary lacks: '[$]'"),
    ("sample outputs/done temperature=.inf", "temperature=inf must be finite"),
    ("sample outputs/done tokens=-4", "tokens=-4 must be at least 0"),
    ("runs nowhere", "nowhere is not a folder"),
    ("trian", "seqlm trian is unknown; did you mean seqlm train. verbs: train, sweep, resume, eval, sample"),
]  # fmt: skip
IN_A_PROCESS = ("train model.hiden_size=3", "eval outputs/done split=dev", "trian")


@pytest.mark.parametrize(("words", "message"), FAILURES, ids=[words for words, _ in FAILURES])
def test_bad_input_is_a_few_lines_and_exit_2(home, words, message):
    before = sorted(path for path in home.rglob("*"))
    split = words.split(" ") if words != "train data = x" else ["train", "data = x"]
    failed = seqlm(*split, cwd=home, check=False, process=words in IN_A_PROCESS)
    assert failed.returncode == 2, failed.stdout + failed.stderr
    assert re.search(message, failed.stderr, re.S), failed.stderr
    assert failed.stderr.startswith("seqlm: ") and len(failed.stderr.splitlines()) <= 6
    assert "Traceback" not in failed.stderr + failed.stdout
    assert sorted(path for path in home.rglob("*")) == before, "something was written"


CHEAP = [
    "predict outputs/done nofile.txt", "predict outputs/done . batchsize=3", "predict nowhere -",
    "eval outputs/done checkpoint=77", "eval outputs/done splot=test", "eval outputs/done ensemble=[nowhere]",
    "eval outputs/done bptt=0", "eval nowhere", "sample outputs/done tokns=3", "sample outputs/done checkpoint=worst",
    "resume outputs/done optim.lrr=3", "resume outputs/done optim.lr=3", "resume nowhere", "train run.name=done",
    "train train.stepz=3", "reproduce nowhere", "bench nokey=3",
]  # fmt: skip


def test_what_can_be_checked_without_torch_is(home):
    """In one process that meets them all: none of them has loaded what takes seconds."""
    code = f"""
import sys
from seqlm.cli import main
for words in {CHEAP}:
    sys.argv = ["seqlm", *words.split()]
    try:
        main()
    except SystemExit as leaving:
        assert leaving.code == 2, words
    else:
        raise AssertionError(words)
heavy = {{"torch", "tensorboard", "safetensors"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("seqlm: ") == len(CHEAP), done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("eval outputs/done split=dev", "split=dev does not exist"),
        ("eval outputs/done task.beam=3", "task.beam is not an argument"),
        ("sample outputs/done condition=red", "condition=red is for runs of task=conditional"),
    ],
)
def test_no_weights_are_loaded_for_what_cannot_be_done(home, monkeypatch, words, message):
    monkeypatch.setattr("seqlm.runs.load.LoadedRun.load", lambda *_: 1 / 0)
    failed = seqlm(*words.split(), cwd=home, check=False)
    assert failed.returncode == 2 and message in failed.stderr


def test_a_damaged_run_does_not_hide_the_others(tmp_path):
    for name, info in (
        ("good", '{"status": "finished"}'),
        ("broken", "{"),
        ("odd", '{"choices": null, "parameters": 3}'),
        ("words", '{"steps": "many", "tokens": 3, "seconds": 1}'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
        (tmp_path / name / "run.json").write_text(info)
    (tmp_path / "good" / "metrics.jsonl").write_bytes(
        b'3\n\xff\n{"step": 4, "tokens": 8, "seconds": 2, "valid/loss": 1.5}\n{"st'
    )
    lines = seqlm("runs", tmp_path, cwd=tmp_path).stdout.splitlines()
    assert [line.removeprefix(f"{tmp_path}/").split()[:2] for line in lines[1:]] == [
        ["good", "finished"], ["broken", "damaged"], ["odd", "damaged"], ["words", "damaged"]
    ]  # fmt: skip


def test_scores_on_other_data_are_not_kept(home, tmp_path):
    import shutil

    shutil.copytree(home / "outputs" / "done", tmp_path / "done")
    (tmp_path / "done" / "eval-test.json").unlink(missing_ok=True)
    done = seqlm("eval", "done", "split=test", "data.seed=5", cwd=tmp_path)
    assert "tokens               400" in done.stdout and "not the data done was trained on" in done.stderr
    assert not (tmp_path / "done" / "eval-test.json").exists()
    (tmp_path / "done").chmod(0o555)
    seqlm("eval", "done", "split=test", "data.limit=100", cwd=tmp_path)  # a folder that cannot be written still scores


def test_json_is_json(home):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    json.loads(seqlm("eval", "outputs/done", "--json", cwd=home).stdout, parse_constant=refuse)
    assert to_json({"ppl": float("inf"), "curve": [float("nan"), 1.5]}) == '{"ppl": null, "curve": [null, 1.5]}'
    for line in (home / "outputs" / "done" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_a_reader_that_leaves_is_no_error(home):
    words = [*TINY, "train.steps=3000", "run.name=piped"]
    command = f"{sys.executable} -m seqlm train {' '.join(words)} | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=home, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "141" and "Traceback" not in done.stderr, done.stderr


def test_help_and_composition_do_not_import_torch(tmp_path):
    asked = [
        ([], "seqlm trains recurrent language models"),
        (["--help"], "resume a run from its newest checkpoint"),
        (["train", "--help"], "seqlm train experiment=zaremba_small"),
        (["train", "--cfg", "job", "model=gru"], "seqlm.cells.gru.GRUCell"),
        (["eval", "--help"], "batch_size=null"),
        (["sample", "--help"], "top_p=null"),
        (["--version"], "seqlm 0."),
        (["runs", "."], "no runs in ."),
    ]
    code = f"""
import sys
from seqlm.cli import main
for words in {[words for words, _ in asked]}:
    sys.argv = ["seqlm", *words]
    try:
        main()
    except SystemExit:
        pass
    assert "torch" not in sys.modules, words
    print("-----")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for (_, shown), printed in zip(asked, done.stdout.split("-----\n"), strict=False):
        assert shown in printed, printed
    assert list(tmp_path.iterdir()) == []


def test_users_add_their_own_configs_and_cells(tmp_path):
    (tmp_path / "mylab.py").write_text(
        "from seqlm.cells import ElmanCell\n\nclass SquareCell(ElmanCell):\n"
        "    def gates(self, z, r, carry):\n        return type(carry)((z + r).tanh() ** 3)\n"
    )
    (tmp_path / "mine" / "model" / "cell").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "cell" / "square.yaml").write_text("_target_: mylab.SquareCell\n")
    words = ["train", *TINY, "--config-dir", "mine", "model/cell=square", "run.name=mine"]
    path = f"{tmp_path}:{REPOSITORY / 'src'}"
    environment = {"PYTHONPATH": path, "SEQLM_CACHE": os.environ["SEQLM_CACHE"], "PATH": "/usr/bin:/bin"}
    failed = seqlm(*words, cwd=tmp_path, check=False, env=environment)
    assert failed.returncode == 2 and "trust=[yourpackage.]" in failed.stderr
    own = {"cwd": tmp_path, "env": environment, "process": True}  # nothing of it is imported here
    seqlm(*words, "trust=[mylab.]", "model.layers=[{cell: square}, {cell: gru}]", **own)
    failed = seqlm("eval", "outputs/mine", cwd=tmp_path, check=False, env=environment)
    assert failed.returncode == 2 and "outside the trusted code" in failed.stderr  # a file does not grant trust
    seqlm("eval", "outputs/mine", "trust=[mylab.]", **own)
    seqlm("resume", "outputs/mine", "train.steps=44", "schedule.extend=hold", "trust=[mylab.]", **own)


def test_the_wheel_carries_the_configs(tmp_path):
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(REPOSITORY),
    ]
    subprocess.run(build, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    configs = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "configs").rglob("*.yaml")}
    assert {f"seqlm/{name}" for name in configs} <= set(names) and "seqlm/cli.py" in names
    assert not [name for name in names if name.startswith(("tests", "outputs", "scripts"))]


def test_non_finite_loss_exits_with_3(tmp_path):
    words = [*TINY, "optim=sgd", "optim.lr=1e38", "train.clip_norm=null", "run.name=2024"]
    failed = seqlm("train", *words, cwd=tmp_path, check=False)
    assert failed.returncode == 3 and "is not finite at step" in failed.stderr and "Traceback" not in failed.stderr
    assert RunFolder(tmp_path / "outputs" / "2024").info()["status"] == "diverged"


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_wait_without_spinning_long_unless_told(given, expected, tmp_path):
    """Read by OpenMP when torch is imported: it must be set before, and what the user has set holds."""
    code = "import os, sys; sys.argv = ['seqlm', '--version']; from seqlm.cli import main; main()"
    code += "; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    environment = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", code], env=environment | given, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"{expected} False", done.stderr
