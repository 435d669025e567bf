"""Sequences of vectors: how they are read, that they are read when needed, and problems whose answers are known."""

from __future__ import annotations

import io
import json
import os
import zipfile

import numpy as np
import pytest
import torch

from seqlm import LSTMCell
from seqlm.data.batching.bucketed import Bucketed
from seqlm.data.dataset import Data
from seqlm.data.sources.features import Features, arrays_of
from seqlm.data.tokenizers.examples import ExampleTokenizer
from seqlm.errors import ConfigError
from seqlm.evaluation.evaluate import evaluate
from seqlm.models.label_head import LabelHead
from seqlm.models.sequence_model import build_sequence_model
from seqlm.runs.assemble import build_data
from seqlm.runs.load import load_run
from seqlm.training.launch import train

from ..conftest import compose
from ..conftest import seqlm as command
from ..training.test_resume import stops_change_nothing

SHORT = [
    "data=features", "model.hidden_size=16", "model.bidirectional=false", "train.batch_size=16", "optim.lr=0.01",
    "train.eval_every=null", "train.log_every=5", "threads=1", "schedule=constant",
]  # fmt: skip


def as_folder(path, arrays, label=None, tags=None):
    path.mkdir(parents=True)
    for number, array in enumerate(arrays):
        np.save(path / f"x{number}.npy", array)
    for name, said in (("labels", label), ("tags", tags and [" ".join(row) for row in tags])):
        if said:
            (path / f"{name}.tsv").write_text("".join(f"x{number}\t{one}\n" for number, one in enumerate(said)))


def as_archive(path, arrays, label=None, tags=None):
    longest = max(map(len, arrays))
    padded = np.zeros((len(arrays), longest, arrays[0].shape[1]), arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    more = {"label": np.array(label)} if label else {}
    if tags:
        more["tags"] = np.array([row + [""] * (longest - len(row)) for row in tags])
    np.savez(path, features=padded, lengths=[len(array) for array in arrays], **more)


def some(count=6, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=(rng.integers(1, 6), 3)).astype(dtype) for _ in range(count)]
    label = [f"c{number % 2}" for number in range(count)]
    return arrays, label, [["ab"[step % 2] for step in range(len(array))] for array in arrays]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int16, np.bool_])
def test_a_folder_and_an_archive_say_the_same(tmp_path, dtype):
    arrays, label, tags = some(dtype=dtype)
    for split in ("train", "valid", "test"):
        as_folder(tmp_path / "a" / split, arrays, label, tags)
    (tmp_path / "b").mkdir()
    for split in ("train", "valid"):
        as_archive(tmp_path / "b" / f"{split}.npz", arrays, label, tags)
    for path, splits in (("a", ("train", "valid", "test")), ("b", ("train", "valid"))):
        corpus = Features(path=str(tmp_path / path))
        assert corpus.splits() == splits
        found = list(corpus.examples("valid"))
        assert [example["label"] for example in found] == label and [example["tags"] for example in found] == tags
        for example, array in zip(found, arrays, strict=True):
            assert np.array_equal(np.asarray(example["features"]), array)
        data = Data.fitted(corpus, ExampleTokenizer(), "train", None)
        assert data.tokenizer.sizes() == {"num_tags": 2, "num_labels": 2, "num_features": 3}
        batch = data["train"].batch([4, 1], ("label", "tags"))
        assert batch["features"].dtype == torch.float32 and batch["features"].shape[1:] == (2, 3)
        for column, index in enumerate((4, 1)):
            length = len(arrays[index])
            assert np.array_equal(batch["features"][:length, column].numpy(), arrays[index].astype(np.float32))
            assert not batch["features"][length:, column].any()


def test_fingerprints_know_every_number(tmp_path):
    arrays, label, _ = some()
    as_folder(tmp_path / "train", arrays, label)
    as_folder(tmp_path / "valid", arrays, label)
    before = Features(path=str(tmp_path)).fingerprint("train")
    assert before == Features(path=str(tmp_path)).fingerprint("valid")
    arrays[3][-1, 2] += 1e-3
    np.save(tmp_path / "train" / "x3.npy", arrays[3])
    assert Features(path=str(tmp_path)).fingerprint("train") != before


def test_one_source_is_shared_out_by_name(tmp_path):
    arrays, label, _ = some(200)
    as_folder(tmp_path / "all", arrays, label)
    corpus = Features(path=str(tmp_path / "all"), fractions=[0.5, 0.5])
    parts = [[example["features"].path.stem for example in corpus.examples(split)] for split in corpus.splits()]
    assert sorted(sum(parts, [])) == sorted(f"x{number}" for number in range(200))
    assert 70 < len(parts[0]) < 130
    as_archive(tmp_path / "all.npz", arrays, label)
    corpus = Features(path=str(tmp_path / "all.npz"))
    assert sum(len(list(corpus.examples(split))) for split in corpus.splits()) == 200


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files as Linux shows them")
def test_features_are_read_when_a_batch_needs_them(tmp_path):
    """No file stays open and nothing is held, however many there are."""
    arrays, label, _ = some(40)
    for split in ("train", "valid"):
        as_folder(tmp_path / split, arrays, label)
    opened = len(os.listdir("/proc/self/fd"))
    split = Data.fitted(Features(path=str(tmp_path)), ExampleTokenizer(), "train", None)["train"]
    assert len(os.listdir("/proc/self/fd")) == opened
    assert not any(isinstance(value, np.ndarray) for example in split.encoded for value in example.values())
    np.save(tmp_path / "train" / "x7.npy", arrays[7] + 1)
    assert np.allclose(split.batch([7])["features"][:, 0].numpy(), arrays[7] + 1)
    assert len(Bucketed(split, 8, ("label",))) == 5


def broken(path, arrays, label, what):
    as_folder(path, arrays, label)
    if what == "shape":
        np.save(path / "x2.npy", np.zeros(4))
    elif what == "text":
        np.save(path / "x2.npy", np.array([["a", "b"]]))
    elif what == "empty":
        np.save(path / "x2.npy", np.zeros((0, 3)))
    elif what == "width":
        np.save(path / "x2.npy", np.zeros((4, 2)))
    elif what == "nan":
        np.save(path / "x2.npy", np.array([[0, 1, 2], [0, np.nan, 1]]))
    elif what == "large":
        np.save(path / "x2.npy", np.array([[0, 1, 2], [0, 1e39, 1]]))
    elif what == "objects":
        np.save(path / "x2.npy", np.array([{"a": 1}]), allow_pickle=True)
    elif what == "cut":
        (path / "x2.npy").write_bytes((path / "x2.npy").read_bytes()[:140])
    elif what == "missing":
        (path / "x2.npy").unlink()
    elif what == "unlabelled":
        np.save(path / "y.npy", arrays[0])
    else:
        lines = (path / "labels.tsv").read_text().splitlines()
        lines[2] = {"no label": "x2 c0", "twice": "x1\tc0"}[what]
        (path / "labels.tsv").write_text("\n".join(lines))


WRONG = {
    "shape": r"labels.tsv, line 3: features must be numbers \(T, F\) .* not f \(4,\)",
    "text": r"line 3: features must be numbers \(T, F\) .* not U \(1, 2\)",
    "empty": r"line 3: features must be numbers \(T, F\) with T and F above 0",
    "width": r"x2.npy: features \(4, 2\), but in train 3 numbers a step",
    "nan": "x2.npy: features hold nan at step 1, number 1",
    "large": r"x2.npy: features hold 1e\+39 at step 1, number 1, which is too large for float32",
    "objects": "x2.npy is not a .npy file of numbers",
    "cut": "x2.npy is not a .npy file of numbers",
    "missing": "labels.tsv, line 3: x2.npy does not exist",
    "unlabelled": "has no label for y.npy",
    "no label": "labels.tsv, line 3: there should be a name, a tabulator, and the target",
    "twice": "labels.tsv, line 3: x1 was named before, in .*labels.tsv, line 2",
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_in_a_folder(tmp_path, what):
    arrays, label, _ = some()
    as_folder(tmp_path / "train", arrays, label)
    broken(tmp_path / "valid", arrays, label, what)
    with pytest.raises(ConfigError, match=WRONG[what]):
        Data.fitted(Features(path=str(tmp_path)), ExampleTokenizer(), "train", None)["valid"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"label": ["a"]},
            r"features \(N, T, F\), and label \(N,\), tags \(N, T\), target \(N,\) or value \(N, K\)",
        ),
        ({"features": np.zeros((1, 2, 3))}, "should hold features"),
        ({"features": np.zeros((1, 2, 3)), "label": ["a", "b"]}, r"label \(2,\) should be \(1,\)"),
        ({"features": np.zeros((1, 2, 3)), "label": ["a"], "names": ["x"]}, r"names \(1,\) is none of lengths, label"),
        (
            {"features": np.zeros((1, 2, 3)), "label": ["a"], "lengths": [3]},
            "example 0: its length is 3, but .* 2 steps",
        ),
        ({"features": np.zeros((1, 2, 3)), "label": np.array([{}])}, "is not a .npz file of numbers and texts"),
    ],
)
def test_what_is_wrong_in_an_archive(tmp_path, arrays, message):
    np.savez(tmp_path / "all.npz", **arrays)
    with pytest.raises(ConfigError, match=message):
        list(Features(path=str(tmp_path / "all.npz")).examples("train"))


def test_tags_must_fit_and_something_must_be_said(tmp_path):
    as_folder(tmp_path / "a", [np.zeros((2, 1))], tags=[["x"]])
    with pytest.raises(ConfigError, match="tags.tsv, line 1: 1 tags, but features have 2 steps"):
        list(Features(path=str(tmp_path / "a")).examples("train"))
    as_folder(tmp_path / "b", [np.zeros((2, 1))])
    with pytest.raises(ConfigError, match="needs labels.tsv .* tags.tsv, targets.tsv, values.tsv"):
        list(Features(path=str(tmp_path / "b")).examples("train"))


@pytest.mark.parametrize("embedding_size", [None, 4])
def test_features_are_read_as_they_are_or_mapped(tmp_path, embedding_size):
    """And padding changes nothing: alone or beside others, the same logits."""
    arrays, label, _ = some()
    as_archive(tmp_path / "all.npz", arrays, label)
    data = Data.fitted(Features(path=str(tmp_path / "all.npz")), ExampleTokenizer(), "all", None, {})
    torch.manual_seed(0)
    model = build_sequence_model(
        sizes=data.tokenizer.sizes(), cell=LSTMCell, head=LabelHead, hidden_size=5, embedding_size=embedding_size
    )
    batch = data["train"].batch(range(len(data["train"])))
    read = model.readers[0](batch)
    if embedding_size is None:
        assert read is batch["features"]
    else:
        projection = model.readers[0].projection
        torch.testing.assert_close(read, batch["features"] @ projection.weight.t() + projection.bias)
    logits = model.head.logits(*model.encode(batch))
    alone = [model.head.logits(*model.encode(data["train"].batch([index]))) for index in range(len(data["train"]))]
    torch.testing.assert_close(logits, torch.cat(alone), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.tokenizer.lowercase=true", "data.tokenizer.lowercase does nothing: this data has no words"),
        ("model.dropout.embedding=0.1", "model.dropout.embedding=0.1 does nothing: this data has no words; use input"),
    ],
)
def test_options_of_words_are_refused(tmp_path, word, message):
    as_archive(tmp_path / "all.npz", *some(20)[:2])
    with pytest.raises(ConfigError, match=message):
        run_on(tmp_path, tmp_path / "all.npz", "task=classification", "model=classifier", word)


def config_on(where, path, *overrides, name="run"):
    return compose(*SHORT, f"data.path={path}", f"run.root={where}", f"run.name={name}", *overrides)


def run_on(where, path, *overrides):
    """Train, and tell how many targets of test are right."""
    train(config_on(where, path, *overrides), {})
    run = load_run(where / "run")
    score = evaluate(run.model, run.task, run.task.batches(run.data, "test", 32, 0), torch.device("cpu"))
    return run.task.compute_metrics(score, run.data, "test")["accuracy"]


def impulses(rng, count, steps=24):
    """Noise of two sensors, and an impulse up or down within the first three steps: the class."""
    arrays, label = [], []
    for _ in range(count):
        array = rng.normal(scale=0.3, size=(rng.integers(steps // 2, steps + 1), 2))
        up = rng.random() < 0.5
        array[rng.integers(3), 0] += 3 if up else -3
        arrays.append(array.astype(np.float32))
        label.append("up" if up else "down")
    return arrays, label


def test_a_class_that_an_early_impulse_decides(tmp_path):
    """A network that forgets cannot know it: the last steps say nothing."""
    as_archive(tmp_path / "all.npz", *impulses(np.random.default_rng(0), 400))
    words = ["task=classification", "model=classifier", "train.epochs=6"]
    assert run_on(tmp_path, tmp_path / "all.npz", *words) == 1


def test_a_tag_for_every_step(tmp_path):
    """A latch: each step bears the sign of the last impulse, `none` before the first."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 150), ("valid", 20), ("test", 20)):
        arrays, tags = [], []
        for _ in range(count):
            array, row, state = rng.normal(scale=0.2, size=(rng.integers(8, 16), 1)), [], "none"
            for step in range(len(array)):
                if rng.random() < 0.2:
                    state = "up" if rng.random() < 0.5 else "down"
                    array[step, 0] += 2 if state == "up" else -2
                row.append(state)
            arrays.append(array)
            tags.append(row)
        as_folder(tmp_path / "latch" / split, arrays, tags=tags)
    words = ["task=tagging", "model=tagger", "task.monitor=accuracy", "train.epochs=8", "optim.lr=0.02"]
    assert run_on(tmp_path, tmp_path / "latch", *words) > 0.98


def test_numbers_of_an_archive_that_float32_does_not_hold_are_named(tmp_path, recwarn):
    arrays, label, _ = some(8, dtype=np.float64)
    for array, bad in ((arrays[5], 1e39), (arrays[5], np.inf)):
        array[1, 2] = bad
        as_archive(tmp_path / "train.npz", arrays, label)
        with pytest.raises(ConfigError, match=r"train.npz, example 5: features hold .* at step 1, number 2"):
            examples = list(Features(path=str(tmp_path / "train.npz")).read(tmp_path / "train.npz"))
            tokenizer = ExampleTokenizer().fit(example for _, example in examples)
            [tokenizer.encode(example) for _, example in examples]
    value = tokenizer.fit([{"words": ["a"], "value": 1.0}]).fields["value"]
    with pytest.raises(ConfigError, match=r"an example has value 1e\+39; it should be finite numbers"):
        value.encode(1e39)
    with pytest.raises(ConfigError, match="an example has value .*; it should be a number, numbers, or nan"):
        value.encode(10**400)
    assert not recwarn.list


def test_tags_without_entities_are_not_judged_by_them(tmp_path):
    arrays, _, tags = some(20)
    as_archive(tmp_path / "all.npz", arrays, tags=tags)
    with pytest.raises(ConfigError, match="the tag a fits no scheme .* use task.monitor=accuracy"):
        train(config_on(tmp_path, tmp_path / "all.npz", "task=tagging", "model=tagger"), {})


def test_a_motif_in_dna(tmp_path):
    """One-hot DNA: whether TATA stands somewhere; what finds it is the maximum over the places."""
    rng, strands, label = np.random.default_rng(0), [], []
    while len(label) < 500:
        letters = "".join(rng.choice(list("ACGT"), rng.integers(12, 25)))
        place = rng.integers(len(letters) - 4)
        letters = letters[:place] + "TATA" + letters[place + 4 :] if len(label) % 2 else letters
        if ("TATA" in letters) == bool(len(label) % 2):
            strands.append(np.array([[letter == base for base in "ACGT"] for letter in letters]))
            label.append("promoter" if len(label) % 2 else "none")
    as_archive(tmp_path / "all.npz", strands, label)
    words = ["task=classification", "model=classifier", "model.head.pooling=max", "train.epochs=12", "optim.lr=0.02"]
    assert run_on(tmp_path, tmp_path / "all.npz", *words) > 0.95


def test_resume_is_equality(tmp_path, monkeypatch):
    as_folder(tmp_path / "all", *impulses(np.random.default_rng(0), 60))
    more = ["task=classification", "model=classifier", "model.embedding_size=5", "model.dropout.input=0.2",
            "train.epochs=3", "train.batch_size=8", "checkpoint.every=3", "train.log_every=1"]  # fmt: skip
    stops_change_nothing(
        tmp_path, lambda name: config_on(tmp_path, tmp_path / "all", *more, name=name), [7], monkeypatch
    )


def test_shown_without_its_numbers(tmp_path):
    as_archive(tmp_path / "all.npz", *some(30)[:2])
    train(config_on(tmp_path, tmp_path / "all.npz", "task=classification", "model=classifier", "train.epochs=1"), {})
    (text,) = (tmp_path / "run" / "samples").iterdir()
    data = build_data(config_on(tmp_path, tmp_path / "all.npz"))
    steps = len(data["valid"].encoded[0]["features"])
    more = ["task=classification", "model=classifier", "train.epochs=1", "sample.tokens=0"]
    train(config_on(tmp_path, tmp_path / "all.npz", *more, name="silent"), {})
    assert not (tmp_path / "silent" / "samples").exists()
    assert text.read_text().splitlines()[0] == f"features: {steps} x 3 numbers"


def test_another_sequence_for_a_sequence_of_vectors(tmp_path):
    """Vectors that are letters, to their text: trained, scored, shown, drawn and predicted."""
    rng, letters = np.random.default_rng(0), "abc"
    for split, count in (("train", 120), ("valid", 12), ("test", 12)):
        texts = ["".join(rng.choice(list(letters), rng.integers(1, 5))) for _ in range(count)]
        as_folder(tmp_path / "all" / split, [np.eye(3)[[letters.index(one) for one in text]] for text in texts])
        lines = "".join(f"x{number}\t{' '.join(text)}\n" for number, text in enumerate(texts))
        (tmp_path / "all" / split / "targets.tsv").write_text(lines)
    words = ["task=seq2seq", "model=seq2seq", "train.epochs=40", "optim.lr=0.02"]
    assert run_on(tmp_path, tmp_path / "all", *words) > 0.9
    texts = sorted((tmp_path / "run" / "samples").iterdir())
    assert " x 3 numbers -> " in texts[-1].read_text().splitlines()[0]
    run = load_run(tmp_path / "run")
    example = run.data["test"].originals[0]
    seen = run.task.attention_map(run.model, run.tokenizer, {"features": example["features"]})
    assert seen.columns == list(map(str, range(len(example["features"]))))
    np.save(tmp_path / "one.npy", np.eye(3)[[0, 2, 1]])
    assert predicted(tmp_path, tmp_path / "one.npy") == [{"target": "a c b"}]


def predicted(folder, source, *words, fails=False):
    done = command("predict", folder / "run", source, *words, cwd=folder, check=False)
    assert bool(done.returncode) == fails and "Traceback" not in done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_files_of_arrays_are_predicted(tmp_path):
    """The arrays that a run was trained on, and files with something wrong."""
    as_archive(tmp_path / "all.npz", *impulses(np.random.default_rng(0), 40))
    train(config_on(tmp_path, tmp_path / "all.npz", "task=classification", "model=classifier", "train.epochs=1"), {})
    arrays = np.load(tmp_path / "all.npz")
    whole = predicted(tmp_path, tmp_path / "all.npz")
    assert len(whole) == 40
    cut = [array[:length] for array, length in zip(arrays["features"], arrays["lengths"], strict=True)]
    np.savez(tmp_path / "each.npz", *cut)
    assert predicted(tmp_path, tmp_path / "each.npz") == whole
    np.save(tmp_path / "x.npy", cut[3])
    assert predicted(tmp_path, tmp_path / "x.npy") == whole[3:4]
    odd = {"a": cut[3], "b": np.ones((2, 5)), "c": np.full((2, 2), np.nan), "d": np.ones(3)}
    odd |= {"e": np.array([[0, 1], [-1e39, 0]]), "f": cut[5]}
    np.savez(tmp_path / "odd.npz", **odd)
    first, *wrong, last = predicted(tmp_path, tmp_path / "odd.npz", fails=True)
    assert [first, last] == [whole[3], whole[5]], "the good ones beside bad ones"
    told = ["features (2, 5), but in train 2 numbers", "odd.npz, c: features hold nan at step 0", "should be numbers"]
    told += ["odd.npz, e: features hold -1e+39 at step 1, number 0, which is too large for float32"]
    for one, message in zip(wrong, told, strict=True):
        assert message in one["error"]
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "each.npz").read_bytes()[:200])
    np.savez(tmp_path / "long.npz", features=np.ones((2, 3, 2)), lengths=[3, 4])
    for name in ("empty.npy", "cut.npz", "none.npy", "long.npz"):
        assert predicted(tmp_path, tmp_path / name, fails=True) == []


def test_vectors_have_no_columns(tmp_path):
    arrays, _, tags = some(30)
    as_archive(tmp_path / "all.npz", arrays, tags=tags)
    words = ["task=tagging", "model=tagger", "task.monitor=accuracy", "train.epochs=1"]
    train(config_on(tmp_path, tmp_path / "all.npz", *words), {})
    assert predicted(tmp_path, tmp_path / "all.npz", "output=columns", fails=True) == []


def lying(shape):
    """A .npy file of 64 bytes that declares more."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(64)


HOSTILE = {
    "declares terabytes": lying((1 << 40, 2)),
    "overflows": lying((1 << 40, 1 << 40)),
    "deep header": b"\x93NUMPY\x01\x00" + (5000).to_bytes(2, "little") + b"(" * 5000,
    "newer": b"\x93NUMPY\x03\x00" + lying((2, 2))[8:],
    "noise": b"\x93NUMPY" + bytes(range(200)),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays_that_lie_about_their_size_are_refused(tmp_path, name, kind):
    path = tmp_path / f"x.{kind}"
    path.write_bytes(HOSTILE[name])
    if kind == "npz":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("features.npy", HOSTILE[name])
    with pytest.raises(ConfigError, match=f"x.{kind} is not a .{kind} file of numbers"):
        list(arrays_of(path))


def test_arrays_that_were_made_to_fill_the_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("seqlm.data.sources.features.FREE", 1000)
    np.savez_compressed(tmp_path / "x.npz", features=np.zeros((1, 1000, 1000)))
    with pytest.raises(ConfigError, match=r"would unpack to 8,000,128 bytes, more than 100 times .* numpy.savez"):
        list(arrays_of(tmp_path / "x.npz"))
    np.savez(tmp_path / "x.npz", features=np.zeros((1, 1000, 1000)))
    assert len(list(arrays_of(tmp_path / "x.npz"))) == 1


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_what_is_no_regular_file_holds_no_arrays(tmp_path, kind):
    os.mkfifo(tmp_path / f"x.{kind}")
    with pytest.raises(ConfigError, match="not a regular file"):
        list(arrays_of(tmp_path / f"x.{kind}"))
