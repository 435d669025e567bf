"""The Python interface: what a program calls does what the command line does."""

from __future__ import annotations

import doctest
import json
import signal
import sys
from types import SimpleNamespace

import pytest
import tqdm.auto
import yaml

import seqlm
import seqlm.api
from seqlm.errors import ConfigError
from seqlm.training.console import Console
from seqlm.training.notebook import in_notebook
from seqlm.training.signals import StopSignal

from .conftest import REPOSITORY, TINY
from .conftest import seqlm as command

CONFIG = {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in TINY)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny run of 20 steps, shared; tests write into its folder only what they look for."""
    return seqlm.train({**CONFIG, "train.steps": 20, "run.root": tmp_path_factory.mktemp("api"), "run.name": "run"})


def test_the_examples_in_the_docstrings_are_true(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for function in (seqlm.train, seqlm.evaluate, seqlm.generate, seqlm.resume):  # of the run that the first trains
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


def test_words_files_and_mappings_follow_each_other(tmp_path):
    (tmp_path / "mine.yaml").write_text("train: {steps: 3}\nmodel.hidden_size: 9\nseed: 5\n")
    run = seqlm.train(*TINY, tmp_path / "mine.yaml", "seed=6", {"run": {"root": tmp_path, "name": "run"}})
    assert (run.config.seed, run.config.train.steps, run.config.model["hidden_size"]) == (6, 3, 9)


def test_a_saved_configuration_is_trained_anew(tmp_path):
    first = seqlm.train({**CONFIG, "run.root": tmp_path, "run.name": "first", "train.steps": 2})
    text = first.folder.config.read_text().replace("name: first", "name: second")
    (tmp_path / "again.yaml").write_text(text)
    second = seqlm.train(tmp_path / "again.yaml")
    assert second.folder.path == tmp_path / "second"
    assert seqlm.evaluate(first, "valid") == seqlm.evaluate(second, "valid")
    third = seqlm.train(first.folder.config, "run.name=third", {"train.steps": 3})
    assert third.folder.name == "third" and third.checkpoint.step == 3


@pytest.mark.parametrize(
    ("config", "message"),
    [([{"model.hiden_size": 3}], "did you mean model.hidden_size"), ([{"model": "lstn"}], "model=lstn is unknown"),
     (["model=lstn"], "model=lstn is unknown"), ([3], "should be a word of seqlm train, a mapping"),
     ([None], "should be a word"), (["nowhere.yaml"], "nowhere.yaml cannot be read"),
     (["--config-dir=mine"], "hydra.searchpath"), (["-m", "seed=1,2"], "train takes no flags")],
)  # fmt: skip
def test_mistakes_are_told_as_on_the_command_line(config, message):
    with pytest.raises(ConfigError, match=message):
        seqlm.train(*config)


def test_a_run_says_what_it_is(trained):
    run = seqlm.load_run(trained.folder.path)
    assert run.metrics == trained.metrics and list(run.metrics) == ["valid/loss", "valid/ppl", "valid/bpc"]
    losses = [record["valid/loss"] for record in run.records if "valid/loss" in record]
    assert len(losses) == 2 and min(losses) == run.metrics["valid/loss"]
    shown = repr(run)
    assert f"{run.folder.path}: step {run.checkpoint.step}, raw weights, valid/loss {min(losses):.4g}" in shown


def test_resume_takes_words_and_mappings(tmp_path):
    run = seqlm.train({**CONFIG, "run.root": tmp_path, "run.name": "run", "train.steps": 4, "schedule": "constant"})
    assert seqlm.resume(run, {"train": {"steps": 6}}).folder.info()["steps"] == 6
    assert seqlm.resume(run.folder.path, "train.steps=8", {"train.eval_every": None}).folder.info()["steps"] == 8
    with pytest.raises(ConfigError, match="cannot change on resume"):
        seqlm.resume(run, {"optim.lr": 3.0})


def test_evaluate_is_seqlm_eval(trained, tmp_path):
    for split in ("valid", "test"):
        told = json.loads(command("eval", trained.folder.path, f"split={split}", "--json", cwd=tmp_path).stdout)
        measured = seqlm.evaluate(trained, split)
        assert measured == {name: told[name] for name in measured} and "ppl" in measured
    with pytest.raises(ConfigError, match="nosplit"):
        seqlm.evaluate(trained, "nosplit")


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0, "prompt": "ab"}, {"seed": 7, "top_k": 3}, {"precision": "bf16", "tokens": 5}]
)
def test_generate_is_seqlm_sample(trained, tmp_path, options):
    words = [f"{key}={value}" for key, value in {"tokens": 30, **options}.items()]
    text = command("sample", trained.folder.path, *words, cwd=tmp_path).stdout
    pieces = list(seqlm.generate(trained, **{"tokens": 30, **options}))
    assert "".join(pieces) + "\n" == text and len(pieces) == options.get("tokens", 30)
    assert pieces[0].startswith(options.get("prompt", ""))


def test_generate_comes_piece_by_piece_and_leaves_torch_as_it_was(trained):
    import torch

    pieces = seqlm.generate(trained, tokens=10**9, precision="bf16")
    assert next(pieces) and next(pieces)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled() and not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"temprature": 1}, "did you mean temperature"), ({"temperature": -1}, "temperature=-1 must be at least 0"),
     ({"prompt": "xyz"}, "the vocabulary lacks: 'x', 'y', 'z'"), ({"condition": 3}, "task=conditional"),
     ({"texts": 3}, "each call writes one text"), ({"checkpoint": "last"}, "load_run chooses the weights"),
     ({"tokens": 1.5}, "tokens=1.5 should be a whole number")],
)  # fmt: skip
def test_generate_refuses_at_once(trained, options, message):
    with pytest.raises(ConfigError, match=message):
        seqlm.generate(trained, **options)


def test_print_of_a_model_shows_its_sizes(trained):
    shown = str(trained.model)
    total = sum(parameter.numel() for parameter in trained.model.parameters())
    assert f"LanguageModel(\n  parameters: {total:,} (embedding 84, recurrent 2,496)\n" in shown
    assert "2 x Recurrent(\n        (cell): LSTMCell(12 -> 12, 1,248 parameters)" in shown
    assert "(embedding): WordEmbedding(7, 12)" in shown and "(output_dropout): LockedDropout(p=0.0)" in shown
    assert "(decoder): Softmax(in_features=12, out_features=7, bias=True)" in shown


def test_a_notebook_gets_its_own_bar(monkeypatch):
    shell = SimpleNamespace(config={"TerminalIPythonApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert not in_notebook()
    shell.config = {"IPKernelApp": {}}
    assert in_notebook()
    console = Console(lambda loss: "ppl 9", lambda: 0.25)
    console.start(24, 100)
    console.step()
    console.training(0.5, {f"train/{name}": 1.0 for name in ("loss", "lr", "grad_norm", "tokens_per_s")}, "", 0)
    console.step()
    bar = console._bar
    assert isinstance(bar, tqdm.auto.tqdm) and (bar.n, bar.total) == (250, 1000)
    assert "step 26/100" in bar.desc and "epoch 0.50  loss 1.000  ppl 9" in bar.desc
    console.close()


def test_a_second_interrupt_is_an_exception_and_ends_no_notebook():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), StopSignal() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.number == signal.SIGINT
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "examples").glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_notebook_runs_from_top_to_bottom_and_again(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells), "kept without outputs"
    names = {"__name__": "__main__"}
    for cell in cells:
        exec(compile("".join(cell["source"]), f"{path.name}[{cell['id']}]", "exec"), names)
    written = capsys.readouterr().out
    assert "valid ppl" in written and "\nThe " in written
