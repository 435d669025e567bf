"""Sequence to sequence as a task: it learns, resumes to the bit, counts as it says, and works from the command line."""

from __future__ import annotations

import json
import sys
import types
from collections import Counter

import numpy as np
import pytest
import torch

from seqlm.data.tokenizers.examples import ExampleTokenizer
from seqlm.errors import ConfigError, Stopped
from seqlm.evaluation.evaluate import evaluate
from seqlm.optim.schedules import Moment
from seqlm.runs.folder import RunFolder
from seqlm.runs.load import load_run
from seqlm.tasks.base import Score
from seqlm.tasks.figures import Heatmap
from seqlm.tasks.seq2seq import Seq2Seq
from seqlm.training.launch import resume, train

from ..conftest import compose
from ..conftest import seqlm as command
from ..training.test_resume import losses, stop_at, weights
from ..training.test_tensorboard import opened

COPY = [
    "task=seq2seq", "model=seq2seq", "data=copy", "data.symbols=4", "data.min_length=2", "data.max_length=4",
    "data.sizes=[150,20,20]", "model.hidden_size=16", "optim.lr=0.02", "schedule=constant", "train.batch_size=10",
    "train.eval_batch_size=20", "train.log_every=5", "threads=1",
]  # fmt: skip


def copying(folder, *words, name="run"):
    return compose(*COPY, f"run.root={folder}", f"run.name={name}", *words)


@pytest.mark.parametrize("attention", ["general", "none"])
def test_a_tiny_copy_task_is_learned(tmp_path, attention):
    """Sequences that were never seen, said without an error; also through the bridge alone."""
    steps = {"general": 600, "none": 1200}[attention]  # without attention a CPU's rounding decides when
    words = ["data.symbols=8", "data.min_length=1", "data.max_length=3", "data.sizes=[400,40,40]", "optim.lr=0.01",
             "model.hidden_size=64", f"model.head.attention={attention}", "model.head.input_feeding=false",
             f"train.steps={steps}", "train.eval_every=300"]  # fmt: skip
    best = train(copying(tmp_path, *words), {}).best
    assert -best >= 0.9, best


def test_stops_change_nothing(tmp_path, monkeypatch):
    """With scheduled sampling that rises, dropout everywhere, and in the middle of an epoch."""
    dropout = [f"model.dropout.{place}=0.2" for place in ("embedding", "input", "output", "state", "zoneout")]
    words = ["task.scheduled_sampling=0.5", "train.steps=24", "train.eval_every=8", "checkpoint.every=3", *dropout]
    train(copying(tmp_path, *words, name="whole"), {})
    for count, go in ((4, lambda: train(copying(tmp_path, *words, name="parts"), {})),
                      (9, lambda: resume(tmp_path / "parts", []))):  # fmt: skip
        stop_at(monkeypatch, count)
        with pytest.raises(Stopped):
            go()
    resume(tmp_path / "parts", [])
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_the_part_of_the_run_that_is_done_matters_after_a_resume(tmp_path, monkeypatch):
    """A mutant of the test above: a task that does not hear how far the run has come goes on otherwise."""
    words = ["task.scheduled_sampling=0.9", "train.steps=12", "train.eval_every=12"]
    train(copying(tmp_path, *words, name="whole"), {})
    stop_at(monkeypatch, 8)
    with pytest.raises(Stopped):
        train(copying(tmp_path, *words, name="parts"), {})
    monkeypatch.setattr(Seq2Seq, "begin_step", lambda self, at: None)
    resume(tmp_path / "parts", [])
    assert weights(tmp_path / "parts") != weights(tmp_path / "whole")


def test_evaluations_change_nothing_in_training(tmp_path):
    """Examples and maps are made without dropout and without drawing."""
    words = ["train.steps=12", "model.dropout.output=0.3", "task.scheduled_sampling=0.5"]
    for every in (3, 12):
        train(copying(tmp_path, *words, f"train.eval_every={every}", name=f"every{every}"), {})
    assert weights(tmp_path / "every3") == weights(tmp_path / "every12")


@pytest.mark.parametrize("option", [
    "task.scheduled_sampling=0.9", "task.scheduled_sampling=0.9 task.sampling_schedule=constant",
])  # fmt: skip
def test_sampling_changes_training(tmp_path, option):
    train(copying(tmp_path, "train.steps=6", "train.eval_every=6", name="plain"), {})
    train(copying(tmp_path, "train.steps=6", "train.eval_every=6", *option.split(), name="other"), {})
    assert weights(tmp_path / "plain") != weights(tmp_path / "other")


def test_the_schedule_of_sampling():
    rising, constant = Seq2Seq(scheduled_sampling=0.4), Seq2Seq(scheduled_sampling=0.4, sampling_schedule="constant")
    assert (rising.sampled, constant.sampled) == (0.0, 0.4)
    for fraction, expected in ((0.0, 0.0), (0.25, 0.1), (1.0, 0.4), (1.5, 0.4)):
        for task in (rising, constant):
            task.begin_step(Moment(0, 0, fraction))
        assert (rising.sampled, constant.sampled) == (pytest.approx(expected), 0.4)


@pytest.mark.parametrize(("how", "message"), [
    ({"beam": 0}, "beam=0 must be at least 1"),
    ({"length_penalty": 1.0}, "length_penalty=1.0 does nothing with beam=1"),
    ({"length_penalty": -1.0, "beam": 2}, "length_penalty=-1.0 must be at least 0"),
    ({"max_length": 0}, "max_length=0 must be at least 1"),
    ({"scheduled_sampling": 1.0}, "scheduled_sampling=1.0 must be at least 0 and less than 1"),
    ({"sampling_schedule": "constant"}, "sampling_schedule=constant does nothing with scheduled_sampling=0"),
    ({"monitor": "bleu"}, "monitor=bleu needs bleu=true"),
])  # fmt: skip
def test_options_that_do_nothing_are_refused(how, message):
    with pytest.raises(ValueError, match=message):
        Seq2Seq(**how)


# ---- metrics


def scored(said, wanted, **how):
    """The metrics of texts of letters."""
    task, counts = Seq2Seq(**how), Counter()
    for mine, right in zip(said, wanted, strict=True):
        counts.update(task.count({"target": [*mine]}, {"read": [*right, "!"], "target": [*right]}))
    data = types.SimpleNamespace(tokenizer=types.SimpleNamespace(join="".join))
    return task.compute_metrics(Score(1.0, 2, counts), data, "valid"), task.report(Score(1.0, 2, counts))


def test_metrics_by_hand():
    #                        right: a b c end | a . . end | (nothing but) end | a, no end, no end
    metrics, report = scored(["abc", "abb", "", "ab"], ["abc", "acc", "", "a"])
    assert metrics == {"loss": 0.5, "exact": 2 / 4, "accuracy": (4 + 2 + 1 + 1) / (4 + 4 + 1 + 3)}
    assert report == {"by length of the source": [
        {"length": 1, "examples": 1, "exact": 1.0}, {"length": 2, "examples": 1, "exact": 0.0},
        {"length": 4, "examples": 2, "exact": 0.5},
    ]}  # fmt: skip


def test_references_are_in_the_form_that_is_looked_up():
    from seqlm.data.tokenizers.examples import ExampleTokenizer

    pairs = [{"words": "A 1", "target": "The  Cat"}]
    tokenizer = ExampleTokenizer(lowercase=True).fit(pairs)
    assert Seq2Seq().references(pairs, tokenizer) == [{"read": ["a", "1"], "target": ["the", "cat"]}]


def test_bleu_without_sacrebleu_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(ConfigError, match=r"task.bleu=true needs sacrebleu: pip install .*\[translate\]'"):
        train(copying(tmp_path, "task.bleu=true"), {})


def test_bleu_gets_whole_texts(monkeypatch):
    """The arguments of sacrebleu, with a stand-in for it."""
    given = []

    class Metric:
        def corpus_score(self, said, references):
            given.append((said, references))
            return types.SimpleNamespace(score=12.5)

    monkeypatch.setitem(sys.modules, "sacrebleu", types.ModuleType("sacrebleu"))
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", types.SimpleNamespace(BLEU=Metric, CHRF=Metric))
    metrics, _ = scored(["abc", "ab", "ab"], ["abc", "xy", "xy"], bleu=True, monitor="bleu")
    assert metrics["bleu"] == metrics["chrf"] == 12.5
    assert given == [(["abc", "ab", "ab"], [["abc", "xy", "xy"]])] * 2


def test_bleu_and_chrf_are_those_of_sacrebleu():
    sacrebleu = pytest.importorskip("sacrebleu")
    said, wanted = ["the cat sat on the mat .", "a dog"], ["the cat is on the mat .", "a dog barks"]
    metrics, _ = scored(said, wanted, bleu=True)
    assert metrics["bleu"] == pytest.approx(sacrebleu.corpus_bleu(said, [wanted]).score)
    assert metrics["chrf"] == pytest.approx(sacrebleu.corpus_chrf(said, [wanted]).score)
    assert scored(wanted, wanted, bleu=True)[0]["bleu"] == pytest.approx(100)


# ---- what is shown


def test_examples_and_maps_are_shown(tmp_path):
    train(copying(tmp_path, "train.steps=4", "train.eval_every=2"), {})
    shown = (tmp_path / "run" / "samples" / "step-000000002.txt").read_text().splitlines()
    assert len(shown) == 4 and all(" -> " in line for line in shown) and "target: " in shown[0]
    images = opened(tmp_path / "run").Images("attention")
    assert [image.step for image in images] == [2, 4]
    run = load_run(tmp_path / "run")
    seen = run.task.attention_map(run.model, run.tokenizer, {"words": "a c d"})
    assert [*seen.columns] == ["a", "c", "d"] and seen.rows[-1] == "<eos>"
    assert seen.values.shape == (len(seen.rows), 3)
    np.testing.assert_allclose(seen.values.sum(1), 1, atol=1e-6)
    assert not run.model.training


def test_a_decoder_without_attention_has_no_maps(tmp_path):
    words = ["model.head.attention=none", "model.head.input_feeding=false", "train.steps=2", "train.eval_every=2"]
    train(copying(tmp_path, *words), {})
    assert not opened(tmp_path / "run").Tags()["images"]


@pytest.mark.parametrize("plotting", [True, False])
def test_a_map_is_dark_where_weights_are_large(plotting, monkeypatch):
    if not plotting:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    pixels = Heatmap(np.eye(5, dtype=np.float32)[::-1], [*"vwxy$"], ["long", *"bcde"], "rows", "columns").pixels()
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
    if not plotting:
        assert pixels.shape == (80, 80, 3)
        assert (pixels[::16, ::16, 0] == 255 * (1 - np.eye(5)[::-1])).all()


def test_a_map_of_long_texts_has_an_end():
    pixels = Heatmap(np.zeros((1300, 600), dtype=np.float32), ["w"] * 1300, ["r"] * 600, "written", "read").pixels()
    assert max(pixels.shape) < 2000


# ---- from the command line


def test_two_files_to_a_translation(tmp_path):
    """train, eval and predict on files of words: a cipher is learned, and told."""
    generator = np.random.default_rng(0)
    cipher = {"one": "un", "two": "deux", "three": "trois", "four": "quatre"}
    for split, count in (("train", 150), ("valid", 20), ("test", 20)):
        lines = [generator.choice([*cipher], generator.integers(1, 5)) for _ in range(count)]
        (tmp_path / f"{split}.en").write_text("".join(" ".join(line) + "\n" for line in lines))
        (tmp_path / f"{split}.fr").write_text("".join(" ".join(cipher[w] for w in line) + "\n" for line in lines))
    words = [word for word in COPY if not word.startswith("data")]
    command("train", *words, "data=parallel", f"data.path={tmp_path}", "data.source=en", "data.target=fr",
            "train.epochs=16", "train.eval_every=80", f"run.root={tmp_path}", "run.name=run", cwd=tmp_path)  # fmt: skip
    told = json.loads(command("eval", tmp_path / "run", "split=test", "--json", cwd=tmp_path).stdout)
    assert told["exact"] >= 0.8 and told["examples"] == 20
    assert [row["length"] for row in told["report"]["by length of the source"]] == [1, 2, 3, 4]
    (tmp_path / "asked.txt").write_text('three one\n{"words": ["three", "one"]}\n')
    said = command("predict", tmp_path / "run", tmp_path / "asked.txt", cwd=tmp_path).stdout.splitlines()
    assert json.loads(said[0]) == {"words": "three one", "target": "trois un"}  # a text for a text, words for words
    assert json.loads(said[1]) == {"words": ["three", "one"], "target": ["trois", "un"]}
    assert RunFolder(tmp_path / "run").status() == "finished"
    (tmp_path / "train.en").write_text("one\n")
    failed = command("resume", tmp_path / "run", "train.epochs=32", cwd=tmp_path, check=False)
    assert failed.returncode == 2 and "lines do not correspond" in failed.stderr and "Traceback" not in failed.stderr


@pytest.mark.parametrize(("words", "message"), [
    (["model=tagger"], "model.head needs tags, and this data has none"),
    (["model=lstm"], "but model._target_=seqlm.models.presets.build_language_model reads a text"),
    (["data=markov"], "this data is a text"),
    (["task=tagging"], "needs a model with a TagHead"),
    (["train.bptt_std=3"], "train.bptt_std=3"),
])  # fmt: skip
def test_parts_that_do_not_fit_are_refused(tmp_path, words, message):
    kept = [word for word in COPY if not (words == ["data=markov"] and word.startswith("data"))]
    other = [word for word in kept if word.partition("=")[0] != words[0].partition("=")[0]]
    with pytest.raises(ConfigError, match=message):
        train(compose(*other, *words, f"run.root={tmp_path}"), {})


def test_a_run_may_be_asked_to_write_otherwise(tmp_path):
    train(copying(tmp_path, "train.steps=4", "train.eval_every=4"), {})
    run, other = load_run(tmp_path / "run"), load_run(tmp_path / "run", task={"beam": 4, "max_length": 1})
    examples = run.data["valid"].originals[:20]
    assert run.task.search_options["beam"] == 1
    assert other.task.search_options == {"beam": 4, "length_penalty": 0.0, "max_length": 1}
    assert max(len(said["target"]) for said in other.task.answers(other.model, other.tokenizer, examples)) <= 1
    told = json.loads(command("eval", tmp_path / "run", "task.max_length=1", "--json", cwd=tmp_path).stdout)
    assert told["task"] == {"max_length": 1} and (tmp_path / "run" / "eval-valid-task.json").is_file()
    assert not (tmp_path / "run" / "eval-valid.json").is_file()
    with pytest.raises(ConfigError, match="did you mean task.beam?"):
        load_run(tmp_path / "run", task={"baem": 2})
    with pytest.raises(ConfigError, match="task.monitor does nothing .* may change task.beam, task.len"):
        load_run(tmp_path / "run", task={"beam": 2, "monitor": "loss"})
    (tmp_path / "lines").write_text("a b\n")
    failed = command("predict", tmp_path / "run", "lines", "task.baem=2", cwd=tmp_path, check=False)
    assert failed.returncode == 2 and "did you mean task.beam?" in failed.stderr


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """A run on pairs whose targets hold words that are rare in train, so that <unk> is among its words."""
    folder = tmp_path_factory.mktemp("names")
    pairs = [f"greet Name{index} now\thello name{index}\n" for index in range(12)]
    for split in ("train", "valid"):
        (folder / f"{split}.tsv").write_text("".join(pairs))
    train(compose("task=seq2seq", "model=seq2seq", "data=parallel", f"data.path={folder}", "data.tokenizer.min_count=2",
                  "data.tokenizer.lowercase=true", "model.hidden_size=8", "train.steps=60", "train.batch_size=6",
                  "train.eval_every=60", "optim.lr=0.03", "schedule=constant", "threads=1", "sample.tokens=0",
                  f"run.root={folder}", "run.name=run"), {})  # fmt: skip
    return folder / "run"


@pytest.mark.parametrize("beam", [1, 3])
def test_unknown_words_are_copied_from_where_attention_is(names, beam):
    """As the source has them; without the option none is written."""
    plain, copying = (load_run(names, task={"beam": beam, "replace_unk": switch}) for switch in (False, True))
    examples = copying.data["valid"].originals
    assert not any("<unk>" in one["target"] for one in plain.task.answers(plain.model, plain.tokenizer, examples))
    for example in examples:
        (answer,) = copying.task.answers(copying.model, copying.tokenizer, [example])
        heatmap = copying.task.attention_map(copying.model, copying.tokenizer, example)
        source = copying.tokenizer.split(example["words"])
        assert "<unk>" in heatmap.rows, "it has learned that a name is an unknown word"
        expected = [
            source[row.argmax()] if word == "<unk>" else word
            for word, row in zip(heatmap.rows[:-1], heatmap.values, strict=False)
        ]
        assert answer == {"target": expected}
    batches = copying.task.batches(copying.data, "valid", 5, 0)
    score = evaluate(copying.model, copying.task, batches, torch.device("cpu"))
    (written,) = copying.task.predict_lines(copying.model, copying.tokenizer, [{"words": "greet Ada now"}])
    assert "<unk>" not in written["target"]
    assert score.counts["right"] >= 12 * 2


def test_copied_words_are_counted_in_the_form_that_is_looked_up():
    target = {"read": ["greet", "ada", "now"], "target": ["hello", "ada"]}
    counts = Seq2Seq(replace_unk=True).count({"target": ["hello", "<unk>"], "copies": {1: 1}}, target)
    assert counts["right"] == 3 and counts["length", 3, "exact"] == 1


def test_nothing_to_copy_is_refused(tmp_path):
    none = ["model.head.attention=none", "model.head.input_feeding=false", "train.steps=2", "train.eval_every=2"]
    with pytest.raises(ConfigError, match=r"task.replace_unk=true copies .* most attention, and this model has none"):
        train(copying(tmp_path, *none, "task.replace_unk=true"), {})
    train(copying(tmp_path, *none), {})
    with pytest.raises(ConfigError, match=r"task.replace_unk=true copies .* most attention, and this model has none"):
        load_run(tmp_path / "run", task={"replace_unk": True})
    with pytest.raises(ConfigError, match="copies words of the source, and this data has none"):
        Seq2Seq(replace_unk=True).prepare(ExampleTokenizer())
