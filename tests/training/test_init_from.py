"""A run that begins with another: words matched by their text, its optimizer's state, and the command that says so."""

from __future__ import annotations

import json
import shlex

import pytest
import torch

from seqlm.config.compose import compose_words
from seqlm.config.values import load_config
from seqlm.errors import ConfigError
from seqlm.runs import finding
from seqlm.runs.changes import words_that_compose
from seqlm.runs.folder import RunFolder
from seqlm.runs.load import load_run
from seqlm.runs.transfer import Matched, _place
from seqlm.training.assemble import assemble_session
from seqlm.training.launch import resume, train

from ..conftest import TINY, compose, tiny
from ..conftest import seqlm as command
from .test_resume import losses, stops_change_nothing, weights

EPOCH = ["data.tokens=560", "schedule=constant", "train.eval_every=100", "train.log_every=1"]  # of 20 steps
OPTIMIZERS = {"adam": ["optim=adam"], "momentum": ["optim=sgd", "optim.lr=0.3", "optim.momentum=0.9"]}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_with_its_optimizer_a_new_run_is_the_old_one_gone_on(tmp_path, optimizer):
    """At the end of an epoch, where a run that goes on begins with an empty state too."""
    words = [*EPOCH, *OPTIMIZERS[optimizer]]
    train(tiny(tmp_path, *words, "train.steps=20", name="first"), {})
    first = tmp_path / "first"
    for name, begin in {"with": {"run": str(first), "optimizer": True}, "without": str(first)}.items():
        config = tiny(tmp_path, *words, "train.steps=6", name=name)
        config.init_from = begin
        train(config, {})
    resume(first, ["train.steps=26"])
    steps = {name: [one for one in losses(tmp_path / name) if one[2] == "train/loss"] for name in ("first", "with")}
    assert [one[3] for one in steps["with"]] == [one[3] for one in steps["first"][20:]]
    assert weights(tmp_path / "with")[1] == weights(first)[1] != weights(tmp_path / "without")[1]
    kept = RunFolder(tmp_path / "with").info()["began_with"]
    assert kept["optimizer"] is True and kept["step"] == 20 and "words" not in kept


def test_its_options_stay_its_own(tmp_path):
    train(tiny(tmp_path, *EPOCH, "train.steps=5", name="first"), {})
    config = tiny(tmp_path, *EPOCH, "optim.lr=0.5", "optim.betas=[0.5,0.6]", "train.steps=1", name="second")
    config.init_from = {"run": str(tmp_path / "first"), "optimizer": True}
    train(config, {})
    state = finding.find(tmp_path / "second" / "checkpoints", "last", print).load_state()["optimizer"]
    assert state["param_groups"][0]["betas"] == (0.5, 0.6) and state["state"][0]["step"] == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optim=sgd"], "optim._target_=torch.optim.Adam, and this one torch.optim.SGD"),
        (["optim=adam", "+optim.amsgrad=true"], "keeps no max_exp_avg_sq"),
    ],
)
def test_an_optimizer_of_another_kind_is_refused(tmp_path, words, message):
    train(tiny(tmp_path, "optim=adam", "train.steps=2", name="first"), {})
    config = tiny(tmp_path, *words, name="second")
    config.init_from = {"run": str(tmp_path / "first"), "optimizer": True}
    with pytest.raises(ConfigError, match=f"^init_from.optimizer=true cannot be: .*{message}"):
        train(config, {})
    assert not (tmp_path / "second").exists()


# ---- words


def texts(folder, name, words):
    """A text of lines that are words, each more often than the next."""
    path = folder / f"{name}.txt"
    line = " ".join(word for place, word in enumerate(words) for _ in range(len(words) - place)) + "\n"
    path.write_text(line * 40)
    return ["data=text", "data/tokenizer=word", f"data.train={path}", f"data.valid={path}"]


WORDS = ["model.hidden_size=6", "train.batch_size=2", "train.bptt=5", "train.steps=12", "sample.tokens=0", "threads=1",
         "train.eval_batch_size=2", "train.eval_every=6", "checkpoint.every=3"]  # fmt: skip


def worded(folder, name, words, *more):
    return compose(*texts(folder, name, words), *WORDS, f"run.root={folder}", f"run.name={name}", *more)


@pytest.mark.parametrize("model", ["model.tied=false", "model.tied=true", "model/output=mixture"])
def test_words_are_matched_by_their_text(tmp_path, model, capsys):
    more = [model, "model.output.num_softmaxes=2"] if "mixture" in model else [model]
    train(worded(tmp_path, "first", ["cat", "dog", "sees", "the"], *more), {})
    config = worded(tmp_path, "second", ["the", "bird", "sees", "cat", "owl"], *more, "train.steps=1", "optim.lr=0")
    fresh = {name: tensor.clone() for name, tensor in assemble_session(config).model.state_dict().items()}
    config.init_from = {"run": str(tmp_path / "first"), "optimizer": True}
    capsys.readouterr()
    train(config, {})
    assert "vocab_size: 5 known to it, 2 new and drawn" in capsys.readouterr().out
    runs = [load_run(tmp_path / name, checkpoint="last") for name in ("first", "second")]
    ids = [{word: index for index, word in enumerate(run.tokenizer.vocabulary)} for run in runs]
    old, new = (run.model.state_dict() for run in runs)
    for name in ("embedding.weight", "decoder.weight", "decoder.bias"):
        for word, index in ids[1].items():
            expected = old[name][ids[0][word]] if word in ids[0] else fresh[name][index]
            assert torch.equal(new[name][index], expected), (name, word)
    assert torch.equal(new["stack.layers.0.cell.weight_hh"], old["stack.layers.0.cell.weight_hh"])
    assert RunFolder(tmp_path / "second").info()["began_with"]["words"] == {"vocab_size": {"known": 5, "new": 2}}
    states = [run.checkpoint.load_state()["optimizer"]["state"] for run in runs]
    names = [name for name, _ in runs[0].model.named_parameters()]
    moments = [state[names.index("embedding.weight")]["exp_avg_sq"] for state in states]
    for word in ("the", "cat"):  # Adam's mean of squares decays with a zero gradient, by 0.999 a step
        assert moments[1][ids[1][word]].ge(0.99 * moments[0][ids[0][word]]).all() and moments[1][ids[1][word]].any()
    if model == "model.tied=false":  # <unk> never came
        assert not moments[1][ids[1]["<unk>"]].any()


def test_a_run_of_other_words_resumes_to_the_bit(tmp_path, monkeypatch):
    train(worded(tmp_path, "first", ["cat", "dog", "sees", "the"]), {})
    words = texts(tmp_path, "text", ["the", "bird", "sees", "cat", "owl"])

    def begun(name):
        config = compose(*words, *WORDS, f"run.root={tmp_path}", f"run.name={name}")
        config.init_from = {"run": str(tmp_path / "first"), "optimizer": True}
        return config

    stops_change_nothing(tmp_path, begun, (1, 5), monkeypatch)


def test_words_of_the_same_number_are_matched_too(tmp_path):
    """Nothing in the shapes tells that the vocabularies differ."""
    train(worded(tmp_path, "first", ["cat", "dog", "sees"]), {})
    train(worded(tmp_path, "second", ["dog", "sees", "cat"], f"init_from={tmp_path}/first", "optim.lr=0"), {})
    one, two = (load_run(tmp_path / name) for name in ("first", "second"))
    assert one.tokenizer.vocabulary != two.tokenizer.vocabulary
    for word in one.tokenizer.vocabulary:
        rows = [run.model.embedding.weight[run.tokenizer.vocabulary.index(word)] for run in (one, two)]
        assert torch.equal(*rows), word


def test_rows_of_an_adaptive_softmax_are_refused(tmp_path):
    output = ["model/output=adaptive", "model.output.cutoffs=[3]", "model.output.div_value=2"]
    train(worded(tmp_path, "first", ["cat", "dog", "sees", "the"], *output), {})
    with pytest.raises(ConfigError, match="weights of another model; first difference: decoder"):
        train(worded(tmp_path, "second", ["bird", "dog", "sees"], *output, f"init_from={tmp_path}/first"), {})


def test_both_dimensions_of_a_table_may_be_items():
    """As the transitions of a CRF are."""
    tags = Matched.of(["B", "I", "O"], ["O", "B", "X"])
    old, own = torch.arange(9.0).reshape(3, 3), -torch.ones(3, 3)
    assert _place(own, old, [(0, tags), (1, tags)])
    assert own.tolist() == [[8, 6, -1], [2, 0, -1], [-1, -1, -1]]
    assert not _place(own, old[:2], [(0, tags), (1, tags)]) and not _place(own, old[:2], [])


def test_a_run_that_was_never_evaluated_gives_its_last_weights(tmp_path):
    train(tiny(tmp_path, "train.steps=4", name="first"), {})
    (tmp_path / "first" / "checkpoints" / "best").unlink()
    train(tiny(tmp_path, f"init_from={tmp_path}/first", "train.steps=1", name="second"), {})
    assert RunFolder(tmp_path / "second").info()["began_with"]["step"] == 4


# ---- the words of the command line


def test_both_keys_on_one_command_line(tmp_path):
    words = [*TINY, "train.steps=2", f"run.root={tmp_path}"]
    command("train", *words, "run.name=a b", cwd=tmp_path)
    for order in (1, -1):
        both = [f"init_from={tmp_path}/a b", "init_from.optimizer=true"][::order]
        command("train", *words, *both, f"run.name=second{order}", cwd=tmp_path)
        config = load_config(tmp_path / f"second{order}" / "config.yaml")
        assert config.init_from == {"run": f"{tmp_path}/a b", "optimizer": True}
        assert config.begins_with == config.init_from
    command("train", *words, f"init_from={tmp_path}/a b", "run.name=third", cwd=tmp_path)
    assert load_config(tmp_path / "third" / "config.yaml").init_from == f"{tmp_path}/a b"
    finetuned = ["experiment=awd_ptb_finetune", "data.path=x", "init_from=y", "init_from.optimizer=true"]
    assert compose_words(finetuned)[0].init_from == {"run": "y", "optimizer": True}
    done = command("train", *words, "-m", f"init_from={tmp_path}/second1,{tmp_path}/third", "init_from.optimizer=true",
                   "run.name=null", cwd=tmp_path)  # fmt: skip
    assert done.stdout.count("with its optimizer") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["init_from.optimizer=true"], "init_from.optimizer=true needs the run too: init_from=RUN"),
        (["init_from=x", "init_from.optimiser=true"], "init_from.optimiser is unknown; did you mean init_from.optim"),
        (["init_from=x", "init_from.optimizer=maybe"], "init_from.optimizer=maybe should be true or false"),
        (["init_from={optimizer:true}"], "init_from names no run; give init_from=RUN"),
        (["init_from=x", "init_from.optimizer=true"], "init_from=x: x does not exist"),
    ],
)
def test_mistakes_name_the_key(tmp_path, words, message):
    failed = command("train", *TINY, *words, cwd=tmp_path, check=False)
    assert failed.returncode == 2 and message in failed.stderr and "Traceback" not in failed.stderr
    assert len(failed.stderr.splitlines()) == 1 and not (tmp_path / "outputs").exists()


def pasted(text):
    """The words of the command that a message holds."""
    (line,) = [line for line in text.splitlines() if line.startswith("  seqlm train ")]
    return shlex.split(line)[1:]


@pytest.mark.parametrize("started", ["words", "python"])
def test_a_refused_key_comes_with_the_command_for_a_new_run(tmp_path, started):
    if started == "words":
        command("train", *TINY, "model=gru", "run.name=first", "train.steps=4", cwd=tmp_path)
    else:
        config = tiny(tmp_path / "outputs", "model=gru", "train.steps=4", name="first")
        train(config, {})
    failed = command("resume", "outputs/first", "optim.lr=0.5", "schedule=constant", cwd=tmp_path, check=False)
    assert failed.returncode == 2 and "these keys cannot change on resume" in failed.stderr
    assert "  optim.lr: 0.01 -> 0.5" in failed.stderr and "init_from.optimizer=true" in failed.stderr
    words = pasted(failed.stderr)
    assert "init_from=outputs/first" in words
    command(*words, "run.name=second", cwd=tmp_path)
    first, second = (load_config(tmp_path / "outputs" / name / "config.yaml") for name in ("first", "second"))
    assert second.optim == {**first.optim, "lr": 0.5} and second.schedule["_target_"].endswith("Constant")
    assert (second.model, second.data, second.train) == (first.model, first.data, first.train)
    assert RunFolder(tmp_path / "outputs" / "second").info()["began_with"]["run"] == "first"


def test_what_weights_are_of_no_use_for_begins_from_scratch(tmp_path):
    command("train", *TINY, "run.name=first", "train.steps=4", cwd=tmp_path)
    for changed in ("seed=2", "model.hidden_size=9", "model=gru"):
        failed = command("resume", "outputs/first", changed, cwd=tmp_path, check=False)
        words = pasted(failed.stderr)
        assert failed.returncode == 2 and "A new run from scratch" in failed.stderr, changed
        assert not any(word.startswith("init_from") for word in words)
        command(*words, f"run.name={changed.partition('=')[0]}", cwd=tmp_path)
    assert "  model: lstm -> gru" in failed.stderr
    made = load_config(tmp_path / "outputs" / "model" / "config.yaml")
    assert made.model["cell"]["_target_"].endswith("GRUCell")


def test_words_that_compose_a_config():
    for words in (["model=gru", "model.num_layers=2"], ["experiment=awd_ptb", "data.path=x"],
                  ["data=text", "data.path=/a b/c,d.txt", "data/tokenizer=word", "sample.prompt='x=1, [y]'"],
                  ["model.layers=[{cell: gru}, {cell: {window: 1}}]", "model/cell=qrnn"]):  # fmt: skip
        config, choices = compose_words(words)
        for begin in (words, [f"{group}={choice}" for group, choice in choices.items()], []):
            found = words_that_compose(config, begin)
            if found is not None:
                assert compose_words(found)[0] == config
            assert found is not None or begin == [], (words, begin)


def test_older_runs_hold_a_text(tmp_path):
    train(tiny(tmp_path, "train.steps=2", name="first"), {})
    train(tiny(tmp_path, f"init_from={tmp_path}/first", "train.steps=2", name="second"), {})
    assert f"init_from: {tmp_path}/first" in (tmp_path / "second" / "config.yaml").read_text()
    assert json.loads((tmp_path / "second" / "run.json").read_text())["began_with"]["step"] == 2
