"""Configs of older versions: their keys, values and classes become those of today."""

from __future__ import annotations

import copy
from dataclasses import asdict

import pytest

from seqlm.config.keys import dotted, nested
from seqlm.config.migrate import ADDED, migrate, migrate_flat, migrate_progress, migrate_score, renamed
from seqlm.config.values import load_config, save_config, verb_config
from seqlm.config.verb_schema import EvalConfig
from seqlm.errors import ConfigError

from ..conftest import compose, seqlm, tiny

BUILDER = "seqlm.models.presets.build_language_model"
TEXT = {"_target_": BUILDER, "hidden_size": 5, "dropout": {"input": 0.1, "latent": 0.0}}
OLD = {"softmaxes": 1, "cutoffs": None, "div_value": 4.0, "predicts": "next"}
SOFTMAX, MIXTURE, ADAPTIVE = (
    f"seqlm.layers.{name}" for name in ("softmax.Softmax", "mixture.Mixture", "adaptive.AdaptiveSoftmax")
)


@pytest.mark.parametrize(("old", "latent", "output"), [
    ({}, 0.0, {"_target_": SOFTMAX}),
    ({"softmaxes": 3}, 0.2, {"_target_": MIXTURE, "num_softmaxes": 3, "latent_dropout": 0.2}),
    ({"cutoffs": [2, 4], "div_value": 2.0}, 0.0, {"_target_": ADAPTIVE, "cutoffs": [2, 4], "div_value": 2.0}),
])  # fmt: skip
@pytest.mark.parametrize(("predicts", "builder"), [
    ("next", "build_language_model"),
    ("both", "build_bidirectional_language_model"),
    ("masked", "build_cloze_model"),
])  # fmt: skip
def test_models_of_texts(old, latent, output, predicts, builder):
    model = {**TEXT, **OLD, **old, "predicts": predicts, "dropout": {"input": 0.1, "latent": latent}}
    before = copy.deepcopy(model)
    today = migrate({"model": model, "seed": 1})
    wanted = {
        "_target_": f"seqlm.models.presets.{builder}",
        "hidden_size": 5,
        "dropout": {"input": 0.1},
        "output": output,
    }
    assert today == {"model": wanted, "seed": 1} and model == before
    assert migrate(today) == today
    assert migrate_flat(dotted({"model": model})) == ADDED | dotted({"model": wanted})


def test_a_model_too_old_to_know_the_options():
    assert migrate({"model": {"_target_": TEXT["_target_"], "hidden_size": 5}})["model"]["output"] == {
        "_target_": SOFTMAX
    }


@pytest.mark.parametrize("group", [
    "", "model=gru", "model/output=mixture", "model=cloze task=cloze", "model=tagger", "task=bilm model=bilm",
    "model=conditional", "experiment=mos_ptb data.path=x",
])  # fmt: skip
def test_a_config_of_today_is_left_as_it_is(group):
    config = asdict(compose(*group.split()))
    assert migrate(config) == config and nested(dotted(config)) == config


def test_penalties():
    task = {"_target_": "seqlm.tasks.lm.LanguageModeling", "activation_penalty": 2.0, "temporal_penalty": 1.0}
    today = migrate({"task": task})
    assert today == {"task": {"_target_": task["_target_"], "penalties": {"activation": 2.0, "temporal": 1.0}}}
    assert migrate(today) == today


def test_parts_of_the_users_own_keep_their_keys():
    own = {"model": {"_target_": "mylab.Model", "softmaxes": 3, "dropout": {"latent": 0.1}, "cutoffs": None},
           "task": {"_target_": "mylab.Task", "activation_penalty": 1.0}}  # fmt: skip
    assert migrate(own) == own


def test_keys_and_classes_of_the_tables():
    """A line in a table moves a key, or gives a class another name, also inside lists."""
    cell = {"_target_": "seqlm.cells.LSTMCell", "bias": True}
    model = {
        **TEXT,
        **OLD,
        "_target_": "seqlm.models.build_language_model",
        "cell": cell,
        "layers": [{"cell": cell}, {"hidden_size": 3}],
    }
    today = migrate({"train": {"window": 7, "steps": 3}, "model": model})
    moved = {**cell, "_target_": "seqlm.cells.lstm.LSTMCell"}
    assert today["train"] == {"bptt": 7, "steps": 3}
    assert today["model"]["cell"] == moved and today["model"]["layers"] == [{"cell": moved}, {"hidden_size": 3}]
    assert today["model"]["_target_"] == "seqlm.models.presets.build_language_model"
    assert today["model"]["output"] == {"_target_": SOFTMAX}
    assert migrate(today) == today and renamed("train.window") == "train.bptt"
    assert migrate({"train": {"window": 7, "bptt": 8}}) == {"train": {"bptt": 8}}


@pytest.mark.parametrize(("word", "message"), [
    ("model.softmaxes=3", "model.softmaxes is now model.output.num_softmaxes; use model/output=mixture"),
    ("model.dropout.latent=0.1", "model.dropout.latent is now model.output.latent_dropout; use model/output=mixture"),
    ("model.cutoffs=[3]", "model.cutoffs is now model.output.cutoffs; use model/output=adaptive"),
    ("task.activation_penalty=1", "task.activation_penalty is now task.penalties.activation"),
    ("train.window=20", "train.window is now train.bptt"),
    ("train.window_spread=5.0", "train.window_spread is now train.bptt_std"),
    ("train.window_halved=0.05", "train.window_halved is now train.bptt_half_prob"),
    ("model.predicts=both", "model.predicts is now the choice of a model: model=lstm, bilm or cloze"),
])  # fmt: skip
def test_an_old_key_on_the_command_line_is_answered_with_its_new_name(tmp_path, word, message):
    from seqlm.training.launch import train

    with pytest.raises(ConfigError) as caught:  # as `+key=value`, or in a file of the user's own
        train(tiny(tmp_path, f"+{word}"), {})
    assert str(caught.value) == message


def test_an_old_key_on_the_command_line(tmp_path):
    done = seqlm("train", "model.softmaxes=3", "task.temporal_penalty=1", cwd=tmp_path, check=False)
    assert done.returncode == 2 and done.stderr.splitlines() == [
        "seqlm: model.softmaxes is now model.output.num_softmaxes; use model/output=mixture",
        "task.temporal_penalty is now task.penalties.temporal",
    ]


@pytest.mark.parametrize(("word", "today"), [
    ("window=20", "bptt"), ("dynamic.window=5", "dynamic.bptt"), ("lens=awd", "protocol"),
])  # fmt: skip
def test_an_old_key_of_eval(word, today):
    with pytest.raises(ConfigError) as caught:
        verb_config("eval", EvalConfig, [word])
    assert str(caught.value) == f"{word.partition('=')[0]} is now {today}"


def test_keys_of_other_verbs_are_not_those_of_train(tmp_path):
    done = seqlm("train", "window=3", "lens=awd", cwd=tmp_path, check=False)
    assert done.returncode == 2 and "window is not a key of this configuration; did you mean train.bptt?" in done.stderr
    assert "is now" not in done.stderr


def test_scores_and_progress_of_older_runs():
    counted = {"columns": 10, "tokens": 7, "loss": 2.0}
    old = {"nats": 3.0, "window": 5, "lens": {"lens": "awd", **counted}, "adaptation": {"window": 4}, "ppl": 2.0}
    today = {"batch_size": 10, "tokens": 7, "loss": 2.0, "name": "awd"}
    score = {"loss_sum": 3.0, "bptt": 5, "protocol": today, "adaptation": {"bptt": 4}, "ppl": 2.0}
    assert migrate_score(old) == score == migrate_score(score)
    assert migrate_score({"protocol": {"name": "awd", **counted}}) == {"protocol": today}
    progress = {"step": 3, "window": 2, "nats": 1.5, "nats_tokens": 9}
    assert migrate_progress(progress) == {"step": 3, "batch": 2, "loss_sum": 1.5, "loss_tokens": 9}


def test_a_run_is_read_with_the_keys_of_today(tmp_path):
    path, config = tmp_path / "config.yaml", tiny(tmp_path, "task.penalties.activation=2")
    save_config(config, path)
    text = path.read_text()
    text = text.replace("  penalties:\n    activation: 2\n    temporal: 0.0\n", "  activation_penalty: 2\n")
    text = text.replace("  output:\n    _target_: seqlm.layers.softmax.Softmax\n", "  softmaxes: 3\n  div_value: 4.0\n")
    path.write_text(text)
    assert "output:\n" not in text and "penalties:" not in text
    read = load_config(path)
    assert read.task == {"_target_": "seqlm.tasks.lm.LanguageModeling", "penalties": {"activation": 2}}
    assert read.model["output"] == {"_target_": MIXTURE, "num_softmaxes": 3, "latent_dropout": 0.0}
