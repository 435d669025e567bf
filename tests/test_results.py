"""The README says what the records say, and records say what the issue of honesty asks."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from seqlm.errors import SeqlmError

from .conftest import REPOSITORY

RECORDS = sorted((REPOSITORY / "results").glob("*.json"))


def test_the_readme_shows_the_records():
    command = [sys.executable, str(REPOSITORY / "scripts" / "results.py"), "table", "--check"]
    assert subprocess.run(command).returncode == 0, "run: python scripts/results.py table"


@pytest.mark.parametrize("path", RECORDS, ids=[path.stem for path in RECORDS])
def test_records_hold_no_paths(path):
    assert "data.path" not in path.read_text() and '"/' not in path.read_text()
    json.loads(path.read_text())


@pytest.fixture
def results(tmp_path, monkeypatch):
    """scripts/results.py with no records but those of `tmp_path`."""
    spec = importlib.util.spec_from_file_location("results", REPOSITORY / "scripts" / "results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path)
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


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) < 200
