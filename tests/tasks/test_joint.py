"""Tags and a label at once: one encoder, two heads, each the one that would be there alone."""

from __future__ import annotations

import random
import shutil

import pytest
import torch

from seqlm.commands.eval import evaluate_run
from seqlm.errors import ConfigError
from seqlm.evaluation.evaluate import evaluate
from seqlm.runs.assemble import build_data, build_model
from seqlm.runs.load import load_run
from seqlm.tasks.base import Score
from seqlm.tasks.classification import Classification
from seqlm.tasks.joint import Joint
from seqlm.tasks.tagging import Tagging
from seqlm.training.launch import train

from ..conftest import compose
from ..training.test_resume import stops_change_nothing

SHORT = [
    "data=atis", "task=joint", "model=joint", "model.hidden_size=12", "train.batch_size=6", "train.epochs=10",
    "train.eval_every=null", "checkpoint.every=4", "train.log_every=1", "optim.lr=0.03", "schedule=constant",
    "threads=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def flights(tmp_path_factory):
    """`from A to B`, or `to B from A`, asks for a flight; with `fare` in front, for its price."""
    folder, draw = tmp_path_factory.mktemp("flights"), random.Random(0)
    for split, count in (("train", 60), ("valid", 15), ("test", 15)):
        (folder / split).mkdir()
        rows = []
        for _ in range(count):
            ways = [[(way, "O"), (draw.choice(("rome", "oslo", "lima")), f"B-{way}")] for way in ("from", "to")]
            draw.shuffle(ways)
            asked = draw.choice(("fare", "flight"))
            words = [*([(asked, "O")] if asked == "fare" else []), *ways[0], *ways[1]]
            rows.append((*(" ".join(column) for column in zip(*words, strict=True)), asked))
        for name, column in zip(("seq.in", "seq.out", "label"), zip(*rows, strict=True), strict=True):
            (folder / split / name).write_text("\n".join(column) + "\n")
    return folder


def config_of(where, flights, *overrides, name="run"):
    return compose(*SHORT, f"data.path={flights}", f"run.root={where}", f"run.name={name}", *overrides)


def parts_of(tmp_path, flights, *overrides):
    config = config_of(tmp_path, flights, *overrides)
    torch.manual_seed(0)
    data = build_data(config)
    model = build_model(config, data.tokenizer).double()
    return model, data["train"].batch([0, 1, 2, 3], ("tags", "label"))


def test_metrics_by_hand():
    """Four sentences: all right; a tag wrong; the label wrong; both wrong."""
    task, score = Joint(), Score(3.0, 6)
    wanted = {"tags": ["B-x", "O"], "label": "l"}
    for said in (
        wanted,
        {"tags": ["B-y", "O"], "label": "l"},
        {"tags": ["B-x", "O"], "label": "m"},
        {"tags": ["O", "O"], "label": "m"},
    ):
        score.counts.update(task.count(said, wanted))
    # Entities: 4 wanted, 3 found, 2 right.
    assert task.compute_metrics(score, None, "valid") == pytest.approx(
        {"loss": 0.5, "f1": 4 / 7, "accuracy": 0.5, "frame": 0.25}
    )
    assert task.report(score)["labels"] == Classification().report(task._of("label", score))["labels"]


def test_it_counts_what_both_tasks_count():
    said, wanted = {"tags": ["B-x", "I-x"], "label": "l"}, {"tags": ["B-x", "O"], "label": "l"}
    found = Score(counts=Joint().count(said, wanted))
    assert Joint()._of("tags", found).counts == Tagging().count(said, wanted)
    assert Joint()._of("label", found).counts == Classification().count(said, wanted)
    assert Joint()._of("frame", found).counts == {False: 1}


def test_nats_are_those_of_both_heads(tmp_path, flights):
    model, batch = parts_of(tmp_path, flights)
    encoded = model.encode(batch)
    tags, label = model.head.tag_head.loss_sum(*encoded, batch), model.head.label_head.loss_sum(*encoded, batch)
    assert model.loss_sum(batch).item() == pytest.approx((tags + label).item())
    assert batch.tokens == int(batch.lengths["tags"].sum()) + 4


@pytest.mark.parametrize("weight", [0.25, 3.0])
def test_the_weight_of_the_label(tmp_path, flights, weight):
    """Learning follows tags + weight * label, and what is reported stays the sum of both."""
    model, batch = parts_of(tmp_path, flights)
    encoded = model.encode(batch)
    tags, label = model.head.tag_head.loss_sum(*encoded, batch), model.head.label_head.loss_sum(*encoded, batch)
    _, nats, penalty = Joint(label_weight=weight).objective(model, batch, ())
    assert nats.item() == pytest.approx((tags + label).item())
    assert (nats + penalty).item() == pytest.approx((tags + weight * label).item())
    with pytest.raises(ValueError, match="label_weight=0 must be greater than 0"):
        Joint(label_weight=0)


def test_padding_changes_nothing(tmp_path, flights):
    model, batch = parts_of(tmp_path, flights, "model.head.label.pooling=mean")
    split = build_data(config_of(tmp_path, flights))["train"]
    assert len(set(batch.lengths["tags"].tolist())) > 1
    alone = sum(model.loss_sum(split.batch([index], ("tags", "label"))) for index in range(4))
    assert model.loss_sum(batch).item() == pytest.approx(alone.item(), rel=1e-6)  # tags are scored in float32
    encoded = model.encode(batch)
    for index in range(4):
        one = model.encode(split.batch([index]))
        assert model.head.tags(*one) == [model.head.tags(*encoded)[index]]
        torch.testing.assert_close(
            model.head.label_head.logits(*one)[0],
            model.head.label_head.logits(*encoded)[index],
            rtol=0,
            atol=1e-12,
        )


def test_it_learns_both(tmp_path, flights):
    train(config_of(tmp_path, flights), {})
    run = load_run(tmp_path / "run")
    score = evaluate(run.model, run.task, run.task.batches(run.data, "test", 4, 0), torch.device("cpu"))
    metrics = run.task.compute_metrics(score, run.data, "test")
    assert (metrics["frame"], metrics["f1"], metrics["accuracy"]) == (1, 1, 1)


def test_resume_is_equality(tmp_path, flights, monkeypatch):
    more = ["task.label_weight=2.0", "model.dropout.hidden=0.2", "model.num_layers=2", "model.dropout.output=0.2",
            "train.epochs=2"]  # fmt: skip
    stops_change_nothing(tmp_path, lambda name: config_of(tmp_path, flights, *more, name=name), [11], monkeypatch)


def test_a_head_in_the_wrong_place_is_refused(tmp_path, flights):
    with pytest.raises(ConfigError, match="model.head.tags must be a head of tags .* not LabelHead and LabelHead"):
        parts_of(tmp_path, flights, "model/head@model.head.tags=label")
    with pytest.raises(ConfigError, match="Joint needs a model with a JointHead, this one has a TagHead"):
        train(config_of(tmp_path, flights, "model=tagger"), {})


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_split_without_labels_is_refused(tmp_path, flights, split):
    """At once, if it is the one that weights are chosen by."""
    shutil.copytree(flights, tmp_path / "data")
    (tmp_path / "data" / split / "label").unlink()
    config = config_of(tmp_path, tmp_path / "data", "data=iob", "train.epochs=1")
    if split == "valid":
        with pytest.raises(ConfigError, match="split=valid of this data has no label, which task Joint needs"):
            train(config, {})
        assert not (tmp_path / "run").exists()
    else:
        train(config, {})
        with pytest.raises(ConfigError, match="this split has no label"):
            evaluate_run(str(tmp_path / "run"), ["split=test"], False)


def test_tags_without_entities_are_not_judged_by_them(tmp_path, flights):
    for split in ("train", "valid", "test"):
        (tmp_path / split).mkdir()
        for name in ("seq.in", "seq.out", "label"):
            text = (flights / split / name).read_text()
            (tmp_path / split / name).write_text(text.replace("B-", "X-") if name == "seq.out" else text)
    with pytest.raises(ConfigError, match="the tag X-to fits no scheme|the tag X-from fits no scheme"):
        train(config_of(tmp_path, tmp_path, "task.monitor=f1"), {})
    train(config_of(tmp_path, tmp_path, "task.monitor=frame", "train.epochs=1"), {})
