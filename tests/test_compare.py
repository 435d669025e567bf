"""seqlm compare: what differs, means over seeds, and what does not compare."""

from __future__ import annotations

import json
import shutil
import statistics

import pytest

from seqlm.compare import _mean, main
from seqlm.errors import ConfigError
from seqlm.run import RunFolder
from seqlm.train import train

from .conftest import seqlm as command
from .conftest import tiny

SHORT = ["train.steps=9", "train.eval_every=3", "data.tokens=500"]
RUNS = {
    "slow-1": ["optim.lr=1e-5"], "slow-2": ["optim.lr=1e-5", "seed=2", "sample.tokens=5"],
    "gru": ["model=gru", "model.hidden_size=12"], "fast-1": ["optim.lr=0.02"], "fast-2": ["optim.lr=0.02", "seed=2"],
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    for name, words in RUNS.items():
        train(tiny(folder, *SHORT, *words, name=name), {"model": "gru" if name == "gru" else "lstm"})
    return folder


@pytest.fixture
def runs(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


def best(folder, name):
    return min(record["valid/ppl"] for record in RunFolder(folder / name).records() if "valid/ppl" in record)


def shown(capsys, *words):
    """The lines of a table by their first cell, and all that was printed."""
    main([str(word) for word in words])
    said = capsys.readouterr()
    return {
        line.split("  ")[0]: line.split()[len(line.split("  ")[0].split()) :] for line in said.out.splitlines()
    }, said


def test_settings_stand_beside_each_other_with_means_over_seeds(runs, capsys):
    lines, said = shown(capsys, runs, runs / "gru", "--json", runs / "told.json")  # a run named twice is one
    assert said.out.startswith("5 runs of 3 settings, best first by loss on valid\n")
    order = ["fast-*", "gru", "slow-*"] if best(runs, "fast-1") < best(runs, "gru") else ["gru", "fast-*", "slow-*"]
    assert lines["name"] == order
    assert dict(zip(order, lines["optim.lr"], strict=True)) == {"fast-*": "0.02", "gru": "0.01", "slow-*": "1e-05"}
    assert dict(zip(order, lines["model.cell"], strict=True))["gru"] == "GRUCell"
    assert {"status", "seed", "sample.tokens", "test ppl"}.isdisjoint(lines)  # all finished; no setting; not scored
    both = [best(runs, name) for name in ("slow-1", "slow-2")]
    assert lines["valid ppl"][-3:] == [f"{statistics.fmean(both):.2f}", "±", f"{statistics.stdev(both):.2f}"]
    told = json.loads((runs / "told.json").read_text())
    assert told["judged_by"] == "loss" and told["same"]["train.batch_size"] == 4 and "optim.lr" not in told["same"]
    slow = told["settings"][-1]
    assert slow["told"]["optim.lr"] == 1e-5
    assert [(run["name"], run["seed"], run["valid"]["ppl"]) for run in slow["runs"]] == [
        ("slow-1", 1, both[0]), ("slow-2", 2, both[1])
    ]  # fmt: skip


def test_a_mean_and_its_standard_deviation_over_seeds():
    assert _mean([1.0, 2.0, 6.0], 2) == "3.00 ± 2.65"
    assert _mean([1.0, None, 2.0], 2) == "1.50 ± 0.71 (2 of 3)"
    assert _mean([None, 2.0], 2) == "2.00 (1 of 2)" and _mean([2.0], 2) == "2.00" and _mean([None, None], 2) == ""


def test_many_settings_stand_below_each_other(runs, capsys):
    for index in range(9):
        shutil.copytree(runs / "fast-1", runs / f"copy-{index}")
        config = (runs / f"copy-{index}" / "config.yaml").read_text()
        (runs / f"copy-{index}" / "config.yaml").write_text(config.replace("lr: 0.02", f"lr: 0.{index}3"))
    shutil.rmtree(runs / "gru")
    main([str(runs)])
    head, *rows = capsys.readouterr().out.splitlines()[2:]
    assert head.split()[:3] == ["name", "runs", "optim.lr"] and len(rows) == 11
    assert rows[-1].split()[:3] == ["slow-*", "2", "1e-05"]


def test_what_was_scored_on_test_and_by_how_many(runs, capsys):
    step = RunFolder(runs / "fast-1").best
    (runs / "fast-1" / "eval-test.json").write_text(json.dumps({"checkpoint": step, "ppl": 3.25}))
    (runs / "fast-2" / "eval-test.json").write_text(json.dumps({"checkpoint": step + 1, "ppl": 3.25}))  # of no use
    assert shown(capsys, runs / "fast-1", runs / "fast-2")[0]["test ppl"] == ["3.25", "(1", "of", "2)"]


def test_runs_alike_and_runs_that_go_on(runs, capsys):
    RunFolder(runs / "fast-2").update(status="interrupted")
    lines, said = shown(capsys, runs / "fast-1", runs / "fast-2")
    assert said.out.startswith("2 runs alike\n")
    assert lines["name"] == ["fast-*"] and lines["status"] == ["finished,", "interrupted"]


def test_other_data_and_other_measures_are_told(runs, capsys):
    _, said = shown(capsys, runs)
    assert "do not read the same data" not in said.out
    RunFolder(runs / "gru").update(data_fingerprint="another", judged_by="f1")
    lines, said = shown(capsys, runs)
    assert "by name: they are not judged by the same metric" in said.out
    assert lines["name"] == ["fast-*", "gru", "slow-*"]
    assert lines["data fingerprint"][1] == "another" and "do not read the same data" in said.out


def test_options_younger_than_a_run_make_no_difference_at_their_defaults(runs, capsys):
    path = runs / "fast-1" / "config.yaml"
    text = path.read_text()
    assert text.count("  skip_sum: false\n") == 1
    path.write_text(text.replace("  skip_sum: false\n", ""))
    assert shown(capsys, runs)[0]["runs"][:2] in (["2", "1"], ["1", "2"])
    other = runs / "fast-2" / "config.yaml"
    other.write_text(other.read_text().replace("skip_sum: false", "skip_sum: true"))
    assert sorted(shown(capsys, runs / "fast-1", runs / "fast-2")[0]["model.skip_sum"]) == ["-", "true"]


def test_a_run_that_began_with_another(runs, capsys):
    path = runs / "fast-1" / "config.yaml"
    path.write_text(path.read_text().replace("init_from: null", "init_from: /some/where/first"))
    assert sorted(shown(capsys, runs / "fast-1", runs / "fast-2")[0]["init_from"]) == ["-", "first"]


def test_a_damaged_run_is_left_out_and_named(runs, capsys):
    (runs / "gru" / "config.yaml").write_text("{")
    lines, said = shown(capsys, runs)
    assert lines["name"] == ["fast-*", "slow-*"] and f"{runs / 'gru'} is left out, it is damaged" in said.err


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "needs two runs or more, not 0"),
        (["gru"], "needs two runs or more, not 1"),
        (["gru", "nowhere"], "nowhere is not a folder"),
        (["gru/checkpoints"], "is no run, and there is none in it"),
        (["gru", "--csv"], "knows no --csv"),
        (["gru", "fast-1", "--json"], "--json needs a file"),
    ],
)
def test_what_cannot_be_compared(runs, monkeypatch, words, message):
    monkeypatch.chdir(runs)
    with pytest.raises(ConfigError, match=message):
        main(words)


def test_the_command(runs):
    done = command("compare", "fast-1", "gru", cwd=runs)
    assert "model.cell" in done.stdout
    failed = command("compare", "fast-1", cwd=runs, check=False)
    assert failed.returncode == 2 and failed.stderr.startswith("seqlm: seqlm compare needs two runs")
