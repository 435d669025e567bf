"""Loggers: each gets what the training shows, a resumed run is the same run there, and none of them can harm it."""

from __future__ import annotations

import functools
import json
import sys
import threading
import types
from dataclasses import asdict

import pytest

from seqlm import Logger
from seqlm.commands.completion import candidates
from seqlm.config.reference import Reference
from seqlm.config.schema import Config
from seqlm.config.values import load_config, with_words
from seqlm.errors import ConfigError, Stopped
from seqlm.runs.folder import RunFolder
from seqlm.sweep.plan import identity_of
from seqlm.training.launch import resume, train
from seqlm.training.loggers import background
from seqlm.training.loggers.background import Background
from seqlm.training.loggers.base import Opening
from seqlm.training.loggers.make import make_loggers

from ..conftest import compose, tiny
from .test_resume import losses, stop_at, weights
from .test_training import of

ALL = "logger=[tensorboard,wandb,trackio,mlflow]"


class Recorded:
    """An object whose every call is kept; `answers` gives those that return something else than another of these."""

    def __init__(self, calls, name="", **answers):
        self._calls, self._name, self._answers = calls, name, answers

    def __getattr__(self, name):
        if name.startswith("__"):  # which inspect asks of every module
            raise AttributeError(name)
        return Recorded(self._calls, f"{self._name}.{name}", **self._answers)

    def __call__(self, *arguments, **options):
        self._calls.append((self._name.removeprefix("."), arguments, options))
        answer = self._answers.get(self._name.rpartition(".")[2])
        return answer(*arguments, **options) if answer else Recorded(self._calls, self._name, **self._answers)


@pytest.fixture
def fakes(monkeypatch):
    """The three packages, each replaced by a record of its calls: {package: [(method, arguments, options)]}."""
    calls = {name: [] for name in ("wandb", "trackio", "mlflow")}
    runs = {}  # of MLflow, by the tag that holds our id

    def created(experiment, run_name, tags):
        runs[tags["seqlm.id"]] = found = types.SimpleNamespace(info=types.SimpleNamespace(run_id="theirs"))
        return found

    answers = {
        "mlflow": {
            "create_run": created,
            "search_runs": lambda place, text, max_results: [one for id, one in runs.items() if f"'{id}'" in text],
            "Metric": lambda tag, value, when, step: (tag, value, step),
            "Param": lambda key, value: (key, value),
        },
        "wandb": {},
        "trackio": {},
    }
    for name, found in calls.items():
        module = types.ModuleType(name)
        module.__getattr__ = functools.partial(getattr, Recorded(found, **answers[name]))
        monkeypatch.setitem(sys.modules, name, module)
    for inner in ("run", "utils"):
        monkeypatch.setitem(sys.modules, f"trackio.{inner}", types.ModuleType(f"trackio.{inner}"))
    return calls


def named(calls, name):
    """The arguments and options of all calls whose method is `name`."""
    return [(arguments, options) for method, arguments, options in calls if method.rpartition(".")[2] == name]


def points(calls, package):
    """Every point that a back end was sent: (tag, step, value)."""
    if package == "mlflow":
        found = [metric for arguments, _ in named(calls[package], "log_batch") for metric in arguments[1:2]]
        return {(tag, step, value) for metrics in found for tag, value, step in metrics}
    logged = [(arguments[0], options) for arguments, options in named(calls[package], "log")]
    rows = [(values, options.get("step", values.get("step"))) for values, options in logged]
    return {(tag, step, value) for values, step in rows for tag, value in values.items() if isinstance(value, float)}


def test_all_of_them_show_the_same_run_and_change_nothing_of_it(tmp_path, fakes):
    train(tiny(tmp_path, "logger=none", name="plain"), {"data": "markov"})
    train(tiny(tmp_path, ALL, "tags=[mine]", "note=a note", name="shown"), {"data": "markov"})
    assert losses(tmp_path / "shown") == losses(tmp_path / "plain")
    assert weights(tmp_path / "shown") == weights(tmp_path / "plain")
    assert not list((tmp_path / "plain").glob("events*")) and list((tmp_path / "shown").glob("events*"))
    assert "log_id" not in RunFolder.open(tmp_path / "plain").info()
    info = RunFolder.open(tmp_path / "shown").info()
    wanted = {(tag, step, value) for tag in ("train/loss", "train/lr", "valid/ppl", "valid/bpc")
              for step, value in of(tag, tmp_path / "shown").items()}  # fmt: skip
    for package in fakes:
        assert wanted <= points(fakes, package), package
        assert "best/valid_ppl" in {tag for tag, _, _ in points(fakes, package)}, package
    ((_, begun),) = named(fakes["wandb"], "init")
    assert begun["id"] == info["log_id"] and begun["name"] == "shown" and begun["resume"] == "allow"
    assert begun["tags"] == ["mine"] and begun["notes"] == "a note" and begun["project"] == "seqlm"
    (((hparams,), _),) = named(fakes["wandb"], "update")
    assert hparams["optim.lr"] == 0.01 and hparams["data"] == "markov"
    assert named(fakes["wandb"], "finish") == [((), {"exit_code": 0})]
    ((place, begun),) = named(fakes["trackio"], "init")
    assert place == ("seqlm", f"shown-{info['log_id']}") and begun["resume"] == "allow"
    assert named(fakes["trackio"], "finish") and not named(fakes["trackio"], "alert")
    params = dict(named(fakes["mlflow"], "log_batch")[0][1]["params"])
    assert params["optim.lr"] == "0.01" and params["data"] == "markov"
    assert named(fakes["mlflow"], "set_terminated") == [(("theirs", "FINISHED"), {})]
    texts = [arguments[2] for arguments, _ in named(fakes["mlflow"], "log_text")]
    assert texts[0] == "config/step-000000000.txt" and "sample/step-000000015.txt" in texts


def test_a_resumed_run_is_the_same_run_everywhere(tmp_path, monkeypatch, fakes):
    with monkeypatch.context() as stopping:
        stop_at(stopping, 22)
        with pytest.raises(Stopped):
            train(tiny(tmp_path, ALL), {})
    assert named(fakes["mlflow"], "set_terminated") == [(("theirs", "KILLED"), {})]
    assert named(fakes["wandb"], "mark_preempting") and named(fakes["wandb"], "finish") == [((), {"exit_code": 1})]
    assert named(fakes["trackio"], "alert")[0][0] == ("run interrupted",)
    resume(tmp_path / "run", [])
    assert len({options["id"] for _, options in named(fakes["wandb"], "init")}) == 1
    assert len({arguments for arguments, _ in named(fakes["trackio"], "init")}) == 1
    assert len(named(fakes["mlflow"], "create_run")) == 1 and named(fakes["mlflow"], "update_run")
    assert sum("params" in options for _, options in named(fakes["mlflow"], "log_batch")) == 1  # they may not change
    for package in fakes:
        steps = {step for tag, step, _ in points(fakes, package) if tag == "train/loss"}
        assert steps == set(of("train/loss", tmp_path / "run")), package


def test_loggers_may_change_when_a_run_is_resumed(tmp_path, monkeypatch, fakes):
    with monkeypatch.context() as stopping:
        stop_at(stopping, 20)
        with pytest.raises(Stopped):
            train(tiny(tmp_path), {})
    with pytest.raises(ConfigError, match=r"logger=wandbb is unknown; allowed: mlflow, none, tensorboard, trackio"):
        resume(tmp_path / "run", ["logger=[tensorboard,wandbb]"])
    resume(tmp_path / "run", ["logger=[tensorboard,wandb]", "logger.wandb.project=mine"])
    assert named(fakes["wandb"], "init")[0][1]["project"] == "mine"
    assert set(load_config(tmp_path / "run" / "config.yaml").logger) == {"tensorboard", "wandb"}
    assert RunFolder.open(tmp_path / "run").info()["history"] == []


@pytest.mark.parametrize("method", ["open", "scalars", "close"])
def test_one_that_fails_is_told_once_and_the_run_is_whole(tmp_path, monkeypatch, capsys, method):
    def failing(self, *arguments):
        raise ConnectionError("no way to https://me:secret@host/\nand more")

    monkeypatch.setattr(Mine, method, failing)
    train(tiny(tmp_path, MINE, "trust=[tests.]"), {})
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning:")]
    assert told == [
        "warning: logger mine: ConnectionError: no way to https://***@host/; nothing more is sent to it, the training "
        "continues"
    ]
    assert RunFolder.open(tmp_path / "run").info()["status"] == "finished"


def test_one_that_never_answers_keeps_nobody_waiting(tmp_path, monkeypatch, capsys):
    for_ever = threading.Event()
    monkeypatch.setattr(Mine, "scalars", lambda *_: for_ever.wait(60))
    monkeypatch.setattr(background, "LEAVE_SECONDS", 0.1)
    monkeypatch.setattr(background, "MOST_WAITING", 5)
    train(tiny(tmp_path, MINE, "trust=[tests.]"), {})
    for_ever.set()
    (told,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning:")]
    assert "is 5 calls behind" in told and RunFolder.open(tmp_path / "run").info()["status"] == "finished"


def test_what_is_left_at_the_end_is_not_waited_for(tmp_path, monkeypatch):
    for_ever, told = threading.Event(), []
    monkeypatch.setattr(Mine, "flush", lambda *_: for_ever.wait(60))
    monkeypatch.setattr(background, "LEAVE_SECONDS", 0.05)
    logger = Background("mine", Mine("x"), print, told.append)
    logger.open(Opening(tmp_path))
    logger.flush()
    logger.close("finished")
    for_ever.set()
    assert told == ["logger mine: not everything was taken within 0.05 s; the rest is left"]


class Mine(Logger):
    """A user's own logger."""

    made: list[Mine] = []

    def __init__(self, place: str) -> None:
        self.place, self.found = place, []
        self.made.append(self)

    def open(self, opening):
        self.opening, self.thread = opening, threading.current_thread()
        return f"see {self.place}"

    def scalars(self, step, values):
        self.found.append((step, values))

    def back_to(self, step):
        self.found = [(at, values) for at, values in self.found if at <= step]


MINE = "+logger.mine={_target_: tests.training.test_loggers.Mine, place: there}"


def test_a_logger_of_ones_own(tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"logger.mine._target_=.* is outside the trusted code"):
        train(tiny(tmp_path, MINE), {})
    train(tiny(tmp_path, MINE, "trust=[tests.]"), {})
    assert "mine  see there" in capsys.readouterr().out.splitlines()
    made = Mine.made[-1]
    logged = [values for _, values in made.found if "train/loss" in values]
    assert [values["train/loss"] for values in logged] == list(of("train/loss", tmp_path / "run").values())
    assert made.thread is not threading.main_thread() and len(made.opening.id) == 8
    with pytest.raises(ConfigError, match="Opening is no logger; derive its class from seqlm.Logger"):
        make_loggers(compose("+logger.x={_target_: seqlm.training.loggers.base.Opening, folder: .}"))


def test_words_that_cannot_be(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"logger=mlflow needs the package mlflow: pip install .*\[mlflow\]"):
        train(tiny(tmp_path, "logger=mlflow"), {})
    with pytest.raises(
        ConfigError, match=r"logger.mlflow.uri=... must be sqlite:///FILE or a folder; a server is named by"
    ) as said:
        make_loggers(compose("logger=mlflow", "logger.mlflow.uri=http://me:secret@host"))
    assert "secret" not in str(said.value)
    with pytest.raises(ConfigError, match=r"logger.wandb.api_key is not an argument of Wandb"):
        make_loggers(compose("logger=wandb", "+logger.wandb.api_key=secret"))
    with pytest.raises(ConfigError, match=r"logger=wandbb"):
        compose("logger=[tensorboard,wandbb]")
    assert not list(tmp_path.iterdir())


def test_a_logger_makes_no_other_run():
    shown, plain = compose("logger=[tensorboard,wandb]"), compose("logger=none")
    assert identity_of(shown) == identity_of(plain) and shown.logger.keys() == {"tensorboard", "wandb"}
    assert plain.logger == {} and compose().logger.keys() == {"tensorboard"}
    assert with_words(Config, asdict(plain), ["logger=wandb"]).logger == compose("logger=wandb").logger


def test_an_older_run_has_tensorboard(tmp_path):
    train(tiny(tmp_path, "train.steps=3"), {})
    file = tmp_path / "run" / "config.yaml"
    text = file.read_text()
    part = text[text.index("logger:") : text.index("train:\n")]
    assert "tensorboard" in part
    file.write_text(text.replace(part, ""))
    assert load_config(file).logger.keys() == {"tensorboard"}


def test_lists_of_options_in_help_and_completion():
    keys = Reference().keys(["logger=[wandb,mlflow]"])
    assert {"logger.wandb.project", "logger.mlflow.uri"} <= keys.keys() and "logger.trackio.project" not in keys
    assert candidates(["train"], "logger=[tensorboard,w") == ["logger=[tensorboard,wandb"]
    assert candidates(["train"], "logger=[ten") == ["logger=[tensorboard"]
    assert json.dumps(keys["logger.wandb.mode"].choices) == '["online", "offline"]'
