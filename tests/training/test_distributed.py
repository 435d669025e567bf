"""Data parallel: N ranks that share out the rows of a batch train what one process with all of them does."""

from __future__ import annotations

import pytest
import torch

from ..conftest import compose
from ..ranks import together
from .rank_training import DOUBLE, train_each


def losses(result):
    """Every number that was logged but the speed: (step, name, value)."""
    return [
        (step, name, value)
        for step, values in result["records"]
        for name, value in values.items()
        if not name.endswith("tokens_per_s")
    ]


def assert_alike(results, alone, bound, name=""):
    """All ranks have the same bits, and are as near to a single process as rounding allows."""
    first = results[0]
    for other in results[1:]:
        assert losses(other) == losses(first)
        assert all(torch.equal(one, other["weights"][name]) for name, one in first["weights"].items())
    found, expected = losses(first), losses(alone)
    assert [key[:2] for key in found] == [key[:2] for key in expected] and len(found) > 20
    worst = max(abs(a[2] - b[2]) / max(1.0, abs(b[2])) for a, b in zip(found, expected, strict=True))
    assert worst < bound and not alone["ended"] and not first["ended"], (name, worst)
    return worst


STEPS = ["train.log_every=1", "train.steps=9", "train.eval_every=4", "engine=scan"]  # no kernel is compiled
RANDOM_CHUNKS = ["train.bptt_std=2", "train.bptt_half_prob=0.3"]
PENALTIES = ["task.penalties.activation=2", "task.penalties.temporal=1"]
ASGD = ["optim=sgd", "optim.lr=2", "averaging=nt_asgd", "averaging.patience=0", "eval_weights=average"]
TEXTS = {
    "lm": [],
    "lm, parts, nt-asgd, drawn lengths": ["train.accumulate=2", *ASGD, *RANDOM_CHUNKS, *PENALTIES,
                                          "train.clip_norm=0.1"],
    "lm, tied, summed, l2": ["model.tied=true", "train.loss_unit=sum", "optim.lr=0.001", "train.l2=0.01"],
    "lm, large gradients": ["model.hidden_size=80", "model.num_layers=1"],
    "lm, one row to score": ["train.eval_batch_size=1", "data.tokens=1500"],
    "bilm": ["task=bilm", "model=bilm"],
    "cloze": ["task=cloze", "model=cloze"],
}  # fmt: skip
SEQUENCES = ["data.sizes=[45,9,9]", "train.batch_size=6", "train.eval_batch_size=5", "model.hidden_size=8"]
REQUESTS = ["data=taipei", "data.sentences=45", *SEQUENCES[1:]]  # the last batch of an epoch has three
EXAMPLES = {
    "tagging": ["task=tagging", "model=tagger", *REQUESTS],
    "tagging, weighted, parts": ["task=tagging", "model=tagger", *REQUESTS, "task.class_weights=balanced",
                                 "train.accumulate=2"],
    "seq2seq": ["task=seq2seq", "model=seq2seq", "data=copy", *SEQUENCES],
    "conditional": ["task=conditional", "model=conditional", "data=copy", *SEQUENCES, "model.empty=0"],
}  # fmt: skip


def configs(folder, cases, kind):
    common = ["data=markov", "data.tokens=4000", "data.symbols=5", "model.hidden_size=12", "model.num_layers=2",
              "optim.lr=0.01", "train.batch_size=4", "train.bptt=7", "train.eval_batch_size=3", "sample.tokens=10",
              "threads=1", f"run.root={folder}"]  # fmt: skip
    places = [f"run.name={kind}-{index}" for index in range(len(cases))]
    text = [word for word in common if not word.startswith(("data.", "model."))]
    return [
        compose(*(common if "lm" in name or "cloze" in name else text), *STEPS, *words, place)
        for (name, words), place in zip(cases.items(), places, strict=True)
    ]


@pytest.mark.parametrize("cases", [TEXTS, EXAMPLES], ids=["texts", "examples"])
def test_two_ranks_train_as_one_process(tmp_path, processes, cases):
    """In float64, where only the order of sums differs; both ranks have the same bits."""
    alone = together(processes, 1, tmp_path, train_each, configs(tmp_path, cases, "alone"), DOUBLE)[0]
    both = together(processes, 2, tmp_path, train_each, configs(tmp_path, cases, "both"), DOUBLE)
    for name, one, *pair in zip(cases, alone, *both, strict=True):
        assert_alike(pair, one, 1e-10, name)
