"""seqlm doctor finds what is wrong with a machine, and nothing on one that works."""

from __future__ import annotations

import json
import shutil
import types

import pytest

from seqlm.commands import doctor

from ..conftest import seqlm


def test_a_machine_that_works(tmp_path):
    found = {one["name"]: one for one in json.loads(seqlm("doctor", "--json", cwd=tmp_path).stdout)}
    assert {"seqlm", "torch", "cpu", "bf16", "threads", "openmp", "compiler", "cache", "disk here"} <= found.keys()
    assert {"engine scan", "engine native", "engine fused", "engine persistent", "engine deferred"} <= found.keys()
    assert {one["state"] for one in found.values()} <= {"ok", "note"}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("place", "name", "broken", "message"),
    [
        (doctor, "_stepped", lambda cell, xs, engine, device: [float("nan") if engine == "native" else 1.0], "native"),
        (doctor, "_stepped", lambda cell, xs, engine, device: [1.0 + 1e-4 * (engine == "fused")], "engine fused"),
        (shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=1), "disk here, disk of the cache"),
        (doctor.importlib.metadata, "version", lambda name: "0.9", "torch, numpy"),
    ],
)
def test_what_is_broken_is_named(tmp_path, monkeypatch, place, name, broken, message):
    if name != "_stepped":
        monkeypatch.setattr(doctor, "engines", lambda: [])
    monkeypatch.setattr(place, name, broken)
    failed = seqlm("doctor", cwd=tmp_path, check=False)
    assert failed.returncode == 1 and message in failed.stderr, failed.stderr
    assert "bad: " in failed.stdout and "Traceback" not in failed.stderr


def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "engines", lambda: [])
    monkeypatch.setattr(doctor, "disk", lambda: [])
    (tmp_path / "file").touch()
    monkeypatch.setenv("SEQLM_CACHE", str(tmp_path / "file"))
    failed = seqlm("doctor", cwd=tmp_path, check=False)
    assert failed.returncode == 1 and "set SEQLM_CACHE to a folder of your own" in failed.stdout
