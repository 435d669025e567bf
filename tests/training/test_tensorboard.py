"""TensorBoard shows N runs as N runs, with status, hyper-parameters and scores, and no zig-zag after a resume."""

from __future__ import annotations

import errno
import json
import math
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from urllib.parse import urlencode

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

from seqlm.commands.eval import evaluate_run
from seqlm.errors import NoRoom, Stopped
from seqlm.runs.folder import RunFolder
from seqlm.training.launch import resume, train
from seqlm.training.loggers.base import Opening
from seqlm.training.loggers.run_logger import RunLogger
from seqlm.training.loggers.tensorboard import TensorBoard

from ..conftest import compose, tiny
from .test_resume import stop_at
from .test_training import of


def test_a_full_disk_under_the_events_is_an_error_with_the_folder(tmp_path, monkeypatch, capfd):
    """TensorBoard writes in a thread of its own, which would print a traceback and end."""

    def full(writer, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    logger = RunLogger(Opening(tmp_path), {"tensorboard": TensorBoard()})
    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
    with pytest.raises(NoRoom, match=f"{tmp_path} could not be written: the disk is full"):
        for step in range(100):
            logger.scalars(step, step, 1.0, {"train/loss": 1.0})
            logger.flush()
    with pytest.raises(NoRoom):
        logger.close("failed")
    assert capfd.readouterr().err == ""


def opened(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def sessions(folder):
    """The hparams records of one run: (start, end or None)."""
    contents = opened(folder).summary_metadata
    start, end = (contents.get(tag) for tag in (metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG))

    def parsed(item):
        data = plugin_data_pb2.HParamsPluginData()
        data.ParseFromString(item.plugin_data.content)
        return data

    return parsed(start).session_start_info, parsed(end).session_end_info if end else None


def test_n_runs_show_as_n_runs(tmp_path):
    for model in ("lstm", "gru", "elman"):
        train(tiny(tmp_path, f"model={model}", name=model), {"model": model, "data": "markov"})
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    assert sorted(multiplexer.Runs()) == ["elman", "gru", "lstm"]
    for model in ("lstm", "gru", "elman"):
        start, end = sessions(tmp_path / model)
        assert start.group_name == "" and end.status == api_pb2.STATUS_SUCCESS
        assert start.hparams["model"].string_value == model
        assert start.hparams["train.batch_size"].number_value == 4
        assert start.hparams["model.tied"].bool_value is False and start.hparams["model.tied"].HasField("bool_value")
        assert len(start.hparams) <= 30


def test_scalars_and_texts(tmp_path):
    train(tiny(tmp_path), {"data": "markov"})
    events = opened(tmp_path / "run")
    wanted = {
        "train/loss",
        "train/ppl",
        "train/bpc",
        "train/grad_norm",
        "train/lr",
        "train/tokens_per_s",
        "valid/loss",
        "valid/ppl",
        "valid/bpc",
    }
    assert set(events.Tags()["scalars"]) == {*wanted, "best/valid_ppl"}
    for tag in wanted:
        points = {event.step: event.value for event in events.Scalars(tag)}
        assert points == pytest.approx(of(tag, tmp_path / "run"), rel=1e-6)
    texts = {tag.split("/")[0]: events.Tensors(tag) for tag in events.Tags()["tensors"]}
    assert b"hidden_size: 12" in texts["config"][0].tensor_proto.string_val[0]
    assert [event.step for event in texts["sample"]] == [15, 30, 40]
    assert sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())[0] == "step-000000015.txt"


def test_no_zigzag_after_a_resume_from_before_the_last_point(tmp_path, monkeypatch):
    stop_at(monkeypatch, 33)
    with pytest.raises(Stopped):
        train(tiny(tmp_path), {})
    assert sessions(tmp_path / "run")[1] is None  # interrupted: still open
    for step in (33, 32, 28):  # as if killed long after its last checkpoint
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{step:09d}", ignore_errors=True)
    resume(tmp_path / "run", [])
    events = opened(tmp_path / "run")
    for tag in ("train/loss", "valid/loss"):
        steps = [event.step for event in events.Scalars(tag)]
        assert steps == sorted(set(steps)) == sorted(of(tag, tmp_path / "run")), tag
    assert sessions(tmp_path / "run")[1].status == api_pb2.STATUS_SUCCESS


def test_sessions_of_one_second_keep_their_order(tmp_path):
    """The names of event files differ in a counter then, and 10 comes before 9: the files must not share a second."""
    for session in range(3):
        logger = RunLogger(Opening(tmp_path, 10 * session), {"tensorboard": TensorBoard()})
        logger.close("interrupted")
    seconds = [path.name.split(".")[3] for path in tmp_path.glob("events*")]
    assert len(seconds) == len(set(seconds)) == 3


def test_a_failed_run_is_shown_as_failed(tmp_path, monkeypatch):
    monkeypatch.setattr("seqlm.training.session.evaluate", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tiny(tmp_path), {})
    assert sessions(tmp_path / "run")[1].status == api_pb2.STATUS_FAILURE


# ---- the server itself, asked as its pages ask


@contextmanager
def served(folder):
    """Ask the server of TensorBoard: `ask(path)`, or `ask(path, body)` to post."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", folder, "--port", "0", "--load_fast", "false"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        address = next(found[0] for line in server.stdout if (found := re.search(r"http://[^ ]+/", line)))

        def ask(path, body=None):
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(f"{address}data/{path}", data, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)

        end = time.monotonic() + 60
        while not ask("runs") and time.monotonic() < end:
            time.sleep(0.1)
        yield ask
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


def test_the_hparams_tab(tmp_path):
    """The best of valid is the first metric, test/ comes next; runs of one name, copies and renamed ones stay apart."""
    for root in ("a", "b"):
        train(
            tiny(tmp_path / root, "train.steps=20", "optim.lr=0.02", name="same"), {"model": "lstm", "data": "markov"}
        )
    evaluate_run(str(tmp_path / "a" / "same"), ["split=test"], True)
    evaluate_run(str(tmp_path / "a" / "same"), ["split=test", "cache.size=50"], True)
    shutil.copytree(tmp_path / "a" / "same", tmp_path / "a" / "copy")
    (tmp_path / "b" / "same").rename(tmp_path / "b" / "other")
    statuses = [f"STATUS_{name}" for name in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    body = {"experimentName": "", "allowedStatuses": statuses, "colParams": [], "startIndex": 0, "sliceSize": 99}
    with served(tmp_path) as ask:
        experiment = ask("plugin/hparams/experiment", {"experimentName": ""})
        groups = ask("plugin/hparams/session_groups", body)["sessionGroups"]
        layout = ask("plugin/custom_scalars/layout")
        chart = ask("plugin/custom_scalars/scalars?" + urlencode({"run": "a/same", "tag": "^(train|valid|test)/ppl$"}))
    tags = [info["name"]["tag"] for info in experiment["metricInfos"]]
    assert tags[:4] == ["best/valid_ppl", "test-adapted/bpc", "test-adapted/loss", "test-adapted/ppl"]
    assert tags[4:7] == ["test/bpc", "test/loss", "test/ppl"]
    keys = {info["name"] for info in experiment["hparamInfos"]}
    assert {"model", "seed", "optim.lr", "train.steps", "train.batch_size"} <= keys
    assert not keys & {"train.log_every", "train.eval_batch_size", "train.default_steps", "optim.fused"}
    assert sorted(group["name"] for group in groups) == ["a/copy", "a/same", "b/other"]
    assert all(len(group["sessions"]) == 1 for group in groups)
    values = {group["name"]: {one["name"]["tag"]: one["value"] for one in group["metricValues"]} for group in groups}
    scored = json.loads((tmp_path / "a" / "same" / "eval-test.json").read_text())
    assert values["a/same"]["test/ppl"] == pytest.approx(scored["ppl"], rel=1e-6)
    assert values["b/other"]["best/valid_ppl"] == pytest.approx(min(of("valid/ppl", tmp_path / "b" / "other").values()))
    assert "test/ppl" not in values["b/other"]
    (category,) = layout["category"]
    assert [one["title"] for one in category["chart"]] == ["loss", "ppl", "bpc"]
    assert sorted(chart["tag_to_events"]) == ["test/ppl", "train/ppl", "valid/ppl"]


def test_a_task_shows_what_means_something(tmp_path):
    """Bits of characters where they are printed; no perplexity of tags."""
    (tmp_path / "text.txt").write_text("to be or not to be\n" * 200)
    text = [
        "data=text", f"data.path={tmp_path / 'text.txt'}", "data/tokenizer=char", "train.steps=6", "train.log_every=3"
    ]  # fmt: skip
    loop = ["train.batch_size=4", "train.bptt=7", "model.hidden_size=8", "sample.tokens=0", "threads=1"]
    train(compose(*text, *loop, "train.eval_batch_size=3", f"run.root={tmp_path}", "run.name=text"), {})
    losses, bits = (of(f"train/{name}", tmp_path / "text") for name in ("loss", "bpc"))
    assert bits == pytest.approx({step: loss / math.log(2) for step, loss in losses.items()})
    words = ["data=dates", "data.sizes=[40,8,8]", "model=seq2seq", "task=seq2seq", "train.steps=6", "train.log_every=3"]
    train(compose(*words, *loop[2:], "train.batch_size=4", f"run.root={tmp_path}", "run.name=dates"), {})
    tags = opened(tmp_path / "dates").Tags()["scalars"]
    assert "train/loss" in tags and "train/ppl" not in tags and "best/valid_exact" in tags


def test_a_run_that_is_being_trained_gets_no_events_of_another_process(tmp_path):
    """TensorBoard goes on to the newest file, and would read no more of those of training."""
    train(tiny(tmp_path), {})
    run = RunFolder.open(tmp_path / "run")
    run.update(status="running")
    before = sorted(run.path.glob("events*"))
    with run.locked():
        evaluate_run(str(run.path), ["split=test"], True)
    assert sorted(run.path.glob("events*")) == before and (run.path / "eval-test.json").is_file()
