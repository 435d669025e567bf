"""What a run is called when it is given no name."""

from __future__ import annotations

import pytest

from seqlm.config.compose import compose_words
from seqlm.config.yaml_files import cell_nodes, find_configs
from seqlm.runs.naming import LONGEST, describe_model, run_name

TAGGER = ["data=atis", "data.path=x", "model=tagger", "task=tagging"]


def name_of(*words):
    return run_name(*compose_words(words), words)


def stem(*words):
    name, _, digest = name_of(*words).rpartition("-")
    assert len(digest) == 6 and int(digest, 16) >= 0
    return name


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "pydoc-lstm-h320-s1"),
        (["model/cell=gru"], "pydoc-gru-h320-s1"),
        (["model=gru"], "pydoc-gru-h320-s1"),
        (["seed=2", "optim.lr=3e-3", "model.hidden_size=650", "data=ptb", "model/cell=gru"], "ptb-gru-h650-lr3e-3-s2"),
        (["model.tied=true", "optim=sgd", "model.num_layers=2"], "pydoc-lstm-h320-l2-tied-sgd-s1"),
        (["experiment=zaremba_small", "data.path=/some/where"], "zaremba_small-s1"),
        (["experiment=zaremba_small", "model/cell=qrnn", "model.hidden_size=300"], "zaremba_small-qrnn-h300-s1"),
        ([*TAGGER, "model/cell=elman"], "atis-tagger-elman-h100-tagging-s1"),
        (["model.num_params=2M"], "pydoc-lstm-num_params2M-s1"),
        (["model.cell._target_=mylab.Odd"], "pydoc-Odd-h320-target_mylab.Odd-s1"),
        (["tags=[a,b]", "note=x", "train.log_every=3", "run.root=/r", "device=cpu", "threads=1"], "pydoc-lstm-h320-s1"),
        (["init_from=outputs/first"], "pydoc-lstm-h320-init_from_first-s1"),
    ],
)  # fmt: skip
def test_a_name_says_what_the_run_is(words, expected):
    assert stem(*words) == expected


def test_the_order_of_words_changes_nothing():
    words = ["optim.lr=0.1", "model.num_layers=2", "train.bptt=7"]
    assert name_of(*words) == name_of(*reversed(words))


def test_a_name_ends_somewhere_and_is_still_one_runs():
    words = [f"model.dropout.{name}=0.{digit}" for digit in (1, 2) for name in ("input", "hidden", "output")]
    words += ["train.bptt=70", "train.clip_norm=0.25", "optim.weight_decay=1.2e-6", "schedule.warmup_steps=100"]
    name = name_of(*words)
    assert len(name) <= LONGEST + 7 and "-s1-" in name
    assert name != name_of(*words, "schedule.final=0.3")
    assert name_of("run.root=/elsewhere", "device=cpu") == name_of()  # where it is does not matter


def test_every_cell_has_a_preset():
    for name in cell_nodes():
        config, choices = compose_words([f"model={name}"])
        assert describe_model(config, choices) == name
        assert (find_configs() / "model" / f"{name}.yaml").is_file()


def test_layers_of_several_cells():
    config, choices = compose_words(["model.layers=[{cell: elman}, {cell: gru}]"])
    assert describe_model(config, choices) == "mixed"
    config, choices = compose_words(["model.layers=[{cell: gru}, {cell: gru}]"])
    assert describe_model(config, choices) == "gru"
