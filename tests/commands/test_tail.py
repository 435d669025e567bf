"""seqlm tail shows the lines of the training, over a resume and a rollback, and leaves everything as it is."""

from __future__ import annotations

import json
import re
import signal
import threading
import time

import pytest

from seqlm.config.verb_schema import TailConfig
from seqlm.errors import Stopped
from seqlm.runs.folder import RunFolder
from seqlm.runs.follow import Follower
from seqlm.runs.lock import held
from seqlm.sweep import tail as sweep_tail
from seqlm.training import tail
from seqlm.training.console import Console
from seqlm.training.launch import resume, train

from ..conftest import seqlm, tiny
from ..training.test_resume import stop_at


def lines_of(output: str) -> list[str]:
    """The lines of steps and evaluations, without the time that is left, which is guessed."""
    return [re.sub(r"  eta [\d:]+", "", line) for line in output.splitlines() if line.startswith("step ")]


@pytest.fixture
def every_line(monkeypatch):
    """A training that prints each record: by default it is silent for some seconds between two."""
    monkeypatch.setattr(Console.__init__, "__defaults__", (None, 0.0))


def options(**changed):
    return TailConfig(**{"lines": 20, "follow": False, "wait": False, "samples": False, **changed})


def test_the_lines_are_those_of_the_training(tmp_path, every_line, capsys):
    train(tiny(tmp_path, "data/tokenizer=char", "train.on_nonfinite=skip"), {})
    printed = capsys.readouterr().out
    assert tail.watch_run(RunFolder.open(tmp_path / "run"), options(lines=99, samples=True)) is False
    shown = capsys.readouterr().out
    assert lines_of(shown) == lines_of(printed) and len(lines_of(shown)) == 16
    samples = [line for line in printed.splitlines() if line.startswith(" " * 12 + " | ")]
    assert len(samples) == 3 and all(line in shown.splitlines() for line in samples)
    assert re.search(r"run  finished  best bpc [\d.]+ @ 40  \[0:\d\d\]$", shown)
    tail.watch_run(RunFolder.open(tmp_path / "run"), options(lines=2))
    assert lines_of(capsys.readouterr().out) == lines_of(printed)[-2:]


def test_it_follows_over_a_stop_and_a_resume(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as stopping:
        stop_at(stopping, 17)
        with pytest.raises(Stopped):
            train(tiny(tmp_path), {})
    run = RunFolder.open(tmp_path / "run")
    before = sorted((path.name, path.stat().st_mtime_ns) for path in run.path.iterdir())
    monkeypatch.setattr(tail, "LOOK_SECONDS", 0.01)
    ended = []
    watching = threading.Thread(target=lambda: ended.append(tail.watch_run(run, options(follow=True))))
    watching.start()
    time.sleep(0.2)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in run.path.iterdir()) == before
    resume(run.path, [])
    watching.join(20)
    assert ended == [False]
    shown = capsys.readouterr().out
    assert f"run  interrupted; resume it with: seqlm resume {run.path}" in shown and "run  running" in shown
    steps = [int(line.split()[1]) for line in shown.splitlines() if line.startswith("step ") and "lr " in line]
    assert {18, 39} <= set(steps) and f"{run.path}  finished" in shown


def test_records_that_come_again_are_told_once(tmp_path):
    run = RunFolder(tmp_path)
    follower, records = Follower(run), [{"step": step, "train/loss": 1.0} for step in (3, 6, 9)]

    def write(found, more=""):
        aside = tmp_path / "aside"  # as a resume does
        aside.write_text("".join(json.dumps(record) + "\n" for record in found) + more)
        aside.replace(run.metrics)

    assert follower.news() == (None, [])  # no file yet
    write(records[:2], '{"step": 9, "tr')
    assert follower.news() == (None, records[:2])
    with run.metrics.open("a") as file:
        file.write('ain/loss": 1.0}\nnonsense\n')
    assert follower.news() == (None, records[2:])
    write(records, "nonsense\n")  # a resume that had nothing to drop
    assert follower.news() == (None, [])
    write(records[:1])
    assert follower.news() == (3, [])
    other = {"step": 6, "train/loss": 2.0}
    write([records[0], other])
    assert follower.news() == (None, [other])
    write([])
    assert follower.news() == (0, [])


def test_a_run_whose_process_is_gone_and_one_that_failed(tmp_path, capsys, monkeypatch):
    train(tiny(tmp_path, "train.steps=6"), {})
    run = RunFolder.open(tmp_path / "run")
    run.update(status="running")
    assert tail.watch_run(run, options()) is True
    assert f"run  crashed: its process is gone; resume it with: seqlm resume {run.path}" in capsys.readouterr().out
    with held(run.path / ".lock"):
        assert tail.watch_run(run, options()) is False
    assert capsys.readouterr().out.endswith("run  running\n")
    monkeypatch.setattr("seqlm.training.session.evaluate", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tiny(tmp_path, name="bad"), {})
    assert tail.watch_run(RunFolder.open(tmp_path / "bad"), options(follow=True)) is True
    assert "bad  failed: ZeroDivisionError: division by zero" in capsys.readouterr().out
    assert RunFolder.open(tmp_path / "bad").info()["error"] == "ZeroDivisionError: division by zero"


def test_the_command(tmp_path):
    train(tiny(tmp_path, "train.steps=6"), {})
    assert "  finished" in seqlm("tail", tmp_path / "run", cwd=tmp_path).stdout
    for words, said in {
        ("tail", "none"): "none does not exist",
        ("tail", tmp_path / "run", "lines=-1"): "lines=-1 must be at least 0",
        ("tail",): "seqlm tail needs a run folder first",
    }.items():
        done = seqlm(*words, cwd=tmp_path, check=False)
        assert done.returncode == 2 and said in done.stderr


def test_ctrl_c_leaves(tmp_path, monkeypatch):
    train(tiny(tmp_path, "train.steps=6"), {})
    RunFolder.open(tmp_path / "run").update(status="interrupted")

    def interrupted(seconds):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(tail.time, "sleep", interrupted)
    assert seqlm("tail", tmp_path / "run", cwd=tmp_path, check=False).returncode == 130


def test_a_sweep_is_a_line_for_each_job(tmp_path, capsys, monkeypatch):
    (tmp_path / ".sweep").mkdir()
    train(tiny(tmp_path, "train.steps=20", name="a-11111111"), {})
    train(tiny(tmp_path, "train.steps=20", name="b-22222222"), {})
    running = RunFolder.open(tmp_path / "b-22222222")
    running.update(status="running")
    (tmp_path / ".sweep" / "33333333.json").write_text('{"error": "no data"}')
    capsys.readouterr()
    with held(running.path / ".lock"), held(tmp_path / ".sweep" / "44444444.lock"):
        assert sweep_tail.watch_sweep(tmp_path, options()) is True
    first, second, third, fourth = (re.split(r"  +", line) for line in capsys.readouterr().out.splitlines())
    assert first[:3] == ["a-11111111", "finished", "step 18"] and re.fullmatch(r"valid ppl [\d.]+", first[4])
    assert second[:2] == ["b-22222222", "running"] and second[-1] == "eta 0:00"
    assert third == ["33333333", "failed"] and fourth == ["44444444", "running"]  # which has no run yet
    (tmp_path / ".sweep" / "33333333.json").unlink()
    monkeypatch.setattr(sweep_tail, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(sweep_tail, "SETTLED_SECONDS", 0.01)
    assert sweep_tail.watch_sweep(tmp_path, options(follow=True)) is False
    assert "b-22222222  interrupted" in capsys.readouterr().out
