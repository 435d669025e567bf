"""Regression: losses and metrics by hand, missing targets, and a run that learns to add."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from seqlm import LSTMCell
from seqlm.data.batching.bucketed import Bucketed, EncodedExamples
from seqlm.data.sources.adding import Adding
from seqlm.data.sources.features import Features
from seqlm.data.tokenizers.examples import ExampleTokenizer
from seqlm.data.tokenizers.saved import load_tokenizer
from seqlm.errors import ConfigError
from seqlm.evaluation.evaluate import evaluate
from seqlm.models.sequence_model import build_sequence_model
from seqlm.models.value_head import GaussianHead, ValueHead
from seqlm.runs.load import build_data, load_run
from seqlm.tasks.regression import Regression
from seqlm.training.launch import train

from ..conftest import compose
from ..training.test_resume import stops_change_nothing

NAN = math.nan
SHORT = [
    "data=adding", "task=regression", "model=regressor", "model.hidden_size=12", "data.length=6",
    "data.sizes=[64,16,16]", "train.batch_size=8", "train.epochs=2", "train.eval_every=null", "checkpoint.every=5",
    "train.log_every=1", "optim.lr=0.02", "schedule=constant", "threads=1",
]  # fmt: skip
WHOLE = [[1.0, -1.0], [NAN, -100.0], [2.5, 0.0], [0.0, NAN]]
LENGTHS = [4, 2, 3, 1]


def split_of(values):
    rng = np.random.default_rng(0)
    examples = [
        {"features": rng.normal(size=(length, 3)).astype(np.float32), "value": value}
        for length, value in zip(LENGTHS, values, strict=True)
    ]
    return EncodedExamples.of(examples, ExampleTokenizer().fit(examples))


def steps(values):
    """The values of `WHOLE` at every step, other ones at each."""
    return [np.array(value) + np.arange(length)[:, None] for value, length in zip(values, LENGTHS, strict=True)]


class Double(nn.Module):
    """Features in float64."""

    def forward(self, xs):
        return xs.double()


def model_of(split, head=ValueHead, pooling=None):
    torch.manual_seed(0)
    model = build_sequence_model(
        sizes=split.tokenizer.sizes(),
        cell=LSTMCell,
        head=lambda **known: head(**known, pooling=pooling),
        hidden_size=5,
    ).double()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.7, 0.7)
    model.input_dropout = Double()
    return model


def scored(split, model, batch_size):
    task, batches = Regression(), Bucketed(split, batch_size, ("value",))
    return task, evaluate(model, task, batches, torch.device("cpu"))


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("head", [ValueHead, GaussianHead])
def test_loss_and_metrics_by_hand(head, per_step):
    """Targets of -1 and -100 count, NaN ones do not; whatever the size of a batch, and so the padding."""
    split = split_of(steps(WHOLE) if per_step else WHOLE)
    model = model_of(split, head)
    pairs, nats = [[], []], 0.0
    for index, example in enumerate(split.originals):
        encoded = model.encode(split.batch([index]))
        mean, deviation = model.head.values(*encoded)
        for row, target in enumerate(np.atleast_2d(example["value"])):
            for k in range(2):
                if not np.isnan(target[k]):
                    m = mean[row, 0, k].item()
                    pairs[k].append((m, target[k]))
                    if head is ValueHead:
                        nats += (m - target[k]) ** 2
                    else:
                        s = deviation[row, 0, k].item()
                        nats += math.log(s) + 0.5 * math.log(2 * math.pi) + 0.5 * ((m - target[k]) / s) ** 2
    for batch_size in (1, 2, 4):
        task, score = scored(split, model, batch_size)
        count = sum(map(len, pairs))
        assert score.tokens == count and score.loss_sum == pytest.approx(nats, rel=1e-12)
        both, report = task.compute_metrics(score, None, "valid"), task.report(score)
        squares = [sum((m - y) ** 2 for m, y in one) for one in pairs]
        spread = [sum((y - np.mean([y for _, y in one])) ** 2 for _, y in one) for one in pairs]
        assert both["rmse"] == pytest.approx(math.sqrt(sum(squares) / count), rel=1e-12)
        assert both["mae"] == pytest.approx(sum(abs(m - y) for one in pairs for m, y in one) / count, rel=1e-12)
        assert both["r2"] == pytest.approx(1 - sum(squares) / sum(spread), rel=1e-9)
        for k, row in enumerate(report["outputs"]):
            assert row["rmse"] == pytest.approx(math.sqrt(squares[k] / len(pairs[k])), rel=1e-12)
            assert row["r2"] == pytest.approx(1 - squares[k] / spread[k], rel=1e-9)
            assert row["support"] == len(pairs[k])
        assert [row["missing"] for row in report["outputs"]] == ([2, 1] if per_step else [1, 1])
        assert task.facts(score, None, "valid") == {"missing": (3 if per_step else 2)}


@pytest.mark.parametrize("head", [ValueHead, GaussianHead])
def test_missing_targets_have_no_gradient(head):
    split = split_of(WHOLE)
    model = model_of(split, head)
    outputs = model.head.outputs(*model.encode(split.batch(range(4)))).detach().requires_grad_()
    model.head.outputs = lambda ys, lengths: outputs
    model.head.loss_sum(None, None, split.batch(range(4))).backward()
    missing = torch.tensor(WHOLE).isnan().unsqueeze(0)
    for part in outputs.grad.chunk(head.numbers, -1):
        assert (part[missing] == 0).all() and (part[~missing] != 0).all()
    everything = split_of([[NAN, NAN], *WHOLE[1:]]).batch([0], ("value",))
    assert everything.tokens == 0 and model_of(split, head).loss_sum(everything).item() == 0


def test_parts_and_padding_of_values():
    split = split_of(steps(WHOLE))
    batch = split.batch([0, 1, 2, 3], ("value",))
    assert batch["value"].shape == (4, 4, 2) and batch.lengths["value"].tolist() == LENGTHS
    assert batch["value"][2:, 1].isnan().all() and sum(part.tokens for part in batch.parts(2)) == batch.tokens == 17
    whole = split_of(WHOLE).batch([0, 1, 2], ("value",))
    assert whole["value"].shape == (1, 3, 2) and "value" not in whole.lengths and whole.tokens == 5


def test_the_tokenizer_keeps_what_a_value_is(tmp_path):
    for values, known in ((WHOLE, 0), (steps(WHOLE), 1)):
        tokenizer = split_of(values).tokenizer
        tokenizer.save(tmp_path / "tokenizer.json")
        again = load_tokenizer(tmp_path / "tokenizer.json")
        assert again.sizes() == tokenizer.sizes() == {"num_features": 3, "num_values": 2, "value_steps": known}
        with pytest.raises(ConfigError, match=r"value \(1, 3\), but in train there are 2"):
            again.encode({"value": [1.0, 2.0, 3.0]})


@pytest.mark.parametrize("wrong", ["three", math.inf, [[[1.0]]], {}])
def test_values_that_are_none_are_refused(wrong):
    with pytest.raises(ConfigError, match="an example has value"):
        split_of([1.0, 2.0, wrong, 3.0])


def test_a_pooling_that_does_nothing_is_refused():
    with pytest.raises(ValueError, match="pooling=mean does nothing: this data has a value for each step"):
        model_of(split_of(steps(WHOLE)), pooling="mean")


def test_the_adding_problem_is_what_it_says():
    data = Adding(length=7, sizes=[50, 5, 5], seed=0)
    for example in data.examples("train"):
        numbers, marks = example["features"].T
        assert marks.sum() == 2 and marks[:3].sum() == 1
        assert example["value"] == pytest.approx((numbers * marks).sum(), abs=1e-6)
    assert data.fingerprint("train") != data.fingerprint("valid")
    with pytest.raises(ConfigError, match="data.length=1 must be at least 2"):
        Adding(length=1, sizes=[1, 1, 1], seed=0)


def test_the_lowest_rmse_is_the_best():
    task = Regression()
    good, bad = {"loss": 1.0, "rmse": 0.1, "mae": 0.2, "r2": 0.9}, {"loss": 1.0, "rmse": 0.5, "mae": 0.6, "r2": 0.1}
    assert task.monitored(good) < task.monitored(bad)
    for name in ("mae", "r2"):
        assert Regression(monitor=name).monitored(good) < Regression(monitor=name).monitored(bad)


@pytest.mark.parametrize("head", ["value", "gaussian"])
def test_adding_is_learned(tmp_path, head):
    words = ["train.epochs=12", "data.sizes=[800,100,100]", f"model/head={head}", "model.hidden_size=16"]
    train(compose(*SHORT, *words, f"run.root={tmp_path}", "run.name=run"), {})
    run = load_run(tmp_path / "run")
    score = evaluate(run.model, run.task, run.task.batches(run.data, "test", 16, 1), torch.device("cpu"))
    found = run.task.compute_metrics(score, run.data, "test")
    assert found["rmse"] < 0.2 and found["r2"] > 0.7
    given = [{"features": one["features"]} for one in run.data["test"].originals[:3]]
    answers = run.task.answers(run.model, run.tokenizer, given)
    for one, answer in zip(run.data["test"].originals, answers, strict=False):
        assert isinstance(answer["value"], float) and abs(answer["value"] - one["value"]) < 0.8
        assert ("deviation" in answer) == (head == "gaussian") and json.dumps(answer)


def test_stops_change_nothing(tmp_path, monkeypatch):
    def config(name):
        return compose(*SHORT, f"run.root={tmp_path}", f"run.name={name}")

    stops_change_nothing(tmp_path, config, (4, 9), monkeypatch)


def test_values_of_files(tmp_path):
    """Arrays with values for the whole, for each step and in a table; texts whose label is a number."""
    features = np.zeros((2, 3, 4), np.float32)
    for value in (np.array([1.0, -1.0]), np.array([[1.0, NAN], [2.0, -1.0]]), np.ones((2, 3, 5))):
        np.savez(tmp_path / "some.npz", features=features, value=value, lengths=np.array([3, 2]))
        read = [example for _, example in Features(path=str(tmp_path)).read(tmp_path / "some.npz")]
        fitted = ExampleTokenizer().fit(read)
        encoded = fitted.encode(read[1])["value"]
        assert fitted.sizes()["num_values"] == (1 if value.ndim == 1 else value.shape[-1])
        np.testing.assert_array_equal(encoded, value[1, :2] if value.ndim == 3 else np.reshape(value[1], (1, -1)))
    np.savez(tmp_path / "some.npz", features=features, value=np.ones(3))
    with pytest.raises(ConfigError, match=r"value \(3,\) should be numbers"):
        list(Features(path=str(tmp_path)).read(tmp_path / "some.npz"))
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "a.npy", features[0])
    (tmp_path / "folder" / "values.tsv").write_text("a\t-1 nan\n")
    (_, example), *_ = Features(path=str(tmp_path)).read(tmp_path / "folder")
    np.testing.assert_array_equal(ExampleTokenizer().fit([example]).encode(example)["value"], [[-1, NAN]])
    (tmp_path / "folder" / "values.tsv").unlink()
    (tmp_path / "folder" / "values").mkdir()
    values = tmp_path / "folder" / "values" / "a.npy"
    np.save(values, np.array([[1.0, NAN], [2.0, -1.0], [0.0, 0.5]]))
    (_, example), *_ = Features(path=str(tmp_path)).read(tmp_path / "folder")
    np.testing.assert_array_equal(ExampleTokenizer().fit([example]).encode(example)["value"], np.load(values))
    for wrong in (np.ones(3), np.ones((2, 1))):
        np.save(values, wrong)
        with pytest.raises(ConfigError, match=r"a.npy: .* should be \(T, K\), a row for each of 3 steps"):
            list(Features(path=str(tmp_path)).read(tmp_path / "folder"))
    (tmp_path / "folder" / "values.tsv").write_text("a\t-1\n")
    with pytest.raises(ConfigError, match=r"has both values.tsv and values/; leave one of them out"):
        list(Features(path=str(tmp_path)).read(tmp_path / "folder"))


def test_values_of_texts(tmp_path):
    """A number for each text, and numbers for each of its words; without the other name they are no labels."""
    lines = [{"text": f"{word} {word}", "label": number} for word, number in zip("abcdefgh", range(8), strict=True)]
    lines[2]["label"], lines[3]["label"] = -1.5, NAN
    (tmp_path / "texts").mkdir()
    for split in ("train", "valid"):
        (tmp_path / "texts" / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["data=labelled", f"data.path={tmp_path}/texts", "data.rename={label: value}"]
    data = build_data(compose("task=regression", "model=regressor", *words))
    found = torch.stack([torch.from_numpy(one["value"]) for one in data["train"].encoded]).flatten()
    assert sorted(found[~found.isnan()].tolist()) == [-1.5, 0, 1, 4, 5, 6, 7] and len(found) == 8
    for number, line in enumerate(lines):
        line["label"] = [[number], [-number]]
    for split in ("train", "valid"):
        (tmp_path / "texts" / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = build_data(compose("task=regression", "model=regressor", *words))
    assert data["train"].encoded[3]["value"].tolist() == [[3], [-3]] and data.tokenizer.sizes()["value_steps"] == 1
    with pytest.raises(ConfigError, match=r"an example has label \[\[0\], \[0\]\]; numbers are values"):
        build_data(compose("task=classification", "model=classifier", *words[:2]))
