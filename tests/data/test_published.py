"""Corpora that everybody reports on, on small texts of the same form."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from seqlm.data.encode import encode_split, fit_tokenizer
from seqlm.data.sources import published as module
from seqlm.data.sources.enwik8 import Enwik8
from seqlm.data.sources.ptb import PennTreebank
from seqlm.data.sources.ptbchar import PennTreebankChar
from seqlm.data.sources.text8 import Text8
from seqlm.data.sources.wikitext import WikiText2, WikiText103
from seqlm.data.tokenizers.saved import load_tokenizer
from seqlm.data.tokenizers.text import ByteTokenizer, CharTokenizer, WordTokenizer
from seqlm.errors import ConfigError

WIKI = {
    "train": " \n = Title = \n \n the <unk> sat \n",
    "valid": " \n = B = \n",
    "test": " \n the end , \n \n",
}  # 10, 5, 6 tokens with <eos>
WORDS = {"train": " aer bank \n <unk> n.v. \n", "valid": " a b \n", "test": " c \n"}
SPELLED = {split: text.replace(" ", "_") for split, text in WORDS.items()}
SPELLED = {
    split: "".join(" " + " ".join(line.strip("_")) + " \n" for line in text.splitlines())
    for split, text in SPELLED.items()
}
LINES = {"train": "aer bank\n<unk> n.v.\n", "valid": "a b\n", "test": "c\n"}


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """The published sizes, made small, and a cache of the test's own."""
    monkeypatch.setenv("SEQLM_CACHE", str(tmp_path / "cache"))
    for corpus in (WikiText2, WikiText103):
        monkeypatch.setattr(corpus, "TOKENS", {"train": 10, "valid": 5, "test": 6})
    monkeypatch.setattr(PennTreebank, "TOKENS", {"train": 6, "valid": 3, "test": 2})
    monkeypatch.setattr(PennTreebankChar, "CHARACTERS", {split: len(text) for split, text in LINES.items()})
    for corpus, name in ((Text8, "CHARACTERS"), (Enwik8, "BYTES")):
        monkeypatch.setattr(corpus, name, {"train": 18, "valid": 3, "test": 3})


def folder_of(path: Path, texts: dict[str, str], name: str) -> Path:
    path.mkdir(parents=True)
    for split, text in texts.items():
        (path / name.format(split)).write_text(text)
    return path


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def texts_of(corpus):
    return {split: "".join(corpus.read(split)) for split in corpus.splits()}


@pytest.mark.parametrize(("corpus", "name"), [(WikiText2, "wikitext-2"), (WikiText103, "wikitext-103")])
def test_wikitext_from_folders_and_archives(corpus, name, tmp_path):
    archive = zip_of(tmp_path / "w.zip", {f"{name}/wiki.{s}.tokens": t.encode() for s, t in WIKI.items()})
    paths = [
        archive,
        folder_of(tmp_path / "tokens", WIKI, "wiki.{}.tokens"),
        folder_of(tmp_path / "renamed", WIKI, "{}.txt"),
        folder_of(tmp_path / "above" / name, WIKI, "wiki.{}.tokens").parent,
    ]
    for path in paths:
        made = corpus(path=str(path))
        assert texts_of(made) == WIKI
        tokenizer = fit_tokenizer(made, WordTokenizer())
        assert [len(encode_split(made, split, tokenizer).tokens) for split in made.splits()] == [10, 5, 6]
        assert tokenizer.vocabulary.count("<unk>") == 1


def test_another_wikitext_is_refused(tmp_path):
    folder = folder_of(tmp_path / "raw", {**WIKI, "valid": " \n = B = b \n"}, "wiki.{}.tokens")
    with pytest.raises(ConfigError, match=r"wiki.valid.tokens holds 6 tokens, the valid text of the literature 5;"):
        WikiText2(path=str(folder))
    (folder / "wiki.test.tokens").unlink()
    with pytest.raises(ConfigError, match=r"data.path=.*raw has no wiki.test.tokens and no test.txt"):
        WikiText2(path=str(folder))
    with pytest.raises(ConfigError, match=r"data.path=nope does not exist; without data.path it is downloaded"):
        WikiText2(path="nope")
    with pytest.raises(
        ConfigError, match=r"is neither a folder nor an archive \(zip, tar\); needed are wiki.train.tok"
    ):
        WikiText2(path=str(folder / "wiki.train.tokens"))


def test_counts_are_remembered_for_the_same_text_only(tmp_path):
    folder = folder_of(tmp_path / "w", WIKI, "wiki.{}.tokens")
    WikiText2(path=str(folder))
    (folder / "wiki.test.tokens").write_text(" \n the end \n \n")
    with pytest.raises(ConfigError, match="holds 5 tokens"):
        WikiText2(path=str(folder))


def test_both_forms_of_the_penn_treebank_by_character_are_one_text(tmp_path):
    with tarfile.open(tmp_path / "simple.tgz", "w:gz") as archive:
        for form, texts in (("ptb.char.{}.txt", SPELLED), ("ptb.{}.txt", WORDS)):
            for split, text in texts.items():
                info = tarfile.TarInfo(f"./simple-examples/data/{form.format(split)}")
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text.encode()))
    for path, note in [
        (folder_of(tmp_path / "spelled", SPELLED, "ptb.char.{}.txt"), "spelled in ptb.char.train.txt"),
        (folder_of(tmp_path / "words", WORDS, "ptb.{}.txt"), "of the words in ptb.train.txt"),
        (folder_of(tmp_path / "renamed", SPELLED, "{}.txt"), "spelled in train.txt"),
        (folder_of(tmp_path / "examples" / "data", SPELLED, "ptb.char.{}.txt").parent, "spelled in ptb.char.train.txt"),
        (tmp_path / "simple.tgz", "spelled in ptb.char.train.txt"),
    ]:
        corpus = PennTreebankChar(path=str(path))
        assert texts_of(corpus) == LINES and corpus.note() == f"characters {note}"
    tokens = encode_split(corpus, "train", fit_tokenizer(corpus, CharTokenizer()))
    assert (tokens.counts.tokens, tokens.counts.characters) == (20, 20)


@pytest.mark.parametrize("block", [1, 2, 3, 5])
def test_lines_cut_by_blocks_lose_their_outer_spaces_only(tmp_path, monkeypatch, block):
    folder = folder_of(tmp_path / "words", WORDS, "ptb.{}.txt")
    corpus = PennTreebankChar(path=str(folder))
    monkeypatch.setattr("seqlm.data.reading.BLOCK", block)
    assert texts_of(corpus) == LINES


def test_another_penn_treebank_is_refused(tmp_path):
    folder = folder_of(tmp_path / "words", {**WORDS, "test": " c d \n"}, "ptb.{}.txt")
    with pytest.raises(ConfigError, match="ptb.test.txt holds 4 characters, the test text of the literature 2;"):
        PennTreebankChar(path=str(folder))


@pytest.mark.data
def test_the_characters_of_the_penn_treebank(ptb, monkeypatch):
    monkeypatch.undo()  # the true counts
    corpus = PennTreebankChar(path=str(ptb))
    assert len(fit_tokenizer(corpus, CharTokenizer())) == 51  # 50 and <unk>
    for remote, split in zip(corpus.REMOTES, corpus.splits(), strict=True):
        content = (ptb / f"{split}.txt").read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (remote.sha256, remote.size)


def test_text8_is_cut_at_the_published_places(tmp_path):
    text = "the quick brown fox jumps"[:24]
    (tmp_path / "text8").write_text(text)
    archive = zip_of(tmp_path / "text8.zip", {"text8": text.encode()})
    for path in (tmp_path / "text8", tmp_path, archive):
        assert texts_of(Text8(path=str(path))) == {"train": text[:18], "valid": text[18:21], "test": text[21:]}
    (tmp_path / "text8").write_text(text + "!")
    with pytest.raises(ConfigError, match="text8 has 25 bytes, the one of the literature 24"):
        Text8(path=str(tmp_path))


@pytest.mark.parametrize("block", [1, 2, 3, 1 << 20])
def test_tokens_of_enwik8_are_its_bytes(tmp_path, monkeypatch, block):
    """A cut falls inside a character."""
    monkeypatch.setattr("seqlm.data.reading.BLOCK", block)
    data = "<é>abcdefghijkl€é😀z".encode()
    data = data[:24]  # the end, too, is inside a character
    (tmp_path / "enwik8").write_bytes(data)
    corpus = Enwik8(path=str(tmp_path))
    tokenizer = fit_tokenizer(corpus, ByteTokenizer())
    encoded = [encode_split(corpus, split, tokenizer) for split in corpus.splits()]
    assert bytes(np.concatenate([part.tokens for part in encoded]).astype(np.uint8)) == data
    assert [(part.counts.tokens, part.counts.characters) for part in encoded] == [(18, 18), (3, 3), (3, 3)]
    assert texts_of(corpus) == {
        "train": "<é>abcdefghijkl\udce2\udc82",
        "valid": "\udcacé",
        "test": "\udcf0\udc9f\udc98",
    }
    limited = encoded[0].limited(4, tokenizer)
    assert (limited.counts.tokens, limited.counts.characters) == (4, 4)


def test_halves_of_characters_can_be_saved_in_a_vocabulary(tmp_path):
    (tmp_path / "enwik8").write_bytes("<é>abcdefghijkl€é😀z".encode()[:24])
    tokenizer = fit_tokenizer(Enwik8(path=str(tmp_path)), CharTokenizer())
    assert "\udce2" in tokenizer.vocabulary
    tokenizer.save(tmp_path / "t.json")
    assert load_tokenizer(tmp_path / "t.json").vocabulary == tokenizer.vocabulary


# ---- without data.path


@pytest.fixture
def world(monkeypatch, tmp_path):
    """Downloads come from a folder, and are counted."""
    fetched = []
    (tmp_path / "world").mkdir()

    def fetch(remote, target):
        fetched.append(remote.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((tmp_path / "world" / remote.name).read_bytes())

    monkeypatch.setattr(module, "fetch", fetch)
    return fetched


def test_an_archive_of_which_nothing_would_be_unpacked_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "sha256_of", lambda path: pytest.fail("was read"))
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(20 << 30)  # of zeros, which end a tar file; takes no room
    with pytest.raises(ConfigError, match="huge is refused: it has 20,480 MB, and 2,048 MB of one are unpacked"):
        PennTreebank(path=str(tmp_path / "huge"))


def test_an_archive_is_downloaded_and_unpacked_once(world, tmp_path):
    members = {f"wikitext-2/wiki.{split}.tokens": text.encode() for split, text in WIKI.items()}
    archive = zip_of(tmp_path / "world" / "wikitext-2-v1.zip", members)
    assert texts_of(WikiText2()) == texts_of(WikiText2()) == WIKI
    assert world == ["wikitext-2-v1.zip"]
    assert texts_of(WikiText2(path=str(archive))) == WIKI


def test_files_are_downloaded_one_by_one(world, tmp_path):
    for split, text in WORDS.items():
        (tmp_path / "world" / f"ptb.{split}.txt").write_text(text)
    corpus = PennTreebankChar()
    assert texts_of(corpus) == LINES and corpus.note() == "characters of the words in ptb.train.txt"
    assert texts_of(PennTreebank()) == WORDS and world == 2 * ["ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"]
    assert world[:3] == ["ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"]


@pytest.mark.parametrize(("corpus", "name"), [(Text8, "text8"), (Enwik8, "enwik8")])
def test_single_files_are_downloaded_and_unpacked(world, tmp_path, corpus, name):
    zip_of(tmp_path / "world" / f"{name}.zip", {name: b"abcdefghijklmnopqrstuvwx"})
    assert texts_of(corpus()) == {"train": "abcdefghijklmnopqr", "valid": "stu", "test": "vwx"}
    assert world == [f"{name}.zip"]


def test_every_digest_is_a_digest():
    remotes = [*WikiText2.REMOTES, *WikiText103.REMOTES, Text8.REMOTE, Enwik8.REMOTE, *PennTreebankChar.REMOTES]
    assert all(len(bytes.fromhex(remote.sha256)) == 32 for remote in remotes)
    assert len({remote.sha256 for remote in remotes}) == len(remotes)
