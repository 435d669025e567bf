"""seqlm verify: what is damaged is found and named, and nothing else."""

from __future__ import annotations

import json
import shutil

import pytest

from seqlm.commands.verify import main
from seqlm.errors import ConfigError, SeqlmError
from seqlm.runs import checkpoint
from seqlm.runs.checks import check_run
from seqlm.runs.folder import RunFolder
from seqlm.training.launch import train

from ..conftest import TINY, compose
from ..conftest import seqlm as command
from ..training.test_sealed import edit


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    (folder / "text.txt").write_text("".join(f"line {index} of it\n" for index in range(300)))
    words = ["data=text", f"data.path={folder / 'text.txt'}", "data/tokenizer=char", f"run.root={folder}"]
    train(compose(*(word for word in TINY if not word.startswith("data")), *words, "train.steps=8", "run.name=run"), {})
    return folder


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "run")
    return RunFolder(tmp_path / "run")


def failed(run, capsys):
    """The checks that have failed, with what was found."""
    capsys.readouterr()
    with pytest.raises(SeqlmError, match="failed") as caught:
        main([str(run.path), "--json"])
    assert caught.value.exit_code == 1
    (result,) = json.loads(capsys.readouterr().out)
    return {one["name"]: one["found"] for one in result["checks"] if not one["ok"]}


def test_a_whole_run_is_well_and_left_as_it_is(run):
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    done = command("verify", run.path, cwd=run.path.parent)
    lines = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [line[0] for line in lines] == ["ok"] * 10 and not done.stderr
    assert [line[1] for line in lines][:4] == ["run.json", "config.yaml", "tokenizer.json", "metrics.jsonl"]
    assert {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()} == before


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "run.json": lambda run: edit(run.path / "run.json", '"seed": 1', '"seed": 3'),
    "config.yaml": lambda run: edit(run.config, "eps: 1.0e-08", "eps: 1.0e-06"),
    "tokenizer.json": lambda run: flip(run.tokenizer),
    "metrics.jsonl": lambda run: edit(run.metrics, '"step": 6', '"step": 5'),
    "checkpoints": lambda run: flip(run.checkpoints / "step-000000004" / "state.pt"),
    "pointers": lambda run: (run.checkpoints / "last").write_text("step-000000004\n"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_found_by_its_check(run, capsys, name):
    DAMAGES[name](run)
    assert [*failed(run, capsys)] == [name]


def test_a_run_that_is_being_trained_may_be_between_a_checkpoint_and_its_pointer(run):
    DAMAGES["pointers"](run)
    with run.locked():
        found = {one.name: one for one in check_run(run)}["pointers"]
    assert found.ok and "is being trained" in found.found


def test_checkpoints_that_are_all_deleted_meanwhile_are_no_damage(run, monkeypatch):
    monkeypatch.setattr(checkpoint, "verify", lambda path: shutil.rmtree(path) or "no such file")
    found = {one.name: one for one in check_run(run)}["checkpoints"]
    assert found.ok and "is being trained" in found.found


def test_changed_data_is_found(run, trained, capsys):
    text = (trained / "text.txt").read_text()
    try:
        (trained / "text.txt").write_text(text.replace("line 7 ", "line 8 "))
        assert "has changed since the run was started" in failed(run, capsys)["data"]
        (trained / "text.txt").unlink()
        assert "text.txt" in failed(run, capsys)["data"]
    finally:
        (trained / "text.txt").write_text(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "needs a run"), (["a=3", "run"], "a=3 is no key"), (["run", "--yaml"], "--yaml"), (["nowhere"], "not exist")],
)
def test_wrong_words(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        main(words)
