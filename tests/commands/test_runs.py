"""seqlm runs and seqlm rm: which runs are shown, how, and which go."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from seqlm.commands.rm import main as rm
from seqlm.commands.runs import main
from seqlm.errors import ConfigError
from seqlm.runs.folder import RunFolder
from seqlm.runs.table import sparkline
from seqlm.training.launch import train

from ..conftest import seqlm as command
from ..conftest import tiny

SHORT = ["train.steps=6", "train.eval_every=3", "data.tokens=500", "sample.tokens=0"]
RUNS = {
    "first": ["optim.lr=0.05"],
    "deep/second": ["model=gru", "seed=2", "tags=[odd,best]", "note=a try"],
    "third": [],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, words in RUNS.items():
        model = "gru" if "model=gru" in words else "lstm"
        train(tiny(folder / "outputs", *SHORT, *words, name=name), {"model": model, "data": "markov"}, words)
    return folder


@pytest.fixture
def home(trained, tmp_path, monkeypatch):
    shutil.copytree(trained / "outputs", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(capsys, *words):
    main(words)
    return capsys.readouterr().out.splitlines()


def names(capsys, *words):
    return [line.split()[0] for line in lines(capsys, *words)[1:]]


def test_every_name_can_be_pasted(home, capsys):
    shown = names(capsys)
    assert sorted(shown) == sorted(RUNS)
    assert all(RunFolder.open(name).info()["steps"] == 6 for name in shown)
    assert sorted(names(capsys, "outputs/deep")) == ["outputs/deep/second"]
    assert RunFolder.open("outputs/deep/second").path == RunFolder.open("deep/second").path


def test_a_checkpoint_that_is_deleted_meanwhile_is_passed_over(home, capsys, monkeypatch):
    listed, gone = os.scandir, []

    def scandir(path="."):
        if Path(str(path)).name.startswith("step-"):  # as a training does while the folders are walked through
            gone.append(shutil.rmtree(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert sorted(names(capsys)) == sorted(RUNS) and gone


def test_what_each_is(home, capsys):
    told = {row["name"]: row for row in json.loads("\n".join(lines(capsys, "--json")))}
    second = told["deep/second"]
    assert (second["model"], second["seed"], second["tags"], second["note"]) == ("gru", 2, "odd,best", "a try")
    assert told["first"]["overrides"] == "optim.lr=0.05" and second["overrides"] is None
    assert second["valid ppl"] == RunFolder.open("deep/second").info()["metrics"]["valid/ppl"]
    assert time.strftime("%Y-%m-%d") == second["date"][:10] and second["parameters"] > 1000
    rows = list(csv.DictReader(io.StringIO("\n".join(lines(capsys, "--csv")))))
    assert {row["name"]: int(row["steps"]) for row in rows} == dict.fromkeys(RUNS, 6)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ("model=gru", ["deep/second"]), ("model!=gru", ["first", "third"]), ("optim.lr>=0.05", ["first"]),
        ("tags=odd", ["deep/second"]), ("tags=o*", ["deep/second"]), ("name=*r* seed<2", ["first", "third"]),
        ("valid>0 valid<1e9", list(RUNS)), ("steps=6 status=finished", list(RUNS)), ("note!=x", list(RUNS)),
        ("date>2020", list(RUNS)), ("valid<0", []),
    ],
)  # fmt: skip
def test_conditions(home, capsys, conditions, expected):
    shown = lines(capsys, "--filter", conditions)
    if expected:
        assert sorted(line.split()[0] for line in shown[1:]) == sorted(expected)
    else:
        assert shown == [f"none of the 3 runs in outputs meets {conditions}"]


def test_orders(home, capsys):
    for index, name in enumerate(RUNS):
        RunFolder.open(name).update(seed=index, status="failed" if name == "third" else "finished")
    assert names(capsys, "--sort", "seed") == list(RUNS) and names(capsys, "--sort=-seed") == list(RUNS)[::-1]
    assert names(capsys, "--sort=status")[-1] != "third" and names(capsys, "--sort", "optim.lr")[0] == "first"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sort", "size"], "--sort: size is no column; allowed: name, status"),
        (["--filter", "size=3"], "--filter: size is no column; allowed: name, status, .*optim.lr"),
        (["--filter", "gru"], "--filter: gru is no condition; write key"),
        (["--filter", "valid<"], "--filter: valid< is no condition; write key"),
        (["--filter"], "--filter needs conditions: --filter 'model=gru valid<90'"),
        (["--best"], "knows no --best"), (["a", "b"], "takes one folder, not 2"),
        (["nowhere"], "nowhere is not a folder"),
    ],
)  # fmt: skip
def test_wrong_words(home, words, message):
    with pytest.raises(ConfigError, match=message):
        main(words)


@pytest.mark.parametrize("width", [30, 60, 80, 110, 160, 300])
def test_columns_are_dropped_not_cut(home, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    shown = lines(capsys)
    assert max(map(len, shown)) <= max(width, 45)
    assert {"name", "status", "valid"} <= set(shown[0].split())
    assert ("note" in shown[0]) == (width >= 160)


def test_a_huge_number_is_short(home, capsys):
    RunFolder.open("first").update(metrics={"valid/loss": 70.0, "valid/ppl": 2.5e30})
    assert any("2.500e+30" in line for line in lines(capsys))


def test_a_damaged_run_is_a_line(home, capsys):
    (home / "outputs" / "third" / "run.json").write_text("[]")
    assert "damaged" in lines(capsys)[-1] and names(capsys, "--filter", "status=damaged") == ["third"]


def test_an_empty_place(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert lines(capsys) == ["no runs in outputs yet; start one with: seqlm train"]
    (tmp_path / "outputs").mkdir()
    assert lines(capsys) == lines(capsys, "outputs") == ["no runs in outputs yet; start one with: seqlm train"]


def test_many_runs_are_listed_in_a_moment(home, capsys):
    for index in range(150):
        shutil.copytree(home / "outputs" / "first", home / "outputs" / f"run{index}", ignore=lambda *_: ["checkpoints"])
    started = time.process_time()
    assert len(names(capsys)) == 153
    assert time.process_time() - started < 3


def test_rm_asks_first(home, capsys, monkeypatch):
    with pytest.raises(ConfigError, match="nobody can answer here; say --yes"):
        rm(["first"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    rm(["first"])
    assert "nothing was deleted" in capsys.readouterr().out and (home / "outputs" / "first").is_dir()
    monkeypatch.setattr("builtins.input", lambda question: "y")
    rm(["first", "outputs/third"])
    assert "deleted 2 runs" in capsys.readouterr().out
    assert [path.name for path in (home / "outputs").iterdir()] == ["deep"]


def test_rm_by_status(home, capsys):
    RunFolder.open("third").update(status="running", pid=1)
    rm(["--status", "crashed", "--yes"])
    assert not (home / "outputs" / "third").exists() and (home / "outputs" / "first").exists()
    RunFolder.open("first").update(status="diverged")
    rm(["--status=crashed", "--yes"])
    assert (home / "outputs" / "first").exists()
    rm(["--status=diverged", "--yes"])
    assert not (home / "outputs" / "first").exists()
    rm(["--status=crashed", "--yes"])
    assert capsys.readouterr().out.endswith("no run is crashed\n")


def test_rm_keeps_a_run_that_trains(home):
    with RunFolder.open("first").locked(), pytest.raises(ConfigError, match="is being trained by another process"):
        rm(["first", "--yes"])
    assert RunFolder.open("first").info()


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "needs a run"), (["--all"], "knows no --all"), (["--status", "finished"], "allowed: crashed"),
     (["nowhere"], "nowhere does not exist"), (["outputs"], "outputs is not a run")],
)  # fmt: skip
def test_rm_refuses(home, words, message):
    with pytest.raises(ConfigError, match=message):
        rm(words)


def test_the_commands(home):
    assert "deep/second" in command("runs", cwd=home).stdout
    assert command("rm", "first", cwd=home, check=False).returncode == 2


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([3, 2, 1], "█▅▁"),
        ([1, 1], "▁▁"),
        ([1], ""),
        ([], ""),
        ([float("nan"), 2, 1], "█▁"),
        (range(24), "▁▂▂▃▃▄▅▆▆▇▇█"),
    ],
)
def test_numbers_as_bars(values, drawn):
    assert sparkline(list(values)) == drawn


def test_the_loss_on_valid_is_drawn_and_running_says_how_far(home, capsys, monkeypatch):
    shown = lines(capsys, "--filter", "name=first")
    assert shown[0].split()[-1] == "curve" and shown[1].endswith(("█▁", "▁█"))
    assert "curve" not in json.loads("\n".join(lines(capsys, "--json")))[0]
    monkeypatch.setattr(RunFolder, "status", lambda run, info=None: "running")
    assert "running 100%" in lines(capsys, "--filter", "name=first")[1]
    assert all(row["status"] == "running" for row in json.loads("\n".join(lines(capsys, "--json"))))
    (home / "outputs" / "first" / "config.yaml").write_text("train: {steps: many}\n")
    assert " running " in lines(capsys, "--filter", "name=first")[1], "nothing says how far, and all else is shown"
