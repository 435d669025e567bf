"""Tagging: what a tagger is made of, and that it learns what a network without memory cannot."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from collections import Counter
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from seqlm.config.comparison import comparable_config
from seqlm.config.values import load_config
from seqlm.data.batching.batches import IGNORE_INDEX
from seqlm.data.fields import UNKNOWN
from seqlm.errors import ConfigError, Stopped
from seqlm.evaluation.evaluate import evaluate
from seqlm.models.heads import CRFHead, TagHead
from seqlm.runs import checkpoint, finding
from seqlm.runs.assemble import build_data, build_model
from seqlm.runs.folder import RunFolder
from seqlm.runs.load import load_run, trained_model
from seqlm.training.launch import resume, train

from ..conftest import REPOSITORY, compose
from ..conftest import seqlm as command
from ..training.test_resume import stop_at, stops_change_nothing, weights

SMALL = ["task=tagging", "model=tagger", "data=taipei", "data.sentences=100", "model.hidden_size=8",
         "model.embedding_size=6", "train.batch_size=10", "train.eval_batch_size=4", "train.eval_every=null",
         "train.log_every=1", "checkpoint.every=7", "threads=1"]  # fmt: skip
CHARACTERS = "model.characters={hidden_size: 3, embedding_size: 4}"


def small(folder, *overrides, name="run"):
    return compose(*SMALL, f"run.root={folder}", f"run.name={name}", *overrides)


def assembled(*overrides):
    """A model in float64 with weights that matter, and its data."""
    config = compose(*SMALL, *overrides)
    data = build_data(config)
    torch.manual_seed(0)
    model = build_model(config, data.tokenizer, trained_model).double()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.7, 0.7)
    return model, data


@pytest.mark.parametrize("options", [
    (),
    ("model/head=crf", "model/cell=elman", "model.num_layers=2"),
    ("model/head=crf", CHARACTERS, "model.bidirectional=false", "model/cell=jordan"),
    (CHARACTERS, "model/cell=gru", "engine=scan"),
], ids=["softmax", "crf elman", "crf characters jordan", "characters gru"])  # fmt: skip
def test_padding_changes_nothing(options):
    """Sentences read together and one by one: the same nats, tags and gradients, in float64."""
    model, data = assembled(*options)
    model.eval()
    split, indices = data["train"], [3, 1, 4, 15, 9]
    assert len({len(split.encoded[i]["words"]) for i in indices}) > 2

    def read(indices):
        model.zero_grad()
        batch = split.batch(indices, ("tags",))
        nats = model.loss_sum(batch)
        nats.backward()
        return nats, [p.grad.clone() for p in model.parameters()], model.head.tags(*model.encode(batch))

    nats, gradients, tags = read(indices)
    alone = [read([i]) for i in indices]
    torch.testing.assert_close(nats, sum(one[0] for one in alone), rtol=1e-12, atol=0)
    for index, gradient in enumerate(gradients):
        torch.testing.assert_close(gradient, sum(one[1][index] for one in alone), rtol=1e-9, atol=1e-12)
    assert tags == [one[2][0] for one in alone]


def test_characters_are_read_both_ways_word_by_word():
    model, data = assembled(CHARACTERS)
    reader = model.readers[1]
    batch = data["train"].batch([0, 1, 2], ("tags",))
    found = reader(batch)
    ids = {c: index for index, c in enumerate(data.tokenizer.vocabularies["characters"])}
    forward, backward = (layer.cell for layer in (reader.layer.layers[0].fwd, reader.layer.layers[0].bwd))
    for column, example in enumerate(data["train"].examples(batch)):
        for row, word in enumerate(example["words"]):
            ends = []
            for cell, letters in ((forward, word), (backward, word[::-1])):
                carry = cell.init_carry(1)
                for letter in letters:
                    carry, y = cell.step(carry, cell.project(reader.embedding.weight[ids[letter]].unsqueeze(0)))
                ends.append(y[0])
            torch.testing.assert_close(found[row, column], torch.cat(ends), rtol=0, atol=1e-12)
        assert not found[len(example["words"]) :, column].any()
    assert model.stack.input_size == 6 + 2 * 3


def test_words_are_forgotten_at_the_rate_asked_for():
    model, data = assembled("model.dropout.words=0.3")
    reader, batch = model.readers[0], data["train"].batch(range(100))
    real = batch["words"] != UNKNOWN
    forgotten = (reader(batch) == reader.embedding.weight[UNKNOWN]).all(-1)[real]
    assert forgotten.double().mean().item() == pytest.approx(0.3, abs=0.04) and real.sum() > 1000
    assert not (reader.eval()(batch) == reader.embedding.weight[UNKNOWN]).all(-1)[real].any()


def test_rare_words_are_forgotten_more_often():
    model, data = assembled("model.dropout.rare_words=20")
    reader, batch = model.readers[0], data["train"].batch(range(100))
    seen = Counter(batch["words"].flatten().tolist())
    forgotten = torch.stack([(reader(batch) == reader.embedding.weight[UNKNOWN]).all(-1) for _ in range(200)])
    often, seldom = seen.most_common()[1][0], min(seen, key=lambda word: (seen[word], word))
    assert seen[often] > 3 * seen[seldom] and UNKNOWN not in (often, seldom)
    for word in (often, seldom):
        rate = forgotten[:, batch["words"] == word].double().mean().item()
        assert rate == pytest.approx(20 / (20 + seen[word]), abs=0.05)
    assert not (reader.eval()(batch) == reader.embedding.weight[UNKNOWN]).all(-1)[batch["words"] == seldom].any()


def test_a_tag_that_train_lacks_is_summed_over_and_counts_as_wrong(tmp_path):
    (tmp_path / "train.txt").write_text("a B-x\nb O\n\nb O\n" * 20)
    (tmp_path / "valid.txt").write_text("a B-x\nb B-new\n")
    for head in ("tags", "crf"):
        words = [word for word in SMALL if not word.startswith("data")]
        train(compose(*words, f"model/head={head}", "data=conll", f"data.path={tmp_path}", "train.steps=30",
                      "schedule=constant", "optim.lr=0.05", f"run.root={tmp_path}", f"run.name={head}"),
              {})  # fmt: skip
        run = load_run(tmp_path / head)
        batch = run.data["valid"].batch([0], ("tags",))
        assert batch["tags"].flatten().tolist() == [run.tokenizer.vocabularies["tags"].index("B-x"), IGNORE_INDEX]
        score = evaluate(run.model, run.task, run.task.batches(run.data, "valid", 1, 1), torch.device("cpu"))
        assert score.tokens == 1 and math.isfinite(score.loss_sum)
        metrics = run.task.compute_metrics(score, run.data, "valid")
        assert metrics["recall"] == 0.5 and metrics["accuracy"] == 0.5


def test_a_crf_decides_about_all_tags_together():
    torch.manual_seed(0)
    head = CRFHead(2, {"num_tags": 2}).double()
    with torch.no_grad():
        head.crf.transitions.copy_(torch.tensor([[-9.0, 9.0], [9.0, -9.0]]))  # the two tags take turns
    ys, lengths = torch.randn(6, 2, 2, dtype=torch.float64), torch.tensor([6, 3])
    tags = head.tags(ys, lengths)
    assert [len(row) for row in tags] == [6, 3] and all(a != b for row in tags for a, b in itertools.pairwise(row))
    wanted = torch.tensor([[0, 1, 0, 1, 0, 1], [1, 0, 1, IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX]]).t()
    alone = head.crf.nll(head.linear(ys), wanted, lengths)
    assert head.loss_sum(ys, lengths, {"tags": wanted}).item() == pytest.approx(alone.sum().item())
    assert alone.sum().item() < 0.5 * TagHead.loss_sum(head, ys, lengths, {"tags": wanted}).item()


@pytest.mark.parametrize("cell", ["elman", "lstm", "feed_forward"])
def test_the_two_taipeis(tmp_path, cell):
    """A city is where one goes to or where one leaves from, by a word before it: memory tells, nothing else does."""
    config = small(tmp_path, "data.sentences=300", "train.epochs=10", "schedule=constant", "optim.lr=0.02",
                   "model.hidden_size=16", "model.bidirectional=false", f"model/cell={cell}")  # fmt: skip
    train(config, {})
    run = load_run(tmp_path / "run")
    requests = [f"{verb} Taipei on November 2nd".split() for verb in ("arrive", "leave")]
    said = run.task.answers(run.model, run.tokenizer, [{"words": words} for words in requests])
    arrive, leave = (one["tags"] for one in said)
    score = evaluate(run.model, run.task, run.task.batches(run.data, "test", 8, 1), torch.device("cpu"))
    f1 = run.task.compute_metrics(score, run.data, "test")["f1"]
    if cell == "feed_forward":
        assert arrive[1:] == leave[1:] and f1 < 0.75
    else:
        assert arrive == ["O", "B-destination", "O", "B-arrival_time", "I-arrival_time"]
        assert leave == ["O", "B-departure", "O", "B-departure_time", "I-departure_time"]
        assert f1 > 0.99


def test_the_first_example_of_the_docs_is_true(tmp_path):
    """docs/tasks.md shows what two experiments say of two requests."""
    shown = re.findall(r"^\{.*\}$", (REPOSITORY / "docs" / "tasks.md").read_text(), re.M)
    requests = "arrive Taipei on November 2nd\nleave Taipei on November 2nd\n"
    for name, lines in {"taipei": shown[:2], "taipei_feed_forward": shown[2:]}.items():
        train(compose(f"experiment={name}", f"run.root={tmp_path}", f"run.name={name}", "threads=1"), {})
        assert command("predict", tmp_path / name, "-", cwd=tmp_path, input=requests).stdout.splitlines() == lines


@pytest.mark.parametrize("steps", [(3,), (10,), (17, 5)])
def test_resume_is_exact(tmp_path, steps, monkeypatch):
    overrides = ["model/head=crf", CHARACTERS, "model.dropout.words=0.2", "model.dropout.output=0.3", "train.epochs=3",
                 "train.accumulate=2", "averaging=ema"]  # fmt: skip
    stops_change_nothing(tmp_path, lambda name: small(tmp_path, *overrides, name=name), steps, monkeypatch)


@pytest.fixture(scope="module")
def language_models(tmp_path_factory):
    """Small language models: of words, of reversed words, and of characters."""
    folder = tmp_path_factory.mktemp("models")
    sentences = [" ".join(words) for words, _ in _requests("train")]
    for name, change in {"forward": str, "backward": lambda line: " ".join(line.split()[::-1])}.items():
        (folder / f"{name}.txt").write_text("".join(change(line) + "\n" for line in sentences))
    for name, text, tokenizer in [("forward", "forward", "word"), ("backward", "backward", "word"),
                                  ("letters", "forward", "char")]:  # fmt: skip
        path = folder / f"{text}.txt"
        train(compose("model=gru", "model.hidden_size=7", "data=text",
                      f"data/tokenizer={tokenizer}", f"data.train={path}", f"data.valid={path}", "train.steps=5",
                      "train.batch_size=4", "train.bptt=8", "sample.tokens=0", "threads=1", "model.dropout.input=0.5",
                      f"run.root={folder}", f"run.name={name}"), {})  # fmt: skip
    return folder


def _requests(split):
    return [(e["words"], e["tags"]) for e in build_data(compose(*SMALL)).corpus.examples(split)]


def reading(folder, *names):
    """The option for states of runs; `letters reversed` reads the run `letters` backward."""
    runs = [name.partition(" ") for name in names]
    specs = [
        f"{{run: {folder / run}, reverse: {str(run == 'backward' or bool(rest)).lower()}}}" for run, _, rest in runs
    ]
    return f"model.language_models=[{', '.join(specs)}]"


def test_states_of_language_models(language_models):
    """Each against the same model reading one sentence from one side, token by token."""
    names = ("forward", "backward", "letters", "letters reversed")
    model, data = assembled(reading(language_models, *names))
    model.train()  # the language models do not train: no dropout
    assert model.stack.input_size == 6 + 4 * 7 and len(model.readers) == 5
    batch = data["train"].batch([2, 0, 1])
    for name, reader in zip(names, model.readers[1:], strict=True):
        run = load_run(language_models / name.partition(" ")[0])
        run.model.double()
        found = reader(batch)
        for column, example in enumerate(data["train"].examples(batch)):
            turn = slice(None, None, -1 if name in ("backward", "letters reversed") else 1)
            words = [word[turn] if "letters" in name else word for word in example["words"][turn]]
            carry, states = run.model.init_carry(1), []
            for index, word in enumerate(words):
                tokens = run.tokenizer.encode(f" {word}" if index and "letters" in name else word)
                for token in tokens if index else [run.tokenizer.eos_id, *tokens]:
                    read = run.model.read(torch.tensor([[token]]), carry)
                    carry = read.carry
                states.append(read.top[0, 0])
            torch.testing.assert_close(found[: len(words), column], torch.stack(states[turn]), rtol=0, atol=1e-12)


def test_language_models_are_read_and_nothing_else(language_models, tmp_path, monkeypatch):
    before = {file: file.read_bytes() for file in language_models.rglob("*") if file.is_file()}
    monkeypatch.chdir(language_models)
    relative = "model.language_models=[{run: forward}, {run: backward, reverse: true}]"
    train(small(tmp_path, relative, "train.epochs=1", name="one"), {})
    monkeypatch.chdir(tmp_path)
    run = load_run(tmp_path / "one")
    saved = run.config.model["language_models"]
    best = finding.best_step(language_models / "forward" / "checkpoints")
    digest = checkpoint.digest(language_models / "forward" / "checkpoints", best)
    assert saved[0] == {"run": str(language_models / "forward"), "checkpoint": best, "sha256": digest}
    assert saved[1]["reverse"] is True and saved[1]["run"] == str(language_models / "backward")
    origins = RunFolder.open(tmp_path / "one").info()["language_models"]
    assert [(one["run"], one["step"], one["seed"]) for one in origins] == [
        (name, finding.best_step(language_models / name / "checkpoints"), 1) for name in ("forward", "backward")
    ]
    kept = comparable_config(asdict(run.config))["model"]["language_models"]
    assert kept == [{}, {"reverse": True}], "a record says how states are read, not where the runs lie"
    assert not any("readers.1" in name or "readers.2" in name for name, _ in run.model.named_parameters())
    assert not any("readers.1" in name for name in run.model.state_dict())
    assert {file: file.read_bytes() for file in language_models.rglob("*") if file.is_file()} == before
    stop_at(monkeypatch, 4)
    with pytest.raises(Stopped):
        train(small(tmp_path, reading(language_models, "forward", "backward"), "train.epochs=1", name="two"), {})
    resume(tmp_path / "two", [])
    assert weights(tmp_path / "two") == weights(tmp_path / "one")


def test_a_language_model_is_read_at_one_checkpoint(language_models, tmp_path):
    """The one that is named, evaluated or not; else the best when the run began, also after `resume=auto`."""
    models = tmp_path / "models"
    shutil.copytree(language_models, models)
    folder = models / "forward" / "checkpoints"
    best = finding.best_step(folder)
    words = [reading(models, "forward"), "train.epochs=1", "resume=auto"]
    train(small(tmp_path, *words, name="one"), {})
    other = next(step for step in checkpoint.steps(folder) if step != best)
    checkpoint.point_best(folder, finding.find(folder, str(other), print))
    train(small(tmp_path, *words, name="one"), {})
    assert load_config(tmp_path / "one" / "config.yaml").model["language_models"][0]["checkpoint"] == best
    (folder / "best").unlink()
    named = f"model.language_models=[{{run: {models}/forward, checkpoint: {other}}}]"
    train(small(tmp_path, named, "train.epochs=1", name="two"), {})
    assert RunFolder.open(tmp_path / "two").info()["language_models"][0]["step"] == other


def test_another_model_in_the_same_place_is_refused(language_models, tmp_path):
    shutil.copytree(language_models, tmp_path / "models")
    train(small(tmp_path, reading(tmp_path / "models", "forward"), "train.epochs=1", name="one"), {})
    load_run(tmp_path / "one")
    forward = tmp_path / "models" / "forward"
    config = load_config(forward / "config.yaml")
    shutil.rmtree(forward)
    train(replace(config, seed=9, run=replace(config.run, root=str(forward.parent))), {})
    assert load_run(forward).checkpoint.step == load_run(language_models / "forward").checkpoint.step
    for use in (lambda: load_run(tmp_path / "one"), lambda: resume(tmp_path / "one", ["train.epochs=2"])):
        with pytest.raises(ConfigError, match="model.language_models.0.run: .*forward holds another model at step 5"):
            use()


def test_what_cannot_be_a_feature(language_models, tmp_path):
    train(small(tmp_path, "train.steps=1", name="tagger"), {})
    for options, message in [
        ([f"model.language_models=[{{run: {tmp_path}/none}}]"], "model.language_models.0.run: .*none does not exist"),
        ([f"model.language_models=[{{run: {tmp_path}/tagger}}]"], "trained a SequenceModel, not a LanguageModel"),
        (["model.language_models=[{reverse: true}]"], "model.language_models.0.run is not set"),
        (["model.language_models=[{run: x, backward: true}]"], "model.language_models.0.backward is unknown"),
        ([f"model.language_models=[{{run: {language_models}/forward, checkpoint: 3}}]"], "checkpoint=3 does not exist"),
        (["model.characters=5"], "model.characters=5 should be a mapping or null"),
        (["model.characters={hidden_size: 0}"], "model.characters.hidden_size=0 must be at least 1"),
        (["model.characters={embedding_size: 3}"], "model.characters.hidden_size is not set"),
        (["model.characters={hiden_size: 3}"], "did you mean model.characters.hidden_size"),
        (["model.characters={hidden_size: 3, cell: gruu}"], "model.characters.cell=gruu is unknown; allowed: elman"),
        (["model.dropout.words=1.5"], "model.dropout.words=1.5"),
        (["model.dropout.rare_words=-1"], "model.dropout.rare_words=-1.* must be at least 0"),
        (["model.dropout.words=0.1", "model.dropout.rare_words=1"], "both forget words; use one of them"),
        (
            ["+model.dropout.latent=0.5"],
            "model.dropout.latent is now model.output.latent_dropout; use model/output=mixture",
        ),
        (["task.monitor=precision"], "task.monitor=precision"),
    ]:
        with pytest.raises(ConfigError, match=message):
            train(small(tmp_path, *options, name="wrong"), {})
        assert not (tmp_path / "wrong").exists()


def test_characters_have_a_cell_of_their_own_if_asked():
    spec = "model.characters={hidden_size: 3, cell: gru}"
    model, _ = assembled("model/cell=elman", spec)
    kinds = [type(layer.cell).__name__ for layer in (model.readers[1].layer.layers[0].fwd, model.stack.layers[0].bwd)]
    assert kinds == ["GRUCell", "ElmanCell"]
    assert model.readers[1].embedding.embedding_dim == 3


def test_from_the_command_line(tmp_path):
    done = command("train", *SMALL, "model/head=crf", CHARACTERS, "train.epochs=1", "run.name=run", cwd=tmp_path)
    assert "f1" in done.stdout and "Taipei, " in done.stdout and "recall" in done.stdout
    info = json.loads((tmp_path / "outputs" / "run" / "run.json").read_text())
    assert {"valid/loss", "valid/f1", "valid/precision", "valid/recall", "valid/accuracy"} <= info["metrics"].keys()
    shown = command("eval", "outputs/run", "split=valid", cwd=tmp_path).stdout.splitlines()
    table = shown.index("types") + 1
    assert shown[table].split() == ["types", "precision", "recall", "f1", "support"]
    kind, *numbers = shown[table + 1].split()
    assert [*map(float, numbers[:3])] == [float(f"{float(number):.4f}") for number in numbers[:3]] and int(numbers[3])
    assert kind in {tag[2:] for _, tags in _requests("valid") for tag in tags if tag != "O"}
