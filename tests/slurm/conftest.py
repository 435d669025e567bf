"""A stand-in cluster for the tests of jobs that SLURM runs."""

from __future__ import annotations

import os

import pytest

from ..conftest import REPOSITORY
from .standin import StandIn


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    with StandIn(tmp_path / "cluster", nodes=2) as made:
        monkeypatch.setenv("PATH", f"{made.bin}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "src"))
        yield made


@pytest.fixture
def idle(cluster):
    """The same, where nothing starts."""
    cluster.nodes = dict.fromkeys(cluster.nodes, False)
    return cluster
