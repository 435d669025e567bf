"""TensorBoard reads back N runs as N runs, with status and hyper-parameters, and no zig-zag after a resume."""

from __future__ import annotations

import shutil

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

from seqlm.errors import Stopped
from seqlm.training.launch import resume, train
from seqlm.training.loggers import RunLogger

from ..conftest import tiny
from .test_resume import stop_at
from .test_training import of


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
        assert start.group_name == model and end.status == api_pb2.STATUS_SUCCESS
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
        "train/grad_norm",
        "train/lr",
        "train/tokens_per_s",
        "valid/loss",
        "valid/ppl",
        "valid/bpc",
    }
    assert set(events.Tags()["scalars"]) == wanted
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
        logger = RunLogger(tmp_path, start_step=10 * session)
        logger.close("interrupted")
    seconds = [path.name.split(".")[3] for path in tmp_path.glob("events*")]
    assert len(seconds) == len(set(seconds)) == 3


def test_a_failed_run_is_shown_as_failed(tmp_path, monkeypatch):
    monkeypatch.setattr("seqlm.training.loop.evaluate", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tiny(tmp_path), {})
    assert sessions(tmp_path / "run")[1].status == api_pb2.STATUS_FAILURE
