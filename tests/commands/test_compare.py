"""seqlm compare: what differs, means over seeds, and what does not compare."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import statistics
import time

import pytest

from seqlm.commands.compare import _mean, main
from seqlm.commands.runs import main as list_runs
from seqlm.commands.words import path_to_write
from seqlm.errors import ConfigError
from seqlm.runs import finding
from seqlm.runs.folder import RunFolder
from seqlm.training.launch import resume, train

from ..conftest import seqlm as command
from ..conftest import tiny

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
    assert " ".join(lines["seeds"]).count("1, 2") == 2 and lines["seeds"].count("1") == 1
    both = [best(runs, name) for name in ("slow-1", "slow-2")]
    assert lines["valid ppl"][-3:] == [f"{statistics.fmean(both):.2f}", "±", f"{statistics.stdev(both):.2f}"]
    told = json.loads((runs / "told.json").read_text())
    assert told["incomparable"] is None and told["same"]["train.batch_size"] == 4 and "optim.lr" not in told["same"]
    slow = told["settings"][-1]
    assert slow["config"]["optim.lr"] == 1e-5
    assert [(run["path"], run["seed"], run["valid"]["ppl"]) for run in slow["runs"]] == [
        (str(runs / "slow-1"), 1, both[0]), (str(runs / "slow-2"), 2, both[1])
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
    assert head.split()[:4] == ["name", "runs", "seeds", "optim.lr"] and len(rows) == 11
    assert rows[-1].split()[:5] == ["slow-*", "2", "1,", "2", "1e-05"]
    main([str(runs), "--sort", "optim.lr", "--markdown"])
    head, rule, *rows = capsys.readouterr().out.splitlines()[2:]
    assert head.startswith("| name | runs | seeds | optim.lr |") and rule.startswith("| --- | ---: |")
    rates = [float(row.split("|")[4]) for row in rows]
    assert rates == sorted(rates) and len(rates) == 11


def test_what_was_scored_on_test_and_by_how_many(runs, capsys):
    step = finding.best_step(runs / "fast-1" / "checkpoints")
    (runs / "fast-1" / "eval-test.json").write_text(json.dumps({"checkpoint": step, "ppl": 3.25}))
    (runs / "fast-2" / "eval-test.json").write_text(json.dumps({"checkpoint": step + 1, "ppl": 3.25}))  # of no use
    assert shown(capsys, runs / "fast-1", runs / "fast-2")[0]["test ppl"] == ["3.25", "(1", "of", "2)"]


def test_runs_alike_and_one_that_did_not_finish(runs, capsys):
    assert shown(capsys, runs / "fast-1", runs / "fast-2")[1].out.startswith("2 runs alike\n")
    RunFolder(runs / "fast-2").update(status="interrupted")
    lines, said = shown(capsys, runs / "fast-1", runs / "fast-2")
    assert said.out.startswith("2 runs of 2 settings") and "±" not in said.out
    assert dict(zip(lines["name"], lines["status"], strict=True)) == {"fast-1": "finished", "fast-2": "interrupted"}


def test_a_run_of_the_same_seed_is_no_second_one(runs, capsys):
    shutil.copytree(runs / "fast-1", runs / "again")
    lines, said = shown(capsys, runs / "fast-1", runs / "fast-2", runs / "again", "--json", runs / "told.json")
    assert lines["runs"] == ["2"] and " ".join(lines["seeds"]) == "1, 2"
    assert f"{runs / 'again'} repeats {runs / 'fast-1'}, with the same seed: counted once" in said.out
    (setting,) = json.loads((runs / "told.json").read_text())["settings"]
    assert setting["duplicates"] == [str(runs / "again")] and len(setting["runs"]) == 2
    assert "±" not in shown(capsys, runs / "fast-1", runs / "again")[1].out
    main([str(runs), "--html", str(runs / "page.html"), "--sort", "-seeds"])
    page = (runs / "page.html").read_text()
    assert f"{runs / 'fast-1'} repeats {runs / 'again'}, with" in page, "in the order of their names"
    assert "best first by loss on valid." in page
    assert "by seeds\n" in capsys.readouterr().out


def test_runs_of_another_history_are_another_setting(runs, tmp_path, capsys):
    """9 steps at once, and 6 that were extended to 9, which the schedule did not plan for."""
    train(tiny(tmp_path, *SHORT, "schedule=constant", name="whole"), {})
    train(tiny(tmp_path, *SHORT, "schedule=constant", "train.steps=6", "seed=2", name="extended"), {})
    resume(tmp_path / "extended", ["train.steps=9", "train.log_every=1"])
    capsys.readouterr()
    lines, said = shown(capsys, tmp_path / "whole", tmp_path / "extended")
    assert said.out.startswith("2 runs of 2 settings") and "±" not in said.out
    assert "train.steps=9 at step 6" in " ".join(lines["resumed with"])
    assert RunFolder(tmp_path / "extended").info()["history"] == [{"step": 6, "changed": {"train.steps": [6, 9]}}]
    resume(tmp_path / "whole", [])  # finished: nothing is done, and nothing is another history
    assert not RunFolder(tmp_path / "whole").info().get("history")


@pytest.mark.parametrize("width", [40, 60, 200])
def test_a_table_that_is_too_wide_becomes_blocks(runs, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    main([str(runs)])
    out = capsys.readouterr().out
    body = out.partition("\n\n")[2]
    assert max(map(len, body.splitlines())) <= width and body.count("valid ppl") == (
        1 if width == 200 else 3 if width == 40 else 2
    )


def test_numbers_that_do_not_compare_are_not_ranked(runs, capsys):
    first, second = RunFolder(runs / "fast-1").info()["data_fingerprint"].split("/")
    RunFolder(runs / "gru").update(data_fingerprint=f"other/{second}")  # of train: it may help
    lines, said = shown(capsys, runs)
    assert "best first by loss on valid" in said.out and len(lines["data fingerprint"]) == 3 * 3
    RunFolder(runs / "fast-2").update(data_fingerprint=f"{first}/other")
    lines, said = shown(capsys, runs)
    assert "4 settings, by name: they are not scored on the same data" in said.out
    assert lines["name"] == ["fast-1", "fast-2", "gru", "slow-*"]
    RunFolder(runs / "slow-1").update(monitor="f1")
    assert "they do not monitor the same metric" in shown(capsys, runs / "slow-1", runs / "fast-1")[1].out
    config = runs / "gru" / "config.yaml"
    config.write_text(config.read_text().replace("seqlm.tasks.lm.LanguageModeling", "seqlm.tasks.tagging.Tagging"))
    lines, said = shown(capsys, runs)
    assert "by name: their tasks differ" in said.out and "Tagging" in lines["task"]


def test_a_setting_is_ranked_by_the_runs_that_were_evaluated(runs, capsys):
    RunFolder(runs / "fast-1").update(status="running", metrics={}, steps=None, seconds=None)
    (runs / "fast-1" / "metrics.jsonl").write_text("")
    lines, _ = shown(capsys, runs / "fast-1", runs / "fast-2", runs / "slow-1")
    assert lines["name"] == ["fast-2", "slow-1", "fast-1"]  # which has no evaluation yet
    assert lines["valid ppl"][0] == f"{best(runs, 'fast-2'):.2f}"
    assert lines["steps"] == ["9", "9"] and lines["status"] == ["finished", "finished", "crashed"]


def test_parts_of_one_name_are_not_one_part(runs, capsys):
    config = runs / "fast-2" / "config.yaml"
    config.write_text(config.read_text().replace("seqlm.cells.lstm.LSTMCell", "mylab.LSTMCell"))
    assert shown(capsys, runs / "fast-1", runs / "fast-2")[0]["model.cell"] == [
        "seqlm.cells.lstm.LSTMCell",
        "mylab.LSTMCell",
    ]


@pytest.mark.parametrize(("line", "other"), [("skip_sum: false", "skip_sum: true"), ("state: 0.0", "state: 0.5")])
def test_options_younger_than_a_run_are_at_their_defaults(runs, capsys, line, other):
    """The first run has not heard of it, the second leaves it, the third sets it."""
    old, new, odd = (runs / name / "config.yaml" for name in ("fast-1", "fast-2", "slow-1"))
    assert old.read_text().count(f"  {line}\n") == 1
    old.write_text("".join(part for part in old.read_text().splitlines(True) if part.strip() != line))
    odd.write_text(new.read_text().replace(line, other))
    for order in ((old, new, odd), (odd, old, new), (new, odd, old)):
        lines, _ = shown(capsys, *(path.parent for path in order))
        assert lines["runs"] == ["2"]
        key = next(key for key in lines if key.endswith(line.partition(":")[0]))
        assert sorted(lines[key]) == sorted([line.split()[1], other.split()[1]])
    assert shown(capsys, old.parent, odd.parent)[0][key]


def test_equal_values_written_otherwise_are_equal(runs, capsys):
    config = runs / "fast-2" / "config.yaml"
    assert "weight_decay: 0.0" in config.read_text()
    config.write_text(config.read_text().replace("weight_decay: 0.0", "weight_decay: 0"))
    assert shown(capsys, runs / "fast-1", runs / "fast-2")[1].out.startswith("2 runs alike")


def test_null_is_what_a_part_without_the_key_has(runs, capsys):
    config = runs / "slow-1" / "config.yaml"
    config.write_text(
        config.read_text().replace("_target_: seqlm.cells.lstm.LSTMCell", "_target_: mylab.Cell\n    odd: null")
    )
    lines, _ = shown(capsys, runs / "fast-1", runs / "slow-1", "--json", runs / "told.json")
    assert lines["name"] == ["fast-1", "slow-1"] and "model.cell.odd" not in lines
    told = json.loads((runs / "told.json").read_text())
    assert told["same"]["model.cell.odd"] is None


def test_runs_that_began_with_others(runs, capsys):
    for name, first in (("fast-1", "/a/first"), ("fast-2", "/a/second")):
        config = runs / name / "config.yaml"
        config.write_text(config.read_text().replace("init_from: null", f"init_from: {first}"))
    assert sorted(shown(capsys, runs / "fast-1", runs / "fast-2")[0]["init_from"]) == ["first", "second"]
    config.write_text(config.read_text().replace("/a/second", "/b/first"))
    assert sorted(shown(capsys, runs / "fast-1", runs / "fast-2")[0]["init_from"]) == ["/a/first", "/b/first"]


def test_runs_that_read_others(runs, capsys):
    for name, read in (("fast-1", "first"), ("fast-2", "second")):
        config = runs / name / "config.yaml"
        models = f"model:\n  language_models:\n  - run: /a/{read}\n"
        config.write_text(re.sub("^model:\n", models, config.read_text(), flags=re.M))
    lines, _ = shown(capsys, runs / "fast-1", runs / "fast-2")
    assert "model.language_models" in lines and sorted(lines["name"]) == ["fast-1", "fast-2"]


def test_names_tell_settings_apart(runs, capsys, monkeypatch):
    shutil.copytree(runs / "gru", runs / "fast-3")
    lines, _ = shown(capsys, *(runs / f"fast-{index}" for index in (1, 2, 3)))
    assert sorted(lines["name"]) == ["fast-*", "fast-3"]
    config = runs / "slow-1" / "config.yaml"
    config.write_text((runs / "fast-3" / "config.yaml").read_text())
    RunFolder(runs / "slow-1").update(seed=2)
    (runs / "slow-1").rename(runs / "fast-4")
    lines, _ = shown(capsys, *(runs / f"fast-{index}" for index in (1, 2, 3, 4)))
    assert sorted([" ".join(lines["name"][:2]), " ".join(lines["name"][2:])]) == ["fast-1, fast-2", "fast-3, fast-4"]
    (runs / "deep").mkdir()
    shutil.copytree(runs / "gru", runs / "deep" / "fast-1")
    monkeypatch.chdir(runs / "deep" / "fast-1")
    lines, _ = shown(capsys, ".", runs / "fast-1")
    assert sorted(lines["name"]) == [str(runs / "deep" / "fast-1"), str(runs / "fast-1")]


@pytest.mark.parametrize(
    ("file", "text"),
    [("config.yaml", "{"), ("run.json", '{"parameters": {"total": "many"}}'), ("run.json", '{"history": 3}')],
)
def test_a_damaged_run_is_left_out_and_named(runs, capsys, file, text):
    (runs / "gru" / file).write_text(text)
    lines, said = shown(capsys, runs)
    assert lines["name"] == ["fast-*", "slow-*"] and f"{runs / 'gru'} is left out: " in said.err


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "needs two runs or more, not 0"),
        (["gru"], "needs two runs or more, not 1"),
        (["gru", "nowhere"], "nowhere is not a folder"),
        (["gru/checkpoints"], "is no run, and there is none in it"),
        (["gru", "--tsv"], "knows no --tsv"),
        (["gru", "--csv", "--markdown"], "--markdown and --csv are two ways"),
        (["gru", "--html", "nowhere/page.html"], "--html=nowhere/page.html cannot be written"),
        (["gru", "fast-1", "--json"], "--json needs a file: --json FILE"),
        (["gru", "fast-1", "--json="], "--json needs a file: --json FILE"),
        (["gru", "fast-1", "--json", "."], "--json=. is a folder"),
        (["gru", "fast-1", "--json", "pipe"], "--json=pipe is a device or a pipe"),
        (["gru", "fast-1", "--json", "no/x.json"], "--json=no/x.json cannot be written: there is no folder no"),
    ],
)
def test_what_cannot_be_compared(runs, monkeypatch, words, message):
    os.mkfifo(runs / "pipe")  # not a device of the machine: a test that goes wrong would replace it by a file
    monkeypatch.chdir(runs)
    with pytest.raises(ConfigError, match=message):
        main(words)


def test_what_cannot_be_written_is_said_before_anything_is_computed(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "there" / "x.json")
    assert path_to_write("--json=link.json", str(tmp_path / "link.json")) == tmp_path / "there" / "x.json"
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path / "there")
    assert path_to_write("--json=x.json", str(tmp_path / "x.json")) == tmp_path / "x.json"
    with pytest.raises(ConfigError, match="--json=link.json cannot be written: nothing may be written into .*there"):
        path_to_write("--json=link.json", str(tmp_path / "link.json"))


def test_runs_are_named_as_seqlm_runs_names_them(runs, tmp_path, monkeypatch, capsys):
    runs.rename(tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    lines, _ = shown(capsys, "fast-1", "slow-1")
    assert sorted(lines["name"]) == ["fast-1", "slow-1"]


def test_the_command(runs):
    done = command("compare", "fast-1", "gru", cwd=runs)
    assert "model.cell" in done.stdout
    failed = command("compare", "fast-1", cwd=runs, check=False)
    assert failed.returncode == 2 and failed.stderr.startswith("seqlm: seqlm compare needs two runs")


@pytest.mark.parametrize(("higher", "first"), [(True, "good"), (False, "bad")])
def test_a_run_says_in_which_direction_its_metric_is_better(runs, capsys, higher, first):
    """Runs of a task that no reader knows: run.json holds the digits and the direction of its metric."""
    metric = {"name": "taste", "digits": 1, "percent": False, "higher_is_better": higher, "title": ""}
    for name, value in (("good", 9.0), ("bad", 2.0)):
        folder = RunFolder((runs / ("fast-1" if name == "good" else "gru")).rename(runs / name))
        values = {"valid/loss": 1.0, "valid/taste": value}
        folder.update(monitor="taste", declared_metrics=[metric], metrics=values, status="finished")
    lines, said = shown(capsys, runs / "good", runs / "bad")
    assert "best first by taste on valid" in said.out and lines["name"][0] == first
    assert sorted(lines["valid taste"]) == ["2.0", "9.0"]
    for name in ("fast-2", "slow-1", "slow-2"):
        shutil.rmtree(runs / name)
    list_runs([str(runs)])
    title, *rows = capsys.readouterr().out.splitlines()
    assert rows[0].split()[0].endswith(first) and "valid taste" in title


def test_an_older_run_is_read_by_the_metrics_of_its_version(runs, capsys):
    """Without its declarations, and with the old name of the monitor."""
    for name, accuracy in (("fast-1", 0.25), ("gru", 0.75)):
        path = runs / name / "run.json"
        info = json.loads(path.read_text())
        del info["monitor"], info["declared_metrics"]
        values = {"valid/loss": 1.0, "valid/accuracy": accuracy, "valid/ppl": 3.0}
        path.write_text(json.dumps(info | {"judged_by": "accuracy", "metrics": values}))
    lines, said = shown(capsys, runs / "fast-1", runs / "gru")
    assert "best first by accuracy on valid" in said.out and lines["name"] == ["gru", "fast-1"]
    assert lines["valid accuracy"] == ["0.7500", "0.2500"] and lines["valid ppl"] == ["3.00", "3.00"]


def test_a_page_of_all_of_it(runs, capsys, monkeypatch):
    """Names, numbers, curves and samples; a run whose records are damaged, one without any, and tasks that differ."""
    (runs / "slow-2" / "metrics.jsonl").write_bytes(b"\xff not a record\n")
    (runs / "gru" / "metrics.jsonl").unlink()
    main([str(runs), "--html", str(runs / "page.html")])
    page = (runs / "page.html").read_text()
    said = capsys.readouterr().out
    for number in re.findall(r"\d+\.\d+ ± \d+\.\d+", said):
        assert number in page
    assert page.count("<polyline") >= 6 and page.count("<script") == 1 and "valid loss" in page
    assert all(str(runs / name) in page for name in RUNS)
    sample = max((runs / "fast-1" / "samples").glob("*")).read_text().splitlines()[0]
    assert sample.replace("<", "&lt;").replace('"', "&quot;")[:8] in page
    pairs = [str(runs / name) for name in RUNS if name != "gru"]
    main([*pairs, "--html", str(runs / "page.html")])
    assert re.search(r"<td[^>]*>(&lt;0.0001|[\d.e-]+) \(2, 2 seeds\)</td>", (runs / "page.html").read_text())
    monkeypatch.setattr("seqlm.commands.compare.incomparable", lambda settings: "they are apples and pears")
    main([str(runs), "--html", str(runs / "page.html")])
    assert 'class="best"' not in (runs / "page.html").read_text() and "p, valid" not in (runs / "page.html").read_text()


def test_rows_with_commas_between(runs, capsys):
    main([str(runs), "--csv", "--json", str(runs / "kept.json")])
    assert json.loads((runs / "kept.json").read_text())["settings"]
    names, *rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert (
        len(rows) == 3 and all(len(row) == len(names) for row in rows) and {"name", "seeds", "valid ppl"} <= set(names)
    )


def test_two_hundred_runs_are_a_small_page(runs, capsys):
    """Of 3 MB at most, whatever they logged, and soon there: a curve has a bounded number of points."""
    records = [
        {"step": k, "tokens": 9 * k, "seconds": k, "train/loss": 2 + 1 / k, "valid/loss": 3.0} for k in range(1, 400)
    ]
    for number in range(195):
        shutil.copytree(runs / "gru", runs / f"copy-{number}", ignore=shutil.ignore_patterns("checkpoints", "events*"))
        config = runs / f"copy-{number}" / "config.yaml"
        config.write_text(re.sub(r"lr: .*", f"lr: {1e-3 + number * 1e-5}", config.read_text(), count=1))
        lines = map(json.dumps, records)
        (runs / f"copy-{number}" / "metrics.jsonl").write_text("\n".join(lines))
    started = time.process_time()
    main([str(runs), "--html", str(runs / "page.html")])
    assert (runs / "page.html").stat().st_size < 3_000_000
    assert time.process_time() - started < 20, "5 s are promised on an idle machine"
