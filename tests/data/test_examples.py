"""Examples: what a batch of whole sequences is, that padding changes nothing, and runs that train on them."""

from __future__ import annotations

import json
import os
import random
import re
import shutil

import numpy as np
import pytest
import torch

from seqlm import Bidirectional, GRUCell, LSTMCell, Recurrent, Stack
from seqlm.commands.eval import evaluate_run
from seqlm.data.batching.batches import IGNORE_INDEX
from seqlm.data.batching.bucketed import Bucketed, EncodedExamples
from seqlm.data.tokenizers.examples import ExampleTokenizer
from seqlm.data.tokenizers.saved import load_tokenizer
from seqlm.errors import ConfigError, Stopped
from seqlm.evaluation.evaluate import evaluate
from seqlm.layers import flip_sequences
from seqlm.runs.load import load_run
from seqlm.tasks.tagging import Tagging
from seqlm.training.launch import resume, train

from ..conftest import compose
from ..conftest import seqlm as command
from ..training.test_resume import losses, stop_at, weights

CITIES, DAYS = ("boston", "denver", "dallas", "oakland"), ("monday", "friday")
SHORT = [
    "data=atis", "task=tagging", "model=tagger", "model.hidden_size=8", "train.batch_size=5", "train.epochs=3",
    "train.eval_every=7", "train.eval_batch_size=4", "checkpoint.every=3", "train.log_every=1", "optim.lr=0.02",
    "threads=1", "schedule=constant",
]  # fmt: skip


def toy_atis(folder, counts=(33, 9, 9)):
    """Sentences in the form of ATIS, whose tags follow from the words before."""
    draw = random.Random(0)
    for split, count in zip(("train", "valid", "test"), counts, strict=True):
        (folder / split).mkdir(parents=True)
        lines = []
        for _ in range(count):
            a, b, day = draw.choice(CITIES), draw.choice(CITIES), draw.choice(DAYS)
            words, tags = ["from", a, "to", b], ["O", "B-from", "O", "B-to"]
            if draw.random() < 0.5:
                words, tags = [*words, "next", day], [*tags, "B-day", "I-day"]
            lines.append((" ".join(words), " ".join(tags), "day" if "next" in words else "route"))
        for name, column in zip(("seq.in", "seq.out", "label"), zip(*lines, strict=True), strict=True):
            (folder / split / name).write_text("\n".join(column) + "\n")
    return folder


@pytest.fixture(scope="module")
def atis(tmp_path_factory):
    return toy_atis(tmp_path_factory.mktemp("atis"))


def tagged(folder, atis, *overrides, name="run"):
    return compose(*SHORT, f"data.path={atis}", f"run.root={folder}", f"run.name={name}", *overrides)


def split_of(*sentences, **options):
    examples = [{"words": text, "tags": ["O"] * len(text.split()), "label": "a"} for text in sentences]
    tokenizer = ExampleTokenizer(**options).fit(examples)
    return EncodedExamples.of(examples, tokenizer)


def test_vocabularies_are_those_of_train_and_come_back(tmp_path):
    examples = [{"words": "a B b b7", "tags": ["X", "O", "O", "O"], "label": "l"}, {"words": "b c8", "target": "y"}]
    tokenizer = ExampleTokenizer(lowercase=True, digits=True, min_count=2).fit(examples)
    assert tokenizer.vocabularies["words"] == ["<unk>", "<eos>", "b"]  # b B b; a, b0 and c0 are seen once
    assert tokenizer.vocabularies["tags"] == ["O", "X"] and tokenizer.vocabularies["label"] == ["l"]
    tokenizer.save(tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path / "tokenizer.json")
    kept, counts = ({name: field.counts for name, field in one.fields.items()} for one in (again, tokenizer))
    assert kept == counts and counts["words"] == [0, 0, 3]
    assert again.sizes() == tokenizer.sizes() and again.settings() == tokenizer.settings()
    encoded = again.encode({"words": ["B", "zz"], "tags": ["X", "new"], "label": "other"})
    assert encoded["words"].tolist() == [2, 0] and encoded["tags"].tolist() == [1, IGNORE_INDEX]
    assert encoded["label"] == IGNORE_INDEX and encoded["characters"][1] == [0, 0]
    with pytest.raises(ConfigError, match="2 words but 1 tags"):
        again.encode({"words": "a b", "tags": ["O"]})
    assert ExampleTokenizer(unit="char").fit([{"words": "ab a"}]).vocabularies["words"][2:] == ["a", " ", "b"]


def test_every_example_is_in_one_batch_of_each_epoch():
    split = split_of(*["w " * length for length in (3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5)])
    for seed in (None, 7):
        batches = Bucketed(split, 3, ("tags",), seed=seed)
        orders = []
        for epoch in (0, 1, 0):
            batches.start_epoch(epoch)
            found = [index for batch in map(batches.__getitem__, range(len(batches))) for index in batch.indices]
            assert sorted(found) == list(range(11)) and len(batches) == batches.count(epoch) == 4
            orders.append(found)
        assert orders[0] == orders[2] and (orders[0] == orders[1]) == (seed is None)
        assert batches.targets == 44
    sizes = [
        max(len(words.split()) for words in (e["words"] for e in split.examples(batch)))
        for batch in Bucketed(split, 3, ())
    ]
    assert sizes == sorted(sizes)
    with pytest.raises(
        ConfigError, match="train.batch_size=12 is more than there are examples; use train.batch_size=11"
    ):
        Bucketed(split, 12, (), seed=1, where="train.")


def test_parts_are_sequences_of_the_batch():
    split = split_of("a b c", "d e", "f", "g h i j", "k")
    batch = split.batch([3, 0, 1, 4], ("tags",))
    assert batch["words"].shape == (4, 4) and batch.lengths["words"].tolist() == [4, 3, 2, 1]
    assert batch["tags"][:, 1].tolist() == [0, 0, 0, IGNORE_INDEX] and batch.tokens == 10
    pieces = batch.parts(3)
    assert [piece.indices for piece in pieces] == [[3, 0], [1, 4]]  # as torch.chunk
    assert torch.cat([piece["words"] for piece in pieces], 1).equal(batch["words"])
    assert torch.cat([piece["label"] for piece in pieces]).equal(batch["label"])
    assert split.examples(pieces[1])[0]["words"] == "d e" and sum(piece.tokens for piece in pieces) == 10


def test_flip_sequences_by_hand():
    xs = torch.arange(8).view(4, 2)  # columns 0 2 4 6 and 1 3 5 7
    assert flip_sequences(xs, torch.tensor([4, 2])).t().tolist() == [[6, 4, 2, 0], [3, 1, 5, 7]]
    wide = torch.randn(4, 2, 3)
    assert flip_sequences(flip_sequences(wide, torch.tensor([3, 1])), torch.tensor([3, 1])).equal(wide)


@pytest.mark.parametrize("engine", ["scan", "native", "fused"])
def test_padding_changes_nothing(engine):
    """Padding behind the end of a sequence reaches no output and no gradient, in either direction."""
    torch.manual_seed(0)
    layers = [
        Bidirectional(Recurrent(cell(size, 4), engine=engine), Recurrent(cell(size, 4), True, engine=engine))
        for cell, size in ((LSTMCell, 3), (GRUCell, 8))
    ]
    stack = Stack(layers).double()
    lengths, xs = torch.tensor([5, 2, 3]), torch.randn(5, 3, 3, dtype=torch.float64)
    garbage = xs.clone()
    for column, length in enumerate(lengths.tolist()):
        garbage[length:, column] = 1e3

    def outputs(xs, lengths):
        xs = xs.clone().requires_grad_()
        ys = stack(xs, stack.init_carry(xs.shape[1]), lengths)[1]
        kept = torch.arange(len(xs)).unsqueeze(1) < lengths
        (ys * kept.unsqueeze(-1)).pow(2).sum().backward()
        return ys, xs.grad

    ys, grad = outputs(garbage, lengths)
    for column, length in enumerate(lengths.tolist()):
        alone, slope = outputs(xs[:length, column : column + 1], lengths[column : column + 1])
        torch.testing.assert_close(ys[:length, column], alone[:, 0], rtol=0, atol=1e-12)
        torch.testing.assert_close(grad[:length, column], slope[:, 0], rtol=0, atol=1e-12)
        assert not grad[length:, column].any()


def test_a_score_does_not_depend_on_its_batches(tmp_path, atis):
    train(tagged(tmp_path, atis, "train.epochs=8"), {})
    run = load_run(tmp_path / "run")
    model = run.model.double()
    found = [
        evaluate(model, run.task, run.task.batches(run.data, "valid", size, 0), torch.device("cpu"))
        for size in (1, 4, 9)
    ]
    assert all(score.counts == found[0].counts and score.tokens == found[0].tokens for score in found)
    assert np.ptp([score.loss_sum for score in found]) < 1e-5
    assert run.task.compute_metrics(found[0], run.data, "valid")["f1"] > 0.9, "the tags follow from the words"


@pytest.mark.parametrize("steps", [(1, 4), (6,), (7,), (20,)])
def test_runs_on_examples_resume_to_the_bit(tmp_path, atis, steps, monkeypatch):
    more = [
        "model.dropout.input=0.3",
        "model.dropout.weight=0.2",
        "optim=adamw",
        "averaging=mean",
        "train.accumulate=2",
    ]
    train(tagged(tmp_path, atis, *more, name="whole"), {})
    stop_at(monkeypatch, steps[0])
    with pytest.raises(Stopped):
        train(tagged(tmp_path, atis, *more, name="pieces"), {})
    for step in steps[1:]:
        stop_at(monkeypatch, step)
        with pytest.raises(Stopped):
            resume(tmp_path / "pieces", [])
    monkeypatch.undo()
    resume(tmp_path / "pieces", [])
    assert losses(tmp_path / "whole") == losses(tmp_path / "pieces")
    assert weights(tmp_path / "whole") == weights(tmp_path / "pieces")


def test_weights_are_chosen_by_what_the_task_says(tmp_path, atis):
    """Steps so large that the loss falls while F1 does as well: the two choose differently."""
    words = ["optim.lr=0.3", "train.eval_every=2", "train.steps=6"]
    chosen = {}
    for judged, better in (("loss", min), ("f1", max)):
        train(tagged(tmp_path, atis, *words, f"task.monitor={judged}", name=judged), {})
        records = [json.loads(line) for line in (tmp_path / judged / "metrics.jsonl").read_text().splitlines()]
        values = {record["step"]: record[f"valid/{judged}"] for record in records if "valid/f1" in record}
        chosen[judged] = load_run(tmp_path / judged).checkpoint.step
        assert chosen[judged] == better(values, key=values.get) and len(values) == 3
    assert chosen["loss"] != chosen["f1"], "nothing to choose between"


REFUSED = [
    ("model=lstm", "this data is examples, but .* reads a text"),
    ("task=lm", "LanguageModeling trains a LanguageModel, but this model is a SequenceModel"),
    ("data=markov", "this data is a text, but .* reads examples"),
    ("data/tokenizer=word", "this data is examples; use data/tokenizer=examples"),
    ("train.drop_state=0.1", "train.drop_state=0.1 does nothing"),
    ("train.bptt_std=2", "train.bptt_std=2.0 does nothing"),
    ("train.batch_size=99", "train.batch_size=99 is more than there are examples"),
    ("+model.dropout.embedding_tied=true", "model.dropout.embedding_tied=True does nothing"),
    ("data.path=/nowhere", "data.path=/nowhere has no train/seq.in"),
]


@pytest.mark.parametrize(("word", "message"), REFUSED)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, atis, word, message):
    words = [w for w in SHORT if word != "data=markov" or w != "data=atis"]
    paths = [] if word.startswith("data=") else [f"data.path={atis}"]
    with pytest.raises(ConfigError, match=message):
        train(compose(*words, *paths, f"run.root={tmp_path}/runs", "run.name=x", word), {})
    assert not (tmp_path / "runs" / "x").exists()


def test_eval_and_predict_from_the_command_line(tmp_path, atis):
    train(tagged(tmp_path, atis, "train.epochs=12", "task.monitor=loss"), {})
    assert json.loads((tmp_path / "run" / "run.json").read_text())["parameters"]["embedding"] == 11 * 8
    table = command("eval", "run", "split=test", cwd=tmp_path).stdout
    assert "f1 " in table and re.search("split +test, 9 examples\n", table)
    result = json.loads(command("eval", "run", "split=test", "--json", cwd=tmp_path).stdout)
    kept = json.loads((tmp_path / "run" / "eval-test.json").read_text())
    assert result["f1"] > 0.9 and {**kept, "seconds": 0} == {**result, "seconds": 0}
    refused = command("eval", "run", "protocol=awd", cwd=tmp_path, check=False)
    assert refused.returncode == 2 and "protocol does nothing for Tagging, the task" in refused.stderr

    lines = 'from boston to denver\n\n{"words": ["to", "oakland"], "id": 7}\n{"words": 3}\n{"x\nnext friday\n'
    for batch in (1, 4):
        words = ["predict", "run", "-", f"batch_size={batch}"]
        done = command(*words, cwd=tmp_path, input=lines, check=False, process=batch == 1)
        said = [json.loads(line) for line in done.stdout.splitlines()]
        assert [answer.get("tags") for answer in said] == [
            ["O", "B-from", "O", "B-to"], None, ["O", "B-to"], None, None, ["B-day", "I-day"],
        ]  # fmt: skip
        assert said[1]["error"] == "empty" and "words should be" in said[3]["error"] and "line 5" in said[4]["error"]
        assert said[2]["id"] == 7 and done.returncode == 2 and "2 of the lines" in done.stderr
    odd = tmp_path / "odd"
    odd.write_bytes("\ufeffto ZÜRICH\n \t\nto \xff\nto denver\n".encode("utf-8").replace(b"\xc3\xbf", b"\xff"))
    done = command("predict", "run", "odd", cwd=tmp_path, check=False)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert said[0]["words"] == ["to", "ZÜRICH"] and said[1] == {"words": " \t", "error": "empty"}
    assert "line 3 is not text" in said[2]["error"] and said[3]["tags"] == ["O", "B-to"]
    assert "ZÜRICH" in done.stdout and done.returncode == 2 and "1 of the lines" in done.stderr
    done = command("predict", "run", "odd", "output=columns", cwd=tmp_path, check=False)
    assert "line 3 is not text" in done.stderr and done.stdout.endswith("\n\n\n\nto\tO\ndenver\tB-to\n\n")
    (tmp_path / "text").write_text("to denver\n")
    columns = command("predict", "run", "text", "output=columns", cwd=tmp_path).stdout
    assert columns == "to\tO\ndenver\tB-to\n\n"
    for words, message in ((["nowhere"], "nowhere is not a file"), ([], "needs a file"), (["-", "fromat=x"], "format")):
        refused = command("predict", "run", *words, cwd=tmp_path, check=False)
        assert refused.returncode == 2 and message in refused.stderr and "Traceback" not in refused.stderr
    lines = '{"a": ' + "[" * 100_000 + "\nto \rdenver\r\nnext friday"
    done = command("predict", "run", "-", cwd=tmp_path, input=lines, check=False)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert "line 1 begins with { but is not JSON" in said[0]["error"] and "Traceback" not in done.stderr
    assert [one["words"] for one in said[1:]] == [["to"], ["denver"], ["next", "friday"]], "as in the data"
    os.mkfifo(tmp_path / "pipe")
    refused = command("predict", "run", "pipe", cwd=tmp_path, check=False)  # it might never end
    assert refused.returncode == 2 and "pipe is not a file" in refused.stderr
    assert "f1" in command("runs", ".", cwd=tmp_path).stdout.splitlines()[0]


def test_batches_are_as_large_as_asked(tmp_path, atis, monkeypatch):
    train(tagged(tmp_path, atis, "train.epochs=1"), {})
    sizes, batches = [], Tagging.batches
    monkeypatch.setattr(Tagging, "batches", lambda *given: sizes.append(given[3]) or batches(*given))
    for words in (["batch_size=1"], ["batch_size=3"], []):
        evaluate_run(str(tmp_path / "run"), words, True)
    assert sizes == [1, 3, 4], "one is one; by default as in training"


def test_what_comes_next_is_possible(tmp_path, atis, capsys):
    for split in ("train", "valid"):
        shutil.copytree(atis / split, tmp_path / "data" / split)
    train(tagged(tmp_path, tmp_path / "data", "data=iob", "train.epochs=1"), {})
    told = capsys.readouterr().out
    assert re.search(r"next +seqlm eval \S+run\n", told) and "split=test" not in told


def test_a_language_model_predicts_lines(tmp_path):
    from ..conftest import tiny

    train(tiny(tmp_path), {})
    done = command("predict", tmp_path / "run", "-", cwd=tmp_path, input="abcab\n\nb\n")
    said = [json.loads(line) for line in done.stdout.splitlines()]
    run = load_run(tmp_path / "run")
    ids = torch.tensor([run.tokenizer.eos_id, *run.tokenizer.encode("abcab")]).unsqueeze(1)
    logits = run.model(ids[:-1], run.model.init_carry(1))[1].log_softmax(-1)
    assert said[0]["nll"] == pytest.approx(-logits.gather(-1, ids[1:].unsqueeze(-1)).sum().item(), rel=1e-5)
    assert said[0]["tokens"] == 5 and said[1] == {"words": "", "error": "empty"} and said[2]["tokens"] == 1

    lines = ["ab" * 300, "c", "", "abcde" * 5, "a" * 257, '{"words": ["ab", "c"], "id": 3}']
    (tmp_path / "lines").write_text("\n".join(lines))
    told = []
    for batch in (1, 4):
        done = command("predict", tmp_path / "run", tmp_path / "lines", f"batch_size={batch}", cwd=tmp_path)
        told.append([json.loads(line) for line in done.stdout.splitlines()])
    for one, other in zip(*told, strict=True):  # together or alone, longer and shorter than what is read at once
        assert one.keys() == other.keys() and one.get("nll", 0) == pytest.approx(other.get("nll", 0), rel=1e-5)
    assert [one.get("tokens") for one in told[0]] == [600, 1, None, 25, 257, 4] and told[0][-1]["id"] == 3
