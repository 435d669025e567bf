"""Other files for a finished run: eval and predict read all of one, in the format of the run's data or another."""

from __future__ import annotations

import json
import re
import shutil

import pytest

import seqlm as package

from ..conftest import TINY, seqlm

SENTENCES = [[("the", "O"), ("old", "O"), ("Rhine", "B-LOC")], [("Ann", "B-PER"), ("sings", "O")]]
SHORT = ["train.steps=2", "train.batch_size=2", "train.eval_batch_size=2", "model.hidden_size=4", "sample.tokens=0",
         "threads=1", "train.eval_every=2"]  # fmt: skip


def columns(sentences):
    return "".join("".join(f"{word} x {tag}\n" for word, tag in sentence) + "\n" for sentence in sentences)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Runs of a text, of columns, of labelled texts and of pairs, whose training files are gone."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "old.txt").write_text("abc abd\n" * 400)
    seqlm("train", *TINY[3:], *SHORT, "data=text", "data.path=old.txt", "run.name=text", cwd=folder)
    (folder / "old.conll").write_text(columns(SENTENCES * 3))
    words = ["task=tagging", "model=tagger", "data=conll", "data.train=old.conll", "data.valid=old.conll"]
    seqlm("train", *words, *SHORT, "run.name=conll", cwd=folder)
    (folder / "old.tsv").write_text("".join(f"{label}\tsome {label} text {n}\n" for n in range(40) for label in "ab"))
    words = ["task=classification", "model=classifier", "data=labelled", "data.path=old.tsv"]
    seqlm("train", *words, *SHORT, "run.name=labelled", cwd=folder)
    words = ["task=seq2seq", "model=seq2seq", "data=parallel", "data.train=old.tsv", "data.valid=old.tsv"]
    seqlm("train", *words, *SHORT, "run.name=pairs", cwd=folder)
    for file in folder.glob("old.*"):
        file.unlink()
    return folder


def scored(home, run, file, *words):
    before = sorted(home.rglob("*"))
    found = json.loads(seqlm("eval", f"outputs/{run}", f"file={file}", "--json", *words, cwd=home).stdout)
    assert found["file"] == str(file) and sorted(home.rglob("*")) == before, "a score of another file is not kept"
    return found


def test_a_text_is_scored_to_its_end_without_the_files_of_training(home, tmp_path):
    (tmp_path / "new ~&.txt").write_text("abd abc\n" * 7)
    assert scored(home, "text", tmp_path / "new ~&.txt")["tokens"] == 56
    table = seqlm("eval", "outputs/text", f"file={tmp_path / 'new ~&.txt'}", cwd=home).stdout
    assert "new ~&.txt" in table and "tokens               56" in table
    run = package.load_run(home / "outputs" / "text")
    assert package.evaluate(run, file=tmp_path / "new ~&.txt")["loss"] > 0


def test_examples_are_scored_in_the_format_of_the_data(home, tmp_path):
    (tmp_path / "new").write_text(columns(SENTENCES))
    assert scored(home, "conll", tmp_path / "new")["tokens"] == 5
    record = [{"words": [word for word, _ in one], "tags": [tag for _, tag in one]} for one in SENTENCES]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(one) + "\n" for one in record))
    assert scored(home, "conll", tmp_path / "new.jsonl")["examples"] == 2
    (tmp_path / "new.tsv").write_text("a\tsome text\nb\tsome other text\n" * 4)
    assert scored(home, "labelled", tmp_path / "new.tsv")["examples"] == 8
    assert scored(home, "pairs", tmp_path / "new.tsv")["examples"] == 8
    (tmp_path / "new.jsonl").write_text('{"label": "a", "text": "some text"}\n' * 3)
    assert scored(home, "labelled", tmp_path / "new.jsonl")["examples"] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("eval outputs/text file=none.txt", "file=none.txt does not exist"),
        ("eval outputs/text file=", "file= is empty"),
        ("eval outputs/text file=new.txt split=test", "file=new.txt is scored as a whole; leave split=test out"),
        ("eval outputs/conll file=new.txt", "new.txt, line"),
        ("eval outputs/labelled file=new.jsonl", "there is no key data.text=text"),
        ("predict outputs/labelled new.col", "new.col looks like columns.*format=conll reads them, format=text"),
        ("predict outputs/conll - format=conll", "format=conll needs a file"),
        ("predict outputs/conll new.txt format=columns", "is now output=columns"),
    ],
)
def test_what_is_no_such_file_is_refused(home, tmp_path, words, message):
    shutil.copytree(home / "outputs", tmp_path / "outputs")
    (tmp_path / "new.txt").write_text("a b c\nd e\n")
    (tmp_path / "new.jsonl").write_text('{"words": ["a"]}\n')
    (tmp_path / "new.col").write_text(columns(SENTENCES * 3))
    failed = seqlm(*words.split(), cwd=tmp_path, check=False)
    assert failed.returncode == 2 and "Traceback" not in failed.stderr, failed.stderr
    assert re.search(message, failed.stderr), failed.stderr


def test_other_data_is_pointed_to_file(home, tmp_path):
    (tmp_path / "new.txt").write_text("abd abc\n" * 400)
    done = seqlm("eval", "outputs/text", f"data.path={tmp_path / 'new.txt'}", cwd=home)
    assert f"file={tmp_path / 'new.txt'} scores all of it" in done.stderr


def predicted(home, run, file, *words):
    return [json.loads(line) for line in seqlm("predict", f"outputs/{run}", file, *words, cwd=home).stdout.splitlines()]


def test_columns_are_read_as_columns_with_their_tags_beside(home, tmp_path):
    (tmp_path / "new").write_text(columns(SENTENCES * 2))
    answers = predicted(home, "conll", tmp_path / "new")
    assert [one["words"] for one in answers] == [["the", "old", "Rhine"], ["Ann", "sings"]] * 2
    assert answers[0]["gold"] == ["O", "O", "B-LOC"] and len(answers[0]["tags"]) == 3
    rows = seqlm("predict", "outputs/conll", tmp_path / "new", "output=columns", cwd=home).stdout.splitlines()
    assert rows[2].split("\t")[:2] == ["Rhine", "B-LOC"] and rows[3] == "" and len(rows[2].split("\t")) == 3
    (tmp_path / "words.conll").write_text("the\nRhine\n\nAnn\n")
    answers = predicted(home, "conll", tmp_path / "words.conll")
    assert [one["words"] for one in answers] == [["the", "Rhine"], ["Ann"]] and "gold" not in answers[0]
    assert predicted(home, "conll", tmp_path / "new", "format=text")[0]["words"] == ["the", "x", "O"]
    assert predicted(home, "labelled", tmp_path / "new", "format=conll")[1]["words"] == ["Ann", "sings"]


def test_short_texts_are_no_columns(home, tmp_path):
    (tmp_path / "texts").write_bytes(b"the Rhine\n\nAnn sings\nto \xff\nold Ann\n")
    for run in ("conll", "labelled"):
        failed = seqlm("predict", f"outputs/{run}", tmp_path / "texts", cwd=home, check=False)
        assert failed.returncode == 2 and len(failed.stdout.splitlines()) == 5, failed.stderr


def test_tables_and_objects_are_read_as_the_data_was(home, tmp_path):
    (tmp_path / "new.tsv").write_text("a\tsome text\nb\tsome other text\n")
    answers = predicted(home, "labelled", tmp_path / "new.tsv")
    assert [(one["words"], one["gold"]) for one in answers] == [("some text", "a"), ("some other text", "b")]
    (tmp_path / "new.jsonl").write_text('{"text": "some text", "label": "b", "id": 3}\n')
    (answer,) = predicted(home, "labelled", tmp_path / "new.jsonl")
    assert (answer["gold"], answer["id"]) == ("b", 3) and answer["label"] in "ab"


def test_a_brace_is_a_character(home, tmp_path):
    (tmp_path / "code.txt").write_text("{ return 3; }\nplain\n")
    failed = seqlm("predict", "outputs/labelled", tmp_path / "code.txt", cwd=home, check=False)
    assert failed.returncode == 2 and "format=text takes each line for a text" in failed.stdout
    answers = predicted(home, "labelled", tmp_path / "code.txt", "format=text")
    assert [one["words"] for one in answers] == ["{ return 3; }", "plain"] and not any(
        "error" in one for one in answers
    )
