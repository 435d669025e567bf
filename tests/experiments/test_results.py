"""The README says what the records say, and records say what the issue of honesty asks."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import pytest

from seqlm.commands.eval import evaluate_run as evaluate
from seqlm.config.compose import experiment
from seqlm.config.values import load_config
from seqlm.errors import SeqlmError
from seqlm.evaluation.reproduction import record_changes
from seqlm.training.launch import train

from ..conftest import REPOSITORY, compose, script

RECORDS = sorted((REPOSITORY / "results").glob("*.json"))


def test_the_readme_shows_the_records():
    command = [sys.executable, str(REPOSITORY / "scripts" / "results.py"), "table", "--check"]
    assert subprocess.run(command).returncode == 0, "run: python scripts/results.py table"


@pytest.mark.parametrize("path", RECORDS, ids=[path.stem for path in RECORDS])
def test_records_hold_no_paths(path):
    assert "data.path" not in path.read_text() and '"/' not in path.read_text()
    json.loads(path.read_text())


@pytest.mark.parametrize("path", RECORDS, ids=[path.stem for path in RECORDS])
def test_records_are_of_the_experiments_that_there_are(path):
    """Under today's names of keys and classes, whenever they were made."""
    written = json.loads(path.read_text())
    if "experiment" not in written:
        pytest.skip("not the record of a run")
    assert record_changes(written, experiment(written["experiment"])) == []


@pytest.fixture
def results(tmp_path, monkeypatch):
    """scripts/results.py with no records but those of `tmp_path`."""
    module = script("results")
    for reader in (module, module.measurements):
        monkeypatch.setattr(reader, "RESULTS", tmp_path)
    return module


def recorded(folder, name, seed, ppl, **changes):
    """zaremba_small as it was measured, but for the seed and the perplexities."""
    made = json.loads((REPOSITORY / "results" / "zaremba_small.json").read_text())
    made |= {"seed": seed, "seconds": 600.0 * seed, "tokens": 1200}
    made["config"] |= {"seed": seed, **changes}
    for split in ("valid", "test"):
        made["scores"][split]["ppl"] = ppl + (split == "valid")
    (folder / name).write_text(json.dumps(made))
    return made


def rows(results, word):
    return [line for line in results.table().splitlines() if f"experiment={word}" in line]


def test_seeds_are_one_row_with_their_mean(results, tmp_path):
    assert [row.count("not run yet") for row in rows(results, "zaremba_small")] == [1]
    first = recorded(tmp_path, "zaremba_small.json", 1, 114.0)
    assert "| **114.00** | 115.00 | 13 epochs | 10 min | 2 |" in rows(results, "zaremba_small")[0]
    recorded(tmp_path, "zaremba_small-seed2.json", 2, 115.5)
    recorded(tmp_path, "zaremba_small-seed3.json", 3, 116.5)
    recorded(tmp_path, "zaremba_small-fused.json", 1, 99.0)
    auto, fused = rows(results, "zaremba_small")
    assert "| 114.5 | **115.33** (3 seeds) | 116.33 | 13 epochs | 20 min | 1 |" in auto
    assert "engine=fused" in fused and "| **99.00** | 100.00 |" in fused
    first["scores"]["test_adapted"] = {"ppl": 90.0}
    (tmp_path / "zaremba_small.json").write_text(json.dumps(first))
    assert "| **115.33, adapted 90.00 (1 of them)** (3 seeds) |" in rows(results, "zaremba_small")[0]


def test_seeds_of_another_setting_are_no_seeds(results, tmp_path):
    recorded(tmp_path, "zaremba_small.json", 1, 114.0)
    recorded(tmp_path, "zaremba_small-seed2.json", 2, 115.5, **{"train.l2": 0.0, "optim.lr": 2.0})
    with pytest.raises(
        SeqlmError, match="zaremba_small-seed2.json is not the setting of zaremba_small.json: optim.lr: 1"
    ):
        results.table()


def interrupted(folder, name, splits):
    """Makes of the record of a finished run one of a run that was interrupted after three evaluations."""
    made = json.loads((folder / name).read_text())
    made |= {"status": "interrupted", "curve": [[step, step] for step in (10, 20, 30)], "steps": 1031}
    made["scores"] = {split: made["scores"][split] for split in splits}
    (folder / name).write_text(json.dumps(made))


def test_an_interrupted_run_says_how_far_it_came(results, tmp_path):
    recorded(tmp_path, "zaremba_small.json", 1, 114.0)
    interrupted(tmp_path, "zaremba_small.json", ["valid", "test"])
    assert "| **114.00** | 115.00 | 3 of 13 epochs | 10 min |" in rows(results, "zaremba_small")[0]
    interrupted(tmp_path, "zaremba_small.json", ["valid"])
    assert "| not yet | 115.00 | 3 of 13 epochs | 10 min |" in rows(results, "zaremba_small")[0]
    recorded(tmp_path, "zaremba_small-seed2.json", 2, 114.0)
    with pytest.raises(SeqlmError, match="zaremba_small: no mean over seeds while one of 2 is not finished"):
        results.table()
    recorded(tmp_path, "zaremba_small.json", 1, 114.0, **{"train.eval_every": 100})
    interrupted(tmp_path, "zaremba_small.json", ["valid"])
    (tmp_path / "zaremba_small-seed2.json").unlink()
    assert "| 1,031 steps, not finished | 10 min |" in rows(results, "zaremba_small")[0]


def told(folder, name, seed, minutes, scores, **changes):
    """A record of another task: its metrics on test, each a tenth less on valid."""
    made = {"seed": seed, "seconds": 60.0 * minutes, "reported": list(scores), "parameters": {"total": 104_920}}
    made["scores"] = {"test": scores, "valid": {metric: 0.9 * value for metric, value in scores.items()}}
    made["config"] = {"seed": seed, "optim.lr": 0.003, "train.epochs": 13, "train.eval_every": None, **changes}
    (folder / f"{name}.json").write_text(json.dumps(made))


def other_rows(results, word):
    return [line for line in results.other_tasks().splitlines() if f"experiment={word}" in line]


def test_other_tasks_are_rows_with_mean_and_deviation(results, tmp_path, monkeypatch):
    assert other_rows(results, "atis_elman") == ["| `experiment=atis_elman` | tagging | |  | not run yet | | |"]
    assert not other_rows(results, "zaremba_small") and not rows(results, "atis_elman")
    told(tmp_path, "atis_elman", 1, 0.25, {"f1": 0.95})
    assert other_rows(results, "atis_elman") == [
        "| `experiment=atis_elman` | tagging | 104,920 |  | **F1 95.00** (1 seed) | F1 85.50 | 0.2 min |"
    ]
    told(tmp_path, "atis_elman-seed2", 2, 0.5, {"f1": 0.951})
    told(tmp_path, "atis_elman-seed3", 3, 0.45, {"f1": 0.953})
    told(tmp_path, "atis_elman-fused", 1, 75, {"f1": 0.5})
    monkeypatch.setattr(results.reproduction, "published_of", lambda _: {"test": 94.8, "unit": "f1", "about": True})
    # Mean 95.1333; deviations -0.1333, -0.0333, 0.1667: sqrt((0.01778 + 0.00111 + 0.02778) / 2) = 0.1528.
    auto, fused = other_rows(results, "atis_elman")
    assert auto.endswith("| F1 about 94.8 | **F1 95.13 ± 0.15** (3 seeds) | F1 85.62 ± 0.14 | 0.4 min |")
    assert "`experiment=atis_elman engine=fused`" in fused and "**F1 50.00** (1 seed) | F1 45.00 | 75 min |" in fused
    interrupted(tmp_path, "atis_elman-fused.json", ["valid"])
    assert other_rows(results, "atis_elman")[1].endswith("| not yet | F1 45.00 | 75 min, 3 of 13 epochs |")


def test_every_metric_that_a_task_is_told_by(results, tmp_path):
    told(tmp_path, "dates", 1, 3, {"exact": 0.99, "bleu": 40.0})
    told(tmp_path, "dates-seed2", 2, 3, {"exact": 0.98, "bleu": 42.0})
    assert (
        "**exact 98.50 ± 0.71, BLEU 41.00 ± 1.41** (2 seeds) | exact 88.65 ± 0.64, BLEU 36.90 ± 1.27 |"
        in (other_rows(results, "dates")[0])
    )
    told(tmp_path, "dates-seed2", 2, 3, {"exact": 0.98, "bleu": 42.0}, **{"optim.lr": 0.1})
    with pytest.raises(SeqlmError, match=r"dates-seed2.json is not the setting of dates.json: optim.lr: 0.003 -> 0.1"):
        results.other_tasks()


def test_a_record_changes_the_readme(results, tmp_path, monkeypatch):
    names = ("README.md", "results.md", "reliability.md", "scaling.md", "score.md", "searches.md")
    readme, page, *others = (tmp_path / name for name in names)
    for path in (readme, page, *others):
        path.write_text(f"before\n{results.START}\n{results.END}\nafter\n")
    monkeypatch.setattr(results, "README", readme)
    monkeypatch.setattr(results, "DOCS", tmp_path)

    def done(*words):
        monkeypatch.setattr(sys, "argv", ["results.py", "table", *words])
        return results.main()

    assert done("--check") == 1 and done() == 0 and done("--check") == 0
    told(tmp_path, "atis_jordan", 1, 3, {"f1": 0.95})
    assert done("--check") == 1 and "F1 95.00" not in page.read_text()
    assert done() == 0 and done("--check") == 0
    empty = f"before\n{results.START}\n{results.END}\nafter\n"
    assert done() == 0 and all(path.read_text() == empty for path in others)
    for text in (page.read_text(), readme.read_text()):
        assert text.startswith("before\n") and text.endswith("\nafter\n") and "`experiment=zaremba_small`" in text
    assert "F1 95.00" in page.read_text() and "atis_jordan" not in readme.read_text()


def test_the_record_of_reliability_is_a_table(results, tmp_path):
    assert results.measurements.reliability() == ""
    campaign = {"about": "kill -9", "counts": {"kills": 3000}, "failures": 0, "seconds": 192, "hardware": "a CPU",
                "torch": "2", "python": "3", "mutants": {"skip-flush": True, "unseen": False}}  # fmt: skip
    (tmp_path / "reliability.json").write_text(json.dumps({"kill": campaign}))
    text = results.measurements.reliability()
    assert text.startswith("a CPU, torch 2, Python 3.")
    assert "| `kill` | kill -9 | 3,000 kills | 0 | `skip-flush` | 3.2 min |" in text
    saving = {"what": "saving", "model": "default", "save_ms": 250.4, "step_ms": 500, "every": 500, "share": 0.001}
    costs = {"hardware": "a CPU", "safety": [saving, {"what": "opening", "gb": 1, "seconds_per_gb": 0.5}]}
    (tmp_path / "bench-safety.json").write_text(json.dumps(costs))
    text = results.measurements.reliability()
    assert "| checking and saving, default | 250 ms every 500 steps of 500 ms: 0.10% of the time |" in text
    assert text.endswith("| opening a cache that is verified | 0.50 s a GB |\n")


def test_the_record_of_scoring_is_a_table(results, tmp_path):
    assert results.measurements.scoring() == ""
    row = {"model": "32 units, characters", "length": 20, "ranked": False, "alone": 61.04, "together": 3.05}
    record = {"hardware": "a CPU", "torch": "2", "rows": [row, {**row, "ranked": True}]}
    (tmp_path / "score-speed.json").write_text(json.dumps(record))
    text = results.measurements.scoring()
    assert text.startswith("Microseconds a token: `scripts/score_speed.py`, a CPU, one thread, torch 2.\n\n")
    assert "| 32 units, characters | 20 | no | 61.0 | 3.0 | 20.01x |\n" in text and "| 20 | yes | 61.0 |" in text


def test_the_record_of_reliability_is_whole():
    """Of full campaigns: all of each was tried, nothing was found, every broken product was noticed."""
    path = REPOSITORY / "results" / "reliability.json"
    if not path.is_file():
        pytest.skip("python scripts/campaign.py full makes it")
    for name, campaign in json.loads(path.read_text()).items():
        assert campaign["failures"] == 0 and all(campaign["mutants"].values()) and campaign["mutants"], name
        assert all(campaign["counts"][what] >= least for what, least in campaign["wanted"].items()), name


def test_a_run_becomes_a_record(results, tmp_path, monkeypatch):
    words = ["task=tagging", "model=tagger", "data=taipei", "data.sentences=50", "model.hidden_size=8", "threads=1"]
    config = compose(*words, "train.steps=2", "seed=5", f"run.root={tmp_path}", "run.name=run")
    train(config, {"experiment": "atis_bielman"})
    monkeypatch.setattr(
        results, "experiment", lambda _: {**asdict(load_config(tmp_path / "run" / "config.yaml")), "seed": 1}
    )
    with pytest.raises(SeqlmError, match="has no score of its best checkpoint"):
        results.record(str(tmp_path / "run"))
    for split in ("valid", "test"):
        evaluate(str(tmp_path / "run"), [f"split={split}"], True)
    path = results.record(str(tmp_path / "run"))
    assert (
        path == tmp_path / "atis_bielman-seed5.json" and "report" not in json.loads(path.read_text())["scores"]["test"]
    )
    f1 = 100 * json.loads(path.read_text())["scores"]["test"]["f1"]
    assert f"**F1 {f1:.2f}** (1 seed)" in other_rows(results, "atis_bielman")[0]


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) < 120
