"""A folder of runs that strangers may have filled: nothing in it hangs, and damage is a row, not a traceback."""

from __future__ import annotations

import os
import shutil
import socket
from contextlib import suppress

import pytest
import torch

from seqlm.errors import ConfigError
from seqlm.files import MB, sha256_of
from seqlm.runs import checkpoint, finding, upkeep
from seqlm.runs.folder import RunFolder, find_runs
from seqlm.runs.listing import row_of
from seqlm.runs.table import summarize

from ..conftest import REPOSITORY

KEPT = REPOSITORY / "tests" / "kept" / "v0.1.0" / "runs" / "lm"
FILES = ["run.json", "config.yaml", "metrics.jsonl", "eval-test.json"]
CONTENTS = [b"", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"0" * (17 * MB)]


@pytest.fixture
def run(tmp_path):
    shutil.copytree(KEPT, tmp_path / "runs" / "lm")
    return RunFolder(tmp_path / "runs" / "lm")


def replaced(path, content):
    path.unlink(missing_ok=True)
    os.mkfifo(path) if content is None else path.write_bytes(content)


@pytest.mark.parametrize("content", [None, *CONTENTS])
@pytest.mark.parametrize("name", FILES)
def test_a_table_of_runs_has_a_row_for_a_damaged_one(run, name, content):
    replaced(run.path / name, content)
    rows = [row_of(one, one.name).facts["status"] for one in find_runs(run.path.parent)]
    assert rows in ([], ["damaged"], ["finished"])
    assert rows == ["damaged"] or name != "run.json" or content is None


def test_a_pipe_as_the_lock_hangs_nobody(run):
    run.update(status="running", host=socket.gethostname())
    replaced(run.path / ".lock", None)
    assert row_of(run, run.name).facts["status"] in ("damaged", "unknown")


def test_a_running_run_reads_its_records_within_bounds(run):
    run.update(status="running", metrics={})
    whole = summarize(run).steps
    with run.metrics.open("ab") as handle:
        handle.write(b"[" * (3 * MB) + b"\nnull\n3\n")
    assert summarize(run).steps == whole
    replaced(run.metrics, None)
    assert not summarize(run).valid  # as if there were no records
    with run.path.joinpath("large").open("wb") as handle:
        handle.truncate(513 * MB)
    (run.path / "large").rename(run.metrics)
    with pytest.raises(ConfigError, match="larger than 512 MB"):
        run.records()


@pytest.mark.parametrize("content", [None, *CONTENTS])
def test_a_checkpoint_is_damaged_whatever_its_files_are(run, content):
    """None is opened before its manifest and all that it lists was read, and that within bounds."""
    folder = run.checkpoints
    (step,) = checkpoint.steps(folder)[-1:]
    for name in ("MANIFEST.sha256", "model.safetensors", "meta.json"):
        path = folder / checkpoint.step_name(step) / name
        before = path.read_bytes()
        replaced(path, content)
        assert checkpoint.verify(path.parent)
        upkeep.prune(folder, keep_last=3, keep_best=1, keep_every=None)
        replaced(path, before)
    for pointer in ("last", "best"):
        replaced(folder / pointer, content)
    with suppress(ConfigError):
        assert finding.best_step(folder) == step
    assert finding.find(folder, "last", pytest.fail).step == step


@pytest.mark.parametrize(
    "content", [b"[1, 2]", b"{", b"!!python/none 1", b'{"format": 1}', b'{"step": "../12"}', b"[" * 100_000]
)
def test_a_meta_that_its_manifest_vouches_for_is_damaged_all_the_same(run, content):
    folder = run.checkpoints
    path = folder / checkpoint.step_name(checkpoint.steps(folder)[-1])
    replaced(path / "meta.json", content)
    lines = [f"{sha256_of(path / name)}  {name}\n" for name in checkpoint.FILES]
    (path / checkpoint.MANIFEST).write_text("".join(lines))
    assert checkpoint.verify(path) == "meta.json names no step"
    meta = finding.newest_meta(folder)
    assert meta is None or isinstance(meta["step"], int)


def test_a_link_in_the_place_of_a_sample_is_replaced(run, tmp_path):
    treasure = tmp_path / "treasure"
    treasure.write_text("mine")
    run.samples.mkdir(exist_ok=True)
    (run.samples / "step-000000007.txt").symlink_to(treasure)
    run.save_sample(7, "drawn")
    assert treasure.read_text() == "mine"
    assert (run.samples / "step-000000007.txt").read_text() == "drawn\n"


def test_a_link_in_the_place_of_the_lock_is_not_followed(run, tmp_path):
    treasure = tmp_path / "treasure"
    treasure.write_text("mine")
    (run.path / ".lock").unlink(missing_ok=True)
    (run.path / ".lock").symlink_to(treasure)
    with pytest.raises(OSError, match="symbolic links"), run.locked():
        pass
    assert treasure.read_text() == "mine"


def test_a_pipe_in_the_place_of_a_checkpoint_keeps_nobody(run):
    folder = run.checkpoints
    os.mkfifo(folder / ".old-step-000000099")
    os.mkfifo(folder / ".step-000000099-old")
    upkeep.tidy(folder)
    os.mkfifo(folder / "step-000000098")
    saved = checkpoint.save(folder, torch.nn.Linear(1, 1), dict.fromkeys(checkpoint.STATE), {"step": 98})
    assert not checkpoint.verify(saved.path) and not list(folder.glob(".*step*"))
