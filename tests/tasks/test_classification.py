"""Labels of whole sequences: pooling, metrics, and runs that learn what they can know."""

from __future__ import annotations

import json
import random
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from seqlm import Bidirectional, GRUCell, LSTMCell, Recurrent, Stack
from seqlm.data.batching.bucketed import EncodedExamples
from seqlm.data.tokenizers.examples import ExampleTokenizer
from seqlm.errors import ConfigError
from seqlm.evaluation.evaluate import evaluate
from seqlm.models.label_head import LabelHead
from seqlm.models.sequence_model import build_sequence_model
from seqlm.runs.folder import RunFolder
from seqlm.runs.load import load_run
from seqlm.tasks.base import Score
from seqlm.tasks.classification import Classification
from seqlm.training.launch import train

from ..conftest import compose
from ..conftest import seqlm as command
from ..training.test_resume import stops_change_nothing

POOLINGS = ("last", "mean", "max", "attention")
SHORT = [
    "data=labelled", "task=classification", "model=classifier", "model.hidden_size=8", "train.batch_size=8",
    "train.epochs=8", "train.eval_every=null", "train.eval_batch_size=16", "checkpoint.every=5", "train.log_every=1",
    "optim.lr=0.02", "schedule=constant", "threads=1",
]  # fmt: skip


def head_of(pooling, size=6, backward=2, labels=3):
    torch.manual_seed(0)
    head = LabelHead(size, {"num_labels": labels, "backward_size": backward}, pooling).double()
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    return head


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_one_number_at_a_time(pooling):
    head, lengths = head_of(pooling), [5, 1, 3]
    ys = torch.randn(5, 3, 6, dtype=torch.float64)
    found = head.pool(ys, torch.tensor(lengths))
    for b, length in enumerate(lengths):
        y = ys[:length, b].numpy()
        if pooling == "last":
            wanted = [*y[-1, :4], *y[0, 4:]]
        elif pooling == "attention":
            u, v = head.attention[0], head.attention[2]
            scores = np.array([
                v.weight.detach().numpy()[0] @ np.tanh(u.weight.detach().numpy() @ one + u.bias.detach().numpy())
                for one in y
            ])  # fmt: skip
            wanted = sum(np.exp(score) * one for score, one in zip(scores, y, strict=True)) / np.exp(scores).sum()
        else:
            wanted = y.mean(0) if pooling == "mean" else y.max(0)
        np.testing.assert_allclose(found[b].detach().numpy(), wanted, atol=1e-12)


def test_layers_know_what_they_read_backwards():
    forward, backward = Recurrent(LSTMCell(3, 4)), Recurrent(GRUCell(3, 5), reverse=True)
    both = Bidirectional(forward, backward)
    assert [layer.backward_size for layer in (forward, backward, both, Stack([both]))] == [0, 5, 5, 5]
    assert Stack([both, Recurrent(GRUCell(9, 2))]).backward_size == 0


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_last_state_is_where_each_direction_ends(bidirectional):
    """`last` pools the final state of each direction, of the sequence read alone."""
    split = texts("a b c d", "b", "c a d")
    model = model_of(split, bidirectional=bidirectional, pooling="last")
    ys, lengths = model.encode(split.batch([0, 1, 2]))
    pooled = model.head.pool(ys, lengths)
    for index in range(3):
        xs = model.readers[0](split.batch([index]))
        (carry,), _ = model.stack(xs, model.stack.init_carry(1))
        h = torch.cat([one.h for one in carry], -1) if bidirectional else carry.h
        torch.testing.assert_close(pooled[index : index + 1], h, rtol=0, atol=1e-12)


def texts(*sentences):
    examples = [{"words": text, "label": "ab"[index % 2]} for index, text in enumerate(sentences)]
    tokenizer = ExampleTokenizer().fit(examples)
    return EncodedExamples.of(examples, tokenizer)


def model_of(split, pooling, bidirectional=True):
    torch.manual_seed(0)
    return build_sequence_model(
        sizes=split.tokenizer.sizes(),
        cell=LSTMCell,
        head=lambda **known: LabelHead(**known, pooling=pooling),
        hidden_size=5,
        bidirectional=bidirectional,
    ).double()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_changes_no_label(pooling):
    """Alone or beside longer ones: the same logits and the same gradients, in float64."""
    split = texts("a b c d e a", "b", "c a d", "e e a b c", "d d")
    model, everyone = model_of(split, pooling), range(5)
    logits = model.head.logits(*model.encode(split.batch(everyone)))
    alone = [model.head.logits(*model.encode(split.batch([index]))) for index in everyone]
    torch.testing.assert_close(logits, torch.cat(alone), rtol=0, atol=1e-12)
    together = torch.autograd.grad(model.loss_sum(split.batch(everyone)), list(model.parameters()))
    apart = torch.autograd.grad(
        sum(model.loss_sum(split.batch([index])) for index in everyone), list(model.parameters())
    )
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_what_stands_behind_an_end_has_no_part(pooling):
    head, lengths = head_of(pooling), torch.tensor([2, 4])
    ys = torch.randn(4, 2, 6, dtype=torch.float64)
    other = ys.clone()
    other[2:, 0] = 1e3
    assert head.logits(ys, lengths).equal(head.logits(other, lengths))


def test_labels_are_smoothed_in_training_alone():
    split = texts("a b c d e a", "b", "c a d")
    model, batch = model_of(split, "mean"), split.batch([0, 1, 2])
    logits = model.head.logits(*model.encode(batch)).detach().numpy()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    plain = -np.log(p[range(3), batch["label"].numpy()])
    model.head.smoothing = 0.3
    np.testing.assert_allclose(model.loss_sum(batch).item(), (0.7 * plain - 0.3 * np.log(p).mean(1)).sum(), rtol=1e-12)
    model.eval()
    np.testing.assert_allclose(model.loss_sum(batch).item(), plain.sum(), rtol=1e-12)
    with pytest.raises(ValueError, match="smoothing=1.0 must be at least 0 and less than 1"):
        LabelHead(6, {"num_labels": 3}, smoothing=1.0)


def score_of(pairs):
    return Score(2.0, 4, Counter(pairs))


def test_metrics_by_hand():
    """3 x a -> a, a -> b, 2 x b -> b, 2 x c -> a: F1 of a 6/9, of b 4/5, of c 0; d is said for nothing of its own."""
    pairs = [("a", "a")] * 3 + [("a", "b")] + [("b", "b")] * 2 + [("c", "a")] * 2
    metrics = Classification().compute_metrics(score_of(pairs), None, "valid")
    assert metrics == pytest.approx({"loss": 0.5, "accuracy": 5 / 8, "macro_f1": (6 / 9 + 4 / 5 + 0) / 3})
    report = Classification().report(score_of([*pairs, ("b", "d")]))
    assert [row["label"] for row in report["labels"]] == ["a", "b", "c", "d"]
    assert report["labels"][0] == {"label": "a", "precision": 3 / 5, "recall": 3 / 4, "f1": 6 / 9, "support": 4}
    assert report["labels"][3] == {"label": "d", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert report["confusion"] == [
        {"target": target, "prediction": prediction, "count": count}
        for target, prediction, count in [("a", "a", 3), ("a", "b", 1), ("b", "b", 2), ("b", "d", 1), ("c", "a", 2)]
    ]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_scikit_learn(seed):
    """Over all labels that occur on either side, 0 where nothing is right."""
    from sklearn import metrics as sklearn

    rng = np.random.default_rng(seed)
    wanted, said = rng.integers(0, 7, 60).astype(str), rng.integers(2, 9, 60).astype(str)
    score = score_of(zip(wanted.tolist(), said.tolist(), strict=True))
    metrics, report = Classification().compute_metrics(score, None, "valid"), Classification().report(score)
    assert metrics["macro_f1"] == pytest.approx(sklearn.f1_score(wanted, said, average="macro"), abs=1e-12)
    assert metrics["accuracy"] == pytest.approx(sklearn.accuracy_score(wanted, said))
    labels = [row["label"] for row in report["labels"]]
    theirs = sklearn.precision_recall_fscore_support(wanted, said, labels=labels)
    for name, values in zip(("precision", "recall", "f1", "support"), theirs, strict=True):
        assert [row[name] for row in report["labels"]] == pytest.approx(values.tolist())
    matrix = sklearn.confusion_matrix(wanted, said, labels=labels)
    assert {(row["target"], row["prediction"]): row["count"] for row in report["confusion"]} == {
        (a, b): matrix[x, y] for x, a in enumerate(labels) for y, b in enumerate(labels) if matrix[x, y]
    }


def remembering(folder, count=80, last="x"):
    """The first word decides, and noise of any length follows it."""
    draw = random.Random(0)
    for split in ("train", "valid", "test"):
        rows = []
        for _ in range(count if split == "train" else 16):
            first = draw.choice(("left", "right"))
            rows.append(f"{first.upper()}\t{first} {' '.join(draw.choices('uvw', k=draw.randint(0, 7)))}")
        if split == "test":
            rows.append(f"{last}\tleft u")
        (folder / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return remembering(tmp_path_factory.mktemp("labelled"))


def config_of(where, folder, *overrides, name="run"):
    return compose(*SHORT, f"data.path={folder}", f"run.root={where}", f"run.name={name}", *overrides)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_learns(tmp_path, folder, pooling):
    train(config_of(tmp_path, folder, f"model.head.pooling={pooling}"), {})
    run = load_run(tmp_path / "run")
    score = evaluate(run.model, run.task, run.task.batches(run.data, "test", 4, 0), torch.device("cpu"))
    # One of the 17 has a label that train lacks: it costs no nats, and is wrong.
    assert score.tokens == 16 and score.counts["x", "LEFT"] == 1
    assert run.task.compute_metrics(score, run.data, "test")["accuracy"] == 16 / 17
    assert RunFolder(tmp_path / "run").info()["metrics"]["valid/accuracy"] == 1


@pytest.mark.parametrize("judged", ["accuracy", "macro_f1", "loss"])
def test_weights_are_chosen_by(tmp_path, folder, judged):
    """Of equal accuracies by the lower loss: so are the best, what is kept besides, and patience."""
    words = [f"task.monitor={judged}", "optim.lr=0.05", "schedule=constant", "train.epochs=9", "train.patience=2",
             "checkpoint.keep_best=3", "checkpoint.keep_last=1"]  # fmt: skip
    train(config_of(tmp_path, folder, *words), {})
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    sign = 1 if judged == "loss" else -1
    ranked = sorted((sign * r[f"valid/{judged}"], r["valid/loss"], r["step"]) for r in records if "valid/loss" in r)
    if judged != "loss":
        equal = [step for value, _, step in ranked if value == -1]
        assert equal[0] != min(equal), "no tie that the loss decides"
    assert len(ranked) == 9 and load_run(tmp_path / "run").checkpoint.step == ranked[0][2]
    kept = {int(path.name.removeprefix("step-")) for path in (tmp_path / "run" / "checkpoints").glob("step-*")}
    assert kept == {step for *_, step in ranked[:3]} | {90}


def test_resume_is_equality(tmp_path, folder, monkeypatch):
    more = ["model.head.pooling=attention", "model.dropout.input=0.3", "model.dropout.output=0.2", "averaging=ema",
            "train.epochs=3"]  # fmt: skip
    stops_change_nothing(tmp_path, lambda name: config_of(tmp_path, folder, *more, name=name), (4, 9), monkeypatch)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.head.pooling=first"], "model.head.pooling=first should be one of last, mean, max, attention"),
        (["task.monitor=f1"], "task.monitor=f1 should be one of accuracy, macro_f1, loss"),
        (["model=tagger"], "model.head needs tags, and this data has none"),
        (["task=tagging"], "Tagging needs a model with a TagHead, this one has a LabelHead"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, folder, words, message):
    with pytest.raises(ConfigError, match=message):
        train(config_of(tmp_path, folder, *words), {})


def test_a_valid_without_any_label_of_train_is_refused(tmp_path):
    (tmp_path / "train.tsv").write_text("a\tone\nb\ttwo\n" * 8)
    (tmp_path / "valid.tsv").write_text("A\tone\nB\ttwo\n")
    with pytest.raises(ConfigError, match="split=valid: train has none of its label, which begin with: A"):
        train(config_of(tmp_path, tmp_path), {})


def test_eval_and_predict_say_labels(tmp_path, folder):
    train(config_of(tmp_path, folder), {})
    shown = command("eval", tmp_path / "run", "split=test", cwd=tmp_path).stdout
    assert "macro_f1" in shown and "confusion" in shown
    assert [line.split() for line in shown.splitlines() if line.startswith("x ")] == [
        ["x", "0.0000", "0.0000", "0.0000", "1"], ["x", "LEFT", "1"],
    ]  # fmt: skip
    said = command("predict", tmp_path / "run", "-", cwd=tmp_path, input="right u v\nleft w\n").stdout.splitlines()
    assert [json.loads(line)["label"] for line in said] == ["RIGHT", "LEFT"]
