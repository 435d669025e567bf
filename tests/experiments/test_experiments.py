"""Published settings: what they build is as large as published, and begins where it must."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pytest
import torch

from seqlm.cells import detach
from seqlm.config.build import build
from seqlm.config.yaml_files import find_configs
from seqlm.errors import ConfigError
from seqlm.evaluation.reproduction import task_of
from seqlm.models.presets import budget
from seqlm.runs.assemble import build_data, build_model
from seqlm.runs.load import load_run, trained_model
from seqlm.training.launch import train

from ..config.test_configs import path_of
from ..conftest import REPOSITORY, compose, tiny
from ..models.test_model import model_of

# Words or characters: of the Penn Treebank if not listed.
VOCABULARY = {"awd_wt2": 33_278, "awd_ptbchar": 50, "awd_enwik8": 205, "laptop_char": 50, "mogrifier_ptbchar": 50}
# Parameters as published, or counted by hand where only "23M" was.
# Melis: their cells have one bias where torch's have two, their vocabulary one word more.
PARAMETERS = {
    "awd_ptb": 24_221_600,
    "awd_ptb_finetune": 24_221_600,
    "awd_wt2": 33_556_078,
    "awd_ptbchar": 13_787_650,
    "awd_enwik8": 47_270_045,
    "laptop_char": 4 * 800 * (64 + 800 + 2) + 50 * (64 + 800 + 1),
    "book_better_rnnlm": 13_280_400,
    "book_rnnlm": 2_090_800,
    "gal_large": 66_034_000,
    "melis_10m": 9_997_549 + 4 * 1194 - (268 + 1),
    "melis_24m": 23_979_620 + 4 * 4 * 723 - (723 + 1),
    "mogrifier_ptb": 23_987_393 + 2 * 4 * 912 - (912 + 1),
    # By hand: embedding and softmax; of each layer gates, two rounds on x and two on h, of rank 24 with a bias.
    "mogrifier_ptbchar": 50 * 1209 * 2 + 50 + 2 * (8 * 1209 * (1209 + 1) + 4 * (2 * 24 + 1) * 1209),
    "mos_ptb": 21_500_620,
    "qrnn_ptb": 24_020_150,
    "rhn_ptb": 23_482_400,
    "laptop": 8_176_400,
    "wlm_200": 4_653_200,
    "wlm_200_tied": 2_653_200,
    "wlm_650": 19_780_400,
    "wlm_650_tied": 13_280_400,
    "wlm_1500": 66_034_000,
    "wlm_1500_tied": 51_034_000,
    "zaremba_small": 4_653_200,
    "zaremba_medium": 19_780_400,
    "zaremba_large": 66_034_000,
}
ALL = sorted(path.stem for path in Path(find_configs() / "experiment").glob("*.yaml"))
NAMES = [name for name in ALL if task_of(name) == "lm"]

ATIS = REPOSITORY.parent / "shared" / "data" / "atis"
# What the vocabularies of data hold that may not be there, and what a target of each task is one of.
ATIS_SIZES = {"vocab_size": 726, "num_chars": 40, "num_tags": 120, "num_labels": 21, "target_size": 869}
ONE_OF = {
    "tagging": "num_tags", "classification": "num_labels", "seq2seq": "target_size", "conditional": "target_size",
}  # fmt: skip


def rewriter(source: int, target: int, embedding: int, size: int, attention: int) -> int:
    """Parameters of an LSTM in both directions, a bridge for h and c, an LSTM that writes, attention, and a softmax."""
    encoder = source * embedding + 2 * 4 * size * (embedding + size + 2)
    decoder = target * size + 4 * size * (size + size + 2) + target * (size + 1)
    return encoder + 2 * size * (2 * size + 1) + decoder + attention + size * 3 * size


def lstm(inputs: int, size: int) -> int:
    """Parameters of one direction."""
    return 4 * size * (inputs + size + 2)


SLOTS = 726 * 100 + 40 * 25 + 2 * lstm(25, 25) + 2 * lstm(150, 128) + 120 * (256 + 1) + 120 * 120 + 2 * 120
# Of models for other tasks, by hand: embedding, recurrence, what predicts.
COUNTED = {
    "atis_slots": SLOTS,
    "atis_intent": 726 * 100 + 40 * 25 + 2 * lstm(25, 25) + 2 * lstm(150, 128) + 21 * (256 + 1),
    "atis_intent_lm": 726 * 100 + 40 * 25 + 2 * lstm(25, 25) + 2 * lstm(150 + 640, 128) + 21 * (256 + 1),
    "atis_joint": SLOTS + 21 * (256 + 1),
    "atis_by_intent": 21 * 32 + 32 + 869 * 100 + lstm(100 + 32, 200) + 2 * 200 * (32 + 1) + 869 * (200 + 1),
    "bilm_ptb": 10_000 * 200 + 2 * lstm(200, 200) + 10_000 * (200 + 1),
    "cloze_ptb": 10_000 * 200 + 200 + 2 * lstm(200, 200) + 10_000 * (400 + 1),
    "atis_elman": 726 * 100 + 100 * (100 + 100 + 2) + 120 * (100 + 1),
    "atis_jordan": 726 * 100 + 100 * (100 + 100 + 1) + 100 * (100 + 1) + 120 * (100 + 1),
    "atis_bielman": 726 * 100 + 2 * 100 * (100 + 100 + 2) + 120 * (2 * 100 + 1),
    "taipei": 39 * 32 + 32 * (32 + 32 + 2) + 7 * (32 + 1),
    "taipei_feed_forward": 39 * 32 + 32 * (32 + 1) + 7 * (32 + 1),
    "dates": rewriter(64, 13, 32, 64, attention=64 * (2 * 64 + 64 + 1)),
    "reverse": rewriter(12, 12, 32, 64, attention=64 * 2 * 64),
}
OTHERS = [name for name in ALL if task_of(name) != "lm"]


@cache
def data_of(name):
    """The data of an experiment: generated, or found beside the checkout; None if it is neither."""
    words = path_of(name, ATIS)
    is_there = not words or ("atis" in name and ATIS.is_dir())
    return build_data(compose(f"experiment={name}", *words)) if is_there else None


@pytest.fixture(scope="module")
def newspapers(tmp_path_factory):
    """A run as wide as the one that atis_intent_lm was measured with."""
    folder = tmp_path_factory.mktemp("models")
    train(tiny(folder, "model.hidden_size=640", "model.num_layers=1", "train.steps=1", name="newspapers"), {})
    return folder / "newspapers"


def composed(name, newspapers):
    words = [word.replace("0.run=run", f"0.run={newspapers}") for word in path_of(name, "somewhere")]
    return compose(f"experiment={name}", *words)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_published(name):
    size, config = VOCABULARY.get(name, 10_000), compose(f"experiment={name}", *path_of(name, "somewhere"))
    with torch.device("meta"):
        model = build(config.model, "model", vocab_size=size, engine="scan")
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_first_loss_is_that_of_knowing_nothing(name):
    size, config = VOCABULARY.get(name, 10_000), compose(f"experiment={name}", *path_of(name, "somewhere"))
    torch.manual_seed(0)
    model = build(config.model, "model", vocab_size=size, engine="scan")
    tokens, carry = torch.randint(size, (7, 2)), model.init_carry(2)
    with torch.no_grad():
        _, nats = model.nll(tokens[:-1], tokens[1:], detach(carry))
    assert nats.item() / 12 == pytest.approx(math.log(size), rel=0.02)


@pytest.mark.parametrize("name", OTHERS)
def test_parameters_of_other_tasks_are_those_counted_by_hand(name, newspapers):
    data, config = data_of(name), composed(name, newspapers)
    if task_of(name) in ("bilm", "cloze"):
        known = {"vocab_size": 10_000}
    else:
        known = {"sizes": ATIS_SIZES if data is None else data.tokenizer.sizes()}
    if name == "atis_intent_lm":
        run = load_run(newspapers)
        known["load"] = lambda folder, which, sha256: (run.model, run.tokenizer)
    with torch.device("meta"):
        model = build(config.model, "model", engine="scan", **known)
    assert sum(parameter.numel() for parameter in model.parameters()) == COUNTED[name]


@pytest.mark.parametrize("name", [name for name in OTHERS if task_of(name) in ONE_OF])
def test_the_first_loss_of_other_tasks_is_that_of_knowing_nothing(name, newspapers):
    data, config = data_of(name), composed(name, newspapers)
    if data is None:
        pytest.skip("ATIS is not in ../shared/data/atis")
    torch.manual_seed(0)
    model, task = build_model(config, data.tokenizer, trained_model), build(config.task, "task")
    batch = task.batches(data, "valid", 20, 0)[0]
    with torch.no_grad():
        nats = model.eval().loss_sum(batch).item() / batch.tokens
    assert nats == pytest.approx(math.log(data.tokenizer.sizes()[ONE_OF[task_of(name)]]), rel=0.05)


@pytest.mark.parametrize(
    "cell",
    ["elman", "gru", "lstm", "jordan", "layer_norm_lstm", "mogrifier_lstm", "rhn", "qrnn", "min_gru", "min_lstm"],
)
@pytest.mark.parametrize("options", [(), ("model.tied=true",), ("model.embedding_size=20", "model.num_layers=2")])
def test_a_budget_of_parameters(cell, options):
    model = model_of(f"model/cell={cell}", "model.num_params=60k", *options)
    size = model.stack.output_size
    count = sum(parameter.numel() for parameter in model.parameters())
    larger = model_of(f"model/cell={cell}", f"model.hidden_size={size + 1}", *options)
    assert count <= 60_000 < sum(parameter.numel() for parameter in larger.parameters())


def test_budgets_as_people_write_them():
    assert [budget(text) for text in (24, "24", "1.5k", "24M", "0.5M")] == [24, 24, 1500, 24_000_000, 500_000]
    with pytest.raises(ConfigError, match="model.num_params=many should be a number"):
        budget("many")
    with pytest.raises(ConfigError, match=r"model.num_params=20 is too small: with hidden size 1 there are \d+"):
        model_of("model.num_params=20")
    with pytest.raises(ConfigError, match="not layers"):
        model_of("model.num_params=1M", "model.layers=[{cell: gru}]")
