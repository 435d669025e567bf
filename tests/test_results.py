"""The README says what the records say, and records say what the issue of honesty asks."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from .conftest import REPOSITORY

RECORDS = sorted((REPOSITORY / "results").glob("*.json"))


def test_the_readme_shows_the_records():
    command = [sys.executable, str(REPOSITORY / "scripts" / "results.py"), "table", "--check"]
    assert subprocess.run(command).returncode == 0, "run: python scripts/results.py table"


@pytest.mark.parametrize("path", RECORDS, ids=[path.stem for path in RECORDS])
def test_records_hold_no_paths(path):
    assert "data.path" not in path.read_text() and '"/' not in path.read_text()
    json.loads(path.read_text())


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) < 200
