"""One to many: what is written depends on the condition, on nothing else that it should not, and adds up."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from seqlm.config.values import verb_config
from seqlm.config.verb_schema import SampleConfig
from seqlm.data.batching.batches import IGNORE_INDEX
from seqlm.data.dataset import Data
from seqlm.data.fields import END
from seqlm.data.sources.features import Features
from seqlm.data.sources.taipei import Taipei
from seqlm.data.tokenizers.examples import ExampleTokenizer
from seqlm.errors import ConfigError
from seqlm.evaluation.evaluate import evaluate
from seqlm.runs.assemble import build_data, build_model
from seqlm.runs.load import load_run
from seqlm.tasks.conditional import Conditional, conditioned, sampled
from seqlm.training.launch import train

from ..conftest import compose, seqlm
from ..training.test_resume import stops_change_nothing

TEXTS = {"cat": ["it purrs", "it purrs at night"], "dog": ["it barks", "it barks at cats"], "": ["never"]}
LINES = "".join(f"{label}\t{text}\n" for label, texts in TEXTS.items() for text in texts if label)
WORDS = ["task=conditional", "model=conditional", "data=labelled", "threads=1",
         "model.hidden_size=16", "train.batch_size=8", "train.eval_batch_size=8", "sample.tokens=5"]  # fmt: skip


def labelled(folder, times=10):
    for split in ("train", "valid", "test"):
        (folder / f"{split}.tsv").write_text(LINES * times)
    return folder


def writing(folder, *words, name="run"):
    rename = [] if any(word.startswith("data.rename") for word in words) else ["data.rename={words: target}"]
    return compose(*WORDS, *rename, f"data.path={folder}", f"run.root={folder}", f"run.name={name}", *words)


def how(*words):
    return verb_config("sample", SampleConfig, words)


def written(run, condition, *words):
    """A text for what is typed as a condition."""
    model, tokenizer = run.model, run.tokenizer
    return "".join(sampled(model, tokenizer, conditioned(model, tokenizer, condition), how(*words)))


def assembled(folder, *words):
    config = writing(labelled(folder), *words)
    data = build_data(config)
    torch.manual_seed(2)
    model = build_model(config, data.tokenizer).double()
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, -0.7, 0.7)
    return model, data


@pytest.mark.parametrize("context", ["state", "input", "both"])
def test_nats_are_those_of_the_words_under_their_condition(tmp_path, context):
    """Against the decoder's cell, one word after the other, with c = the label's vector."""
    model, data = assembled(tmp_path, f"model.context={context}", "model/cell=elman", "model.empty=0")
    model.eval()
    batch, expected = data["train"].batch([0, 1, 2, 3], ("target",)), 0.0
    head, layer = model.head, model.head.stack.layers[0]
    for label, example in zip(batch["label"], data["train"].examples(batch), strict=True):
        ids = data.tokenizer.encode(example)["target"].tolist()
        c = model.reader.weight[label]
        h = torch.zeros(1, 16).double() if context == "input" else torch.tanh(head.bridge(c)).unsqueeze(0)
        for read, said in zip([END, *ids], [*ids, END], strict=True):
            x = head.embedding.weight[read]
            x = x if context == "state" else torch.cat([x, c])
            h = torch.tanh(layer.cell.weight_ih @ x + layer.cell.bias_ih + layer.cell.weight_hh @ h[0]
                           + layer.cell.bias_hh).unsqueeze(0)  # fmt: skip
            expected -= head.linear(h)[0].log_softmax(-1)[said].item()
    assert model.loss_sum(batch).item() == pytest.approx(expected, rel=1e-10)
    assert batch.tokens == sum(len(one["target"].split()) + 1 for one in data["train"].examples(batch))
    alone = sum(model.loss_sum(data["train"].batch([index], ("target",))).item() for index in range(4))
    assert alone == pytest.approx(expected, rel=1e-10)


def test_the_empty_condition_is_learned_at_the_rate_asked_for(tmp_path):
    model, data = assembled(tmp_path, "model.empty=0.3")
    batch = data["train"].batch(range(40), ("target",))
    model.train()
    found = torch.stack([(model.encode(batch)[0][0] == model.nothing).all(-1) for _ in range(100)]).double().mean()
    assert abs(found.item() - 0.3) < 4 * math.sqrt(0.21 / 4000)
    model.eval()
    assert not (model.encode(batch)[0][0] == model.nothing).all(-1).any()
    assert (model.encode(batch, empty=True)[0] == model.nothing).all()
    unknown = dict(batch.fields) | {"label": torch.full_like(batch["label"], IGNORE_INDEX)}
    object.__setattr__(batch, "fields", unknown)
    assert (model.encode(batch)[0] == model.nothing).all()  # a label that train lacks says nothing


def test_scores_tell_what_the_condition_is_worth(tmp_path):
    model, data = assembled(tmp_path, "model.empty=0.3")
    task = Conditional()
    told = task.compute_metrics(
        evaluate(model, task, task.batches(data, "valid", 7, 1), torch.device("cpu")), data, "valid"
    )
    whole = data["valid"].batch(range(len(data["valid"])), ("target",))
    model.eval()
    assert told["ppl"] == pytest.approx(math.exp(model.loss_sum(whole).item() / whole.tokens))
    empty = model.head.loss_sum(*model.encode(whole, empty=True), whole).item()
    assert told["empty_ppl"] == pytest.approx(math.exp(empty / whole.tokens)) and told["empty_ppl"] != told["ppl"]
    plain, data = assembled(tmp_path, "model.empty=0")
    assert "empty_ppl" not in task.compute_metrics(
        evaluate(plain, task, task.batches(data, "valid", 7, 1), torch.device("cpu")), data, "valid"
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that has learned what cats and dogs do."""
    folder = labelled(tmp_path_factory.mktemp("conditional"), times=20)
    train(writing(folder, "model.empty=0.25", "train.epochs=25", "optim.lr=0.02", "train.eval_every=null"), {})
    return load_run(folder / "run")


def test_texts_follow_their_condition(run):
    said = {
        label: {written(run, label, f"seed={seed}", "temperature=0.5") for seed in range(20)}
        for label in ("cat", "dog", None)
    }
    assert said["cat"] >= set(TEXTS["cat"]) and all("purrs" in text for text in said["cat"])
    assert said["dog"] >= set(TEXTS["dog"]) and all("barks" in text for text in said["dog"])
    assert said[None] & said["cat"] and said[None] & said["dog"]  # without one, both are written
    assert written(run, "dog", "prompt=it", "temperature=0").split()[0] == "barks"
    assert written(run, "dog", "tokens=1") == "it"
    metrics = json.loads((run.folder.path / "run.json").read_text())["metrics"]
    assert metrics["valid/ppl"] < metrics["valid/empty_ppl"]  # half a choice in each text
    shown = "".join(path.read_text() for path in sorted((run.folder.path / "samples").iterdir())[-1:])
    assert "cat: it purrs" in shown and "dog: it barks" in shown


def test_from_the_command_line(run, tmp_path):
    folder = run.folder.path
    out = seqlm("sample", folder, "condition=cat", "texts=3", "seed=4", "threads=1", cwd=tmp_path).stdout.splitlines()
    assert len(out) == 3 and all("purrs" in line for line in out)
    assert out[1] == written(run, "cat", "seed=5")
    said = seqlm("predict", folder, "-", "threads=1", cwd=tmp_path, input='dog\n{"label": "cat"}\nbird\n', check=False)
    first, second, third = map(json.loads, said.stdout.splitlines())
    assert first["target"] in TEXTS["dog"] and second["target"] in TEXTS["cat"]
    assert said.returncode == 2 and "label should be a label of this run (cat, dog)" in third["error"]
    assert "1 of the lines of standard input could not be read" in said.stderr
    scored = json.loads(seqlm("eval", folder, "split=test", "--json", "threads=1", cwd=tmp_path).stdout)
    assert scored["examples"] == 80 and scored["ppl"] < scored["empty_ppl"]
    for words, message in [
        (["condition=bird"], "condition=bird is unknown; set condition=cat | dog"),
        (["condition=cat", "prompt=zzz"], "prompt='zzz' has what the vocabulary lacks: zzz"),
    ]:
        done = seqlm("sample", folder, *words, cwd=tmp_path, check=False)
        assert done.returncode == 2 and message in done.stderr and not done.stdout


@pytest.mark.parametrize("steps", [[4], [3, 5]])
def test_resume_is_exact(tmp_path, steps, monkeypatch):
    labelled(tmp_path)
    words = ["model.empty=0.3", "model.dropout.input=0.2", "train.steps=14", "train.eval_every=7",
             "train.accumulate=2"]  # fmt: skip
    stops_change_nothing(tmp_path, lambda name: writing(tmp_path, *words, name=name), steps, monkeypatch)


def test_a_vector_is_a_condition(tmp_path):
    """The text says which of the two numbers is larger."""
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(300, 1, 2)).astype(np.float32)
    texts = np.array(["the first one" if a > b else "it is the second" for a, b in vectors[:, 0]])
    np.savez(tmp_path / "all.npz", features=vectors, target=texts)
    words = ["data=features", f"data.path={tmp_path}/all.npz", "data.rename=null", "train.epochs=12", "optim.lr=0.02"]
    train(writing(tmp_path, *words), {})
    run = load_run(tmp_path / "run")
    assert run.model.condition == "features"
    for vector, text in [([2.0, 0.0], "the first one"), ([-1, 1.5], "it is the second")]:
        assert written(run, vector, "temperature=0") == text
    with pytest.raises(ConfigError, match=r"condition=\[1\] is unknown; set condition=\[x, y, ...\], 2 numbers"):
        written(run, [1])
    said = seqlm("predict", tmp_path / "run", "-", cwd=tmp_path, input='{"features": [[3, 1]]}\n').stdout
    assert json.loads(said)["target"] == "the first one"
    np.savez(tmp_path / "long.npz", features=np.repeat(vectors, 2, 1), target=texts)
    with pytest.raises(
        ConfigError, match="an example: 2 vectors, but model=conditional reads one; use task=seq2seq for more"
    ):
        train(writing(tmp_path, *words, f"data.path={tmp_path}/long.npz", name="long"), {})


def test_nothing_is_a_condition(tmp_path):
    """Labels left out: a language model of whole texts."""
    labelled(tmp_path)
    words = ["data.rename={words: target, label: null}", "train.epochs=2"]
    train(writing(tmp_path, *words), {})
    run = load_run(tmp_path / "run")
    assert run.model.condition == "nothing" and set(run.tokenizer.fields) == {"target"}
    assert written(run, None)
    with pytest.raises(ConfigError, match="condition=cat does nothing"):
        written(run, "cat")
    done = seqlm("predict", tmp_path / "run", "-", cwd=tmp_path, input="cat\n", check=False)
    assert done.returncode == 2 and "reads nothing: it writes texts; use seqlm sample" in done.stderr


@pytest.mark.parametrize("words, message", [
    ("model.condition=features", "model.condition=features needs vectors, and this data has none"),
    ("model.condition=nothing model.empty=0.1", "model.empty=0.1 does nothing"),
    ("model.empty=1.5", "empty=1.5"),
    ("model.context=none", "model.context=none should be one of state, input, both"),
    ("model.condition_size=0", "condition_size=0 must be at least 1"),
    ("task.max_length=0", "task.max_length=0 must be at least 1"),
    ("data.rename=null", r"writes the field target, and this data has none; data.rename={words: target}"),
    ("data.rename={text: target}",
     "data.rename.text is no field; there are words, target, tags, label, features, value"),
    ("data.rename={words: text}", "data.rename.words=text should be words or target or null"),
    ("data.rename={label: features}", "data.rename.label=features should be label or words or target or value or null"),
    ("data.rename=words", "data.rename=words should be a mapping"),
    ("data.rename={words: target, label: target}", "data.rename gives several fields the name target"),
    ("sample.prompt=zzz", "sample.prompt='zzz' has what the vocabulary lacks: zzz"),
    ("model.dropout.latent=0.5", "dropout.latent"),
    ("task=seq2seq", "trains a SequenceModel, but this model is a ConditionalModel"),
    ("train.drop_state=0.5", "train.drop_state=0.5 does nothing"),
])  # fmt: skip
def test_what_cannot_be(tmp_path, words, message):
    words = words.replace("model.dropout.latent", "+model.dropout.latent")
    with pytest.raises(ConfigError, match=message):
        train(writing(labelled(tmp_path), *([words] if "rename" in words else words.split()), name="wrong"), {})
    assert not (tmp_path / "wrong").exists()


def test_without_the_empty_condition_there_must_be_one(tmp_path):
    model, data = assembled(tmp_path, "model.empty=0")
    with pytest.raises(ConfigError, match=r"condition is not set, .* set condition=cat \| dog"):
        conditioned(model, data.tokenizer, None)


def test_fields_by_other_names():
    data = Data.fitted(Taipei(), ExampleTokenizer(), "train", None, {"words": "target", "tags": None})
    first, original = next(data.examples("train")), next(Taipei().examples("train"))
    assert first == {"target": original["words"]}
    assert data["train"].originals[0] == first and "num_tags" not in data.tokenizer.sizes()
    assert data.fingerprint != Data.fitted(Taipei(), ExampleTokenizer(), "train", None).fingerprint


def test_texts_of_vectors(tmp_path):
    """In a folder as in an archive, with other things said beside them."""
    (tmp_path / "train").mkdir()
    for name in ("a", "b"):
        np.save(tmp_path / "train" / f"{name}.npy", np.ones((1, 3)))
    (tmp_path / "train" / "targets.tsv").write_text("a\tone two\nb\tthree\n")
    (tmp_path / "train" / "labels.tsv").write_text("a\tx\nb\ty\n")
    (tmp_path / "valid").symlink_to(tmp_path / "train")
    found = list(Features(path=str(tmp_path)).examples("train"))
    assert [(one["target"], one["label"]) for one in found] == [("one two", "x"), ("three", "y")]
    assert ExampleTokenizer().fit(found).sizes() == {"target_size": 5, "num_labels": 2, "num_features": 3}
    words = ["data=features", "data.rename={label: null}", "train.batch_size=2", "train.steps=2"]
    train(writing(tmp_path, *words), {})  # and an evaluation, which shows texts
    assert written(load_run(tmp_path / "run"), [1, 1, 1])
    np.save(tmp_path / "train" / "b.npy", np.ones((2, 3)))
    with pytest.raises(ConfigError, match=r"b.npy: 2 vectors, but model=conditional reads one"):
        train(writing(tmp_path, *words, name="long"), {})


def test_labels_that_look_like_something_else(tmp_path):
    """They are what was typed, on the command line and in a line of JSON."""
    for split in ("train", "valid"):
        (tmp_path / f"{split}.tsv").write_text("007\tspy\ntrue\tfact\n7\tdays\n" * 10)
    train(writing(tmp_path, "train.epochs=20", "optim.lr=0.03", "train.eval_every=null", "model.empty=0"), {})
    for label, text in {"007": "spy", "true": "fact", "7": "days"}.items():
        words = [f"condition={label}", "temperature=0", "threads=1"]
        assert seqlm("sample", tmp_path / "run", *words, cwd=tmp_path).stdout.strip() == text
    lines = '{"label": 7}\n\n{"label": true}\n'
    said = [
        json.loads(line)
        for line in seqlm("predict", tmp_path / "run", "-", cwd=tmp_path, input=lines).stdout.splitlines()
    ]
    assert [one.get("target") for one in said] == ["days", None, "fact"] and said[1]["error"] == "empty"


def test_a_run_begins_where_another_ended(tmp_path):
    labelled(tmp_path)
    train(writing(tmp_path, "train.steps=3", name="one"), {})
    train(writing(tmp_path, "train.steps=1", "optim.lr=0", f"init_from={tmp_path}/one", name="two"), {})
    one, two = (load_run(tmp_path / name).model.state_dict() for name in ("one", "two"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    (tmp_path / "other").mkdir()
    for split in ("train", "valid"):
        (tmp_path / "other" / f"{split}.tsv").write_text(LINES.replace("purrs", "sings") * 10)
    words = ["train.steps=1", "optim.lr=0", f"init_from={tmp_path}/one"]
    train(writing(tmp_path / "other", *words, name="three"), {})
    run = load_run(tmp_path / "other" / "three")
    kept = run.folder.info()["began_with"]
    assert kept["words"] == {"target_size": {"known": len(run.tokenizer.fields["target"].items) - 1, "new": 1}}
    ids = [load_run(tmp_path / "one").tokenizer.fields["target"].ids, run.tokenizer.fields["target"].ids]
    assert "purrs" in ids[0] and "purrs" not in ids[1]
    for word in ids[0].keys() & ids[1].keys():
        name = "head.embedding.weight"
        assert torch.equal(one[name][ids[0][word]], run.model.state_dict()[name][ids[1][word]])
