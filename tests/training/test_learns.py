"""The one test that no stub passes: on a source of known entropy the model comes close to it, and never below."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seqlm.data.sources.entropy import HiddenMarkov, MarkovChain
from seqlm.evaluation.evaluate import evaluate
from seqlm.runs.folder import RunFolder
from seqlm.runs.load import load_run
from seqlm.training.launch import train

from ..conftest import tiny

FAST = ["train.eval_every=null", "train.batch_size=16", "train.bptt=20", "checkpoint.every=null",
        "model.num_layers=1",
        "model.hidden_size=32", "optim.lr=0.02", "schedule.warmup_steps=20", "train.eval_batch_size=8"]  # fmt: skip


@pytest.mark.parametrize("model", ["elman", "jordan", "lstm", "gru"])
def test_a_markov_chain_is_learned_to_its_entropy(tmp_path, model):
    source = MarkovChain(symbols=6, tokens=120_000, seed=5)
    words = [f"model={model}", "data.symbols=6", "data.tokens=120000", "data.seed=5", "train.steps=700"]
    loss = train(tiny(tmp_path, *FAST, *words), {}).best
    # What the chain's own probabilities score on the valid text bounds the sampling error.
    text = ["abcdef".index(letter) for letter in "".join(source.read("valid"))]
    nats = [-math.log(source._next[before, after]) for before, after in zip(text, text[1:], strict=False)]
    error = 4 * np.std(nats) / math.sqrt(len(nats))
    assert source.entropy_rate - error < loss < 1.02 * source.entropy_rate, (source.entropy_rate, loss)


def test_memory_of_two_steps_is_learned(tmp_path):
    """An order-2 chain: no model that sees one symbol can come close; a recurrent one does."""
    source = MarkovChain(symbols=3, order=2, tokens=60_000, seed=2, concentration=0.3)
    words = [
        "model=gru",
        "data.symbols=3",
        "data.order=2",
        "data.tokens=60000",
        "data.seed=2",
        "data.concentration=0.3",
    ]
    loss = train(tiny(tmp_path, *FAST, *words, "train.steps=500"), {}).best
    text = ["abc".index(letter) for letter in "".join(source.read("train"))]
    pairs = np.zeros((3, 3))
    np.add.at(pairs, (text[:-1], text[1:]), 1)
    rows = pairs / pairs.sum(1, keepdims=True)
    one_symbol = -(pairs * np.log(rows)).sum() / pairs.sum()
    assert loss < 1.03 * source.entropy_rate < 0.97 * one_symbol


def test_a_hidden_markov_source_is_learned_between_its_bounds(tmp_path):
    source = HiddenMarkov(states=2, symbols=3, tokens=100_000, seed=4)
    words = ["data=hmm", "data.states=2", "data.symbols=3", "data.tokens=100000", "data.seed=4", "train.steps=600"]
    loss = train(tiny(tmp_path, *words, *FAST), {}).best
    low, high = source.entropy_bounds(8)
    assert low - 0.03 < loss < 1.02 * high, (low, loss, high)


def test_what_is_reported_is_what_the_run_scores(tmp_path):
    """valid in run.json, `evaluate` on the loaded best checkpoint and the run's own data: one number."""
    best = train(tiny(tmp_path, "train.eval_batch_size=1"), {}).best
    run = load_run(tmp_path / "run")
    import torch

    from seqlm.data.batching.streams import Streams

    streams = Streams(run.data["valid"].tokens, 1, 9, first=run.tokenizer.eos_id)
    score = evaluate(run.model, run.task, streams, torch.device("cpu"))
    assert score.tokens == 400
    assert score.loss == pytest.approx(best, rel=1e-5) == RunFolder(tmp_path / "run").info()["metrics"]["valid/loss"]
