"""The Python interface: what a program calls does what the command line does."""

from __future__ import annotations

import doctest

import pytest
import yaml

import seqlm
import seqlm.api
from seqlm.errors import ConfigError

from .conftest import TINY

CONFIG = {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in TINY)}


def test_the_examples_in_the_docstrings_are_true(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for function in (seqlm.train, seqlm.evaluate):  # which scores the run that the first has trained
        (examples,) = finder.find(function)
        assert runner.run(examples).failed == 0 and examples.examples


def test_nested_and_dotted_keys_are_words(tmp_path):
    nested = {"train": {"steps": 3, "eval_every": 3}, "run.root": tmp_path, "model": {"dropout": {"input": 0.25}}}
    config = {key: value for key, value in CONFIG.items() if key not in ("train.steps", "train.eval_every")}
    config |= {"model.cell.bias": False, "sample.prompt": "a", "run.name": "it's, a run", "optim.betas": [0.8, 0.9]}
    run = seqlm.train({**config, **nested})
    assert run.config.model["dropout"]["input"] == 0.25 and run.config.model["cell"]["bias"] is False
    assert run.config.optim["betas"] == [0.8, 0.9] and run.checkpoint.step == 3 and run.folder.name == "it's, a run"
    assert seqlm.evaluate(run, "valid") == seqlm.evaluate(run.folder.path, "valid")


def test_a_saved_configuration_is_trained_anew(tmp_path):
    first = seqlm.train({**CONFIG, "run.root": tmp_path, "run.name": "first", "train.steps": 2})
    text = first.folder.config.read_text().replace("name: first", "name: second")
    (tmp_path / "again.yaml").write_text(text)
    second = seqlm.train(tmp_path / "again.yaml")
    assert second.folder.path == tmp_path / "second"
    assert seqlm.evaluate(first, "valid") == seqlm.evaluate(second, "valid")


@pytest.mark.parametrize(
    ("config", "message"),
    [({"model.hiden_size": 3}, "did you mean model.hidden_size"), ({"model": "lstn"}, "model=lstn is unknown"),
     (3, "should be a mapping"), ("nowhere.yaml", "nowhere.yaml cannot be read")],
)  # fmt: skip
def test_mistakes_are_told_as_on_the_command_line(config, message):
    with pytest.raises(ConfigError, match=message):
        seqlm.train(config)
