"""Class weights: those of scikit-learn, what is learned from them, and what is reported beside them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from seqlm.errors import ConfigError
from seqlm.models.heads import CRFHead, TagHead
from seqlm.models.label_head import LabelHead
from seqlm.runs.assemble import build_data, build_model
from seqlm.runs.folder import RunFolder
from seqlm.tasks.class_weights import WeightedLoss, balanced
from seqlm.tasks.joint import Joint
from seqlm.training.launch import train

from ..conftest import compose

SHORT = ["model.hidden_size=4", "train.batch_size=5", "train.steps=4", "train.eval_every=2", "train.log_every=1",
         "threads=1", "sample.tokens=0", "optim.lr=0.01"]  # fmt: skip


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Three labels, one of them 1, of different frequency."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = ["rare\ta b\n", *["1\tb c d\n"] * 3, *["often\tc d\n"] * 11]
    for split in ("train", "valid"):
        (folder / f"{split}.tsv").write_text("".join(rows))
    return folder


@pytest.fixture(scope="module")
def intents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("intents")
    for split in ("train", "valid"):
        (folder / split).mkdir()
        texts = {"seq.in": "to rome\n" * 4 + "fare to oslo\n", "seq.out": "O B-to\n" * 4 + "O O B-to\n",
                 "label": "flight\n" * 4 + "fare\n"}  # fmt: skip
        for name, text in texts.items():
            (folder / split / name).write_text(text)
    return folder


def config_of(folder, data, task, *words, name="run"):
    model = {"classification": "classifier", "joint": "joint", "tagging": "tagger"}[task]
    source = {"classification": "labelled"}.get(task, "iob")
    return compose(f"task={task}", f"model={model}", f"data={source}", f"data.path={data}", *SHORT, *words,
                   f"run.root={folder}", f"run.name={name}")  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_balanced_weights_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    targets = rng.choice(6, size=200, p=rng.dirichlet(np.ones(6)))
    classes = np.unique(targets)
    found = balanced(np.bincount(targets, minlength=6))
    expected = compute_class_weight("balanced", classes=classes, y=targets)
    np.testing.assert_allclose(found.numpy()[classes], expected, rtol=1e-6)


@pytest.mark.parametrize("head", [TagHead, LabelHead])
def test_the_weighted_loss_is_that_of_torch(head):
    """The sum of both parts, in float64; the first part alone is what is reported."""
    torch.manual_seed(0)
    made, name = head(3, {"num_tags": 4, "num_labels": 4}).double(), "tags" if head is TagHead else "label"
    ys, lengths = torch.randn(1, 5, 3, dtype=torch.float64), torch.ones(5, dtype=torch.long)
    targets, weights = torch.tensor([0, 3, 1, -100, 3]), torch.tensor([0.5, 2.0, 1.0, 3.0])
    loss = WeightedLoss(None, name, "task.class_weights")
    batch = {name: targets.unsqueeze(0) if head is TagHead else targets}
    plain, more = loss(made, (ys, lengths), batch)
    assert more is None
    loss.weights = weights
    same, more = loss(made, (ys, lengths), batch)
    logits = made.linear(ys[0])
    expected = F.cross_entropy(logits, targets, weights.double(), reduction="sum")
    assert same.equal(plain)
    torch.testing.assert_close(plain + more, expected, rtol=1e-12, atol=0)


def test_they_change_the_weights_and_not_what_a_loss_is(tmp_path, labelled, capsys):
    """Of a run that has not learned yet the logged loss is the same, weighted or not."""
    shown = []
    for name, words in (("plain", []), ("balanced", ["task.class_weights=balanced"]),
                        ("given", ["task.class_weights={rare: 5, 1: 1.6666666667, often: 0.4545454545}"])):  # fmt: skip
        train(config_of(tmp_path, labelled, "classification", *words, name=name), {})
        shown += [line for line in capsys.readouterr().out.splitlines() if line.startswith("class weights")]
    assert shown == ["class weights  rare 5, 1 1.67, often 0.455"] * 2
    first, last = (
        [[one[key] for one in RunFolder.open(tmp_path / name).records() if key in one][at]
         for name in ("plain", "balanced", "given")]
        for key, at in (("train/loss", 0), ("valid/loss", -1))
    )  # fmt: skip
    assert first[0] == pytest.approx(first[1]) == pytest.approx(first[2])
    assert last[1] == pytest.approx(last[2], rel=1e-5) and abs(last[0] - last[1]) > 1e-4


@pytest.mark.parametrize(
    ("task", "words", "message"),
    [
        ("classification", "{rare: 2, seldom: 3}", "train has no label seldom; there are: often, 1, rare"),
        ("classification", "{rare: -1}", "task.class_weights.rare=-1 must be at least 0, and finite"),
        ("classification", "{rare: 0, 1: 0, often: 0}", "all weights are 0, so that nothing is learned"),
        ("classification", "balancd", "task.class_weights=balancd should be one of balanced or a mapping or null"),
        ("classification", "{rare: much}", "task.class_weights.rare=much should be a number"),
        ("joint", "{label: {trip: 2}}", "task.class_weights.label: train has no label trip; there are: flight, fare"),
        ("joint", "{labels: balanced}", "task.class_weights.labels is unknown; did you mean task.class_weights.label"),
        ("joint", "{tags: {X: 2}}", "task.class_weights.tags: train has no tags X; there are: O, B-to"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, labelled, intents, task, words, message):
    with pytest.raises(ConfigError) as refused:
        train(
            config_of(tmp_path, labelled if task == "classification" else intents, task, f"task.class_weights={words}"),
            {},
        )
    assert message in str(refused.value)


def test_a_crf_has_no_loss_of_one_tag(tmp_path, intents):
    with pytest.raises(ConfigError, match=r"weighs each of the tags by itself, but the loss of a CRFHead is of a"):
        train(config_of(tmp_path, intents, "tagging", "model/head=crf", "task.class_weights=balanced"), {})
    crf = "model/head@model.head.tags=crf"
    with pytest.raises(ConfigError, match=r"task.class_weights.tags weighs each"):
        train(config_of(tmp_path, intents, "joint", crf, "task.class_weights=balanced"), {})
    train(config_of(tmp_path, intents, "joint", crf, "task.class_weights={label: balanced}"), {})
    assert not CRFHead.takes_weights


def test_tags_labels_and_the_weight_of_a_label_together(tmp_path, intents):
    """Joint learns from sum w_tag -ln p(tag) + label_weight * w_label -ln p(label)."""
    config = config_of(tmp_path, intents, "joint")
    torch.manual_seed(0)
    data = build_data(config)
    model = build_model(config, data.tokenizer).double()
    task = Joint(label_weight=3.0, class_weights="balanced")
    task.training(data, config)
    batch = data["train"].batch([0, 2, 4], task.targets)
    encoded, head = model.encode(batch), model.head
    _, loss, more = task.objective(model, batch, ())
    tags, label = (task.weighted[name].weights for name in ("tags", "label"))
    assert label.tolist() == pytest.approx([5 / (2 * 4), 5 / 2]) and tags.tolist() == pytest.approx([11 / 12, 11 / 10])
    expected = head.tag_head.loss_sum(*encoded, batch, tags) + 3 * head.label_head.loss_sum(*encoded, batch, label)
    assert loss.item() == pytest.approx(head.loss_sum(*encoded, batch).item())
    assert (loss + more).item() == pytest.approx(expected.item())
