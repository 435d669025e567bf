"""One reader of text files: encodings, marks, line ends, what is no text, and bounds; the same in every source."""

from __future__ import annotations

import codecs
import os
from dataclasses import replace

import pytest

from seqlm.config.comparison import comparable_config
from seqlm.config.migrate import migrate
from seqlm.config.values import with_absolute_paths
from seqlm.data import reading
from seqlm.data.reading import TextReader, split_lines, whole_file
from seqlm.data.sources.conll import Conll
from seqlm.data.sources.features import Features
from seqlm.data.sources.iob import Iob
from seqlm.data.sources.labelled import Labelled
from seqlm.data.sources.parallel import Parallel
from seqlm.data.sources.text import TextCorpus
from seqlm.errors import ConfigError

from ..conftest import compose

TEXT = "the cat  sat\n\non the mat — naïve 😀\nNEL\x85 LS\u2028 PS\u2029 FF\x0c stay\n"
BLOCKS = [1, 2, 3, 4, 5, 7, 1 << 20]


def text_of(path, *how):
    return "".join(TextReader(*how).blocks(whole_file(path, "data.path")))


@pytest.fixture(params=BLOCKS)
def block(request, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK", request.param)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "gb18030"])
def test_every_encoding_and_line_end_gives_the_same_text(tmp_path, block, encoding, end):
    path = tmp_path / "a.txt"
    data = TEXT.replace("\n", end).encode(encoding)
    path.write_bytes(data if encoding != "utf-16-be" else codecs.BOM_UTF16_BE + data)
    assert text_of(path, "gb18030" if encoding == "gb18030" else "auto") == TEXT
    assert text_of(path, encoding.removesuffix("-sig")) == TEXT
    if end == "\r\n":
        path.write_bytes((TEXT + "x\ry\n\r").replace("\n", end).encode(encoding))  # mixed, and the last \r waits
        assert text_of(path, encoding) == TEXT + "x\ny\n\n"


def test_line_ends_that_are_kept(tmp_path, block):
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\rthree\n")
    assert (
        text_of(tmp_path / "a.txt", "auto", "keep") == text_of(tmp_path / "a.txt", None, None) == "one\r\ntwo\rthree\n"
    )


def test_what_was_changed_is_said(tmp_path):
    reader = TextReader()
    for name, data in [("a.txt", b"a\n"), ("b.txt", b"b\r\n"), ("c.txt", b"c\r"), ("d.txt", "d\n".encode("utf-16"))]:
        (tmp_path / name).write_bytes(data)
        list(reader.blocks(whole_file(tmp_path / name, "data.path")))
        list(reader.blocks(whole_file(tmp_path / name, "data.path")))
        if name == "a.txt":
            assert reader.note() == ""
    assert reader.note() == (
        "b.txt and 1 more: carriage returns are read as line ends (data.newlines=keep leaves them); "
        "d.txt: read as utf-16-le, as its mark says"
    )


@pytest.mark.parametrize(("bad", "offset"), [(b"\xff", 7), (b"\xe9t", 7), (b"\xc3", 7), (b"\xed\xa0\x80", 7)])
def test_the_byte_that_is_not_utf8_is_named(tmp_path, block, bad, offset):
    (tmp_path / "a.txt").write_bytes("aé\nbcd".encode() + bad)
    with pytest.raises(
        ConfigError, match=rf"a.txt, line 2: byte 0x{bad[0]:02x} is not UTF-8 .*at byte {offset}\).*cp1252"
    ):
        text_of(tmp_path / "a.txt")


@pytest.mark.parametrize(("data", "message"), [
    ("ab\n".encode("utf-16-le") * 9, "looks like UTF-16: data.encoding=utf-16-le"),
    ("ab\n".encode("utf-16-be") * 9, "looks like UTF-16: data.encoding=utf-16-be"),
    ("ab\n".encode("utf-32-le") * 9, "looks like UTF-32: data.encoding=utf-32-le"),
    (b"a text\n" * 99 + b"\0", "NUL bytes.*to read it all the same: data.encoding=utf-8"),
    (b"a text\n" * 99_999 + b"\0", "NUL bytes.*to read it all the same: data.encoding=utf-8"),
    (b"\x1f\x8b\x08 packed", "is a gzip file, not a text; unpack"),
    (b"%PDF-1.4 abc", "is a PDF file"),
])  # fmt: skip
def test_what_is_no_text_is_told_with_what_to_type(tmp_path, data, message):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        text_of(tmp_path / "a.txt")
    if "data.encoding=" in message:
        assert text_of(tmp_path / "a.txt", message.split("data.encoding=")[1].split()[0])


def test_encodings_that_cannot_be(tmp_path):
    for name in ("latin-99", "base64", "rot13", "undefined"):
        with pytest.raises(ValueError, match=f"encoding={name} is no text encoding that Python knows; allowed: auto"):
            TextReader(name)
    (tmp_path / "a.txt").write_bytes("a".encode("utf-16"))
    for name in ("latin-1", "utf-16-be", "utf-8"):
        with pytest.raises(ConfigError, match=f"the mark of utf-16-le, but data.encoding={name}; use data.en"):
            text_of(tmp_path / "a.txt", name)


def test_lines_have_a_bound(monkeypatch):
    monkeypatch.setattr(reading, "LONGEST_LINE", 5)
    assert list(split_lines(["ab", "cd\n\nx", "", "y"], "a.txt")) == ["abcd", "", "xy"]
    assert list(split_lines(["\n", "a\n"], "a.txt")) == ["", "a"] and list(split_lines([], "a.txt")) == []
    with pytest.raises(ConfigError, match="a.txt, line 3: longer than 5 characters"):
        list(split_lines(["ab\n\ncd", "efgh"], "a.txt"))


# ---- every source


def labelled(folder, write, **how):
    write(folder / "train.tsv", "gut\tzwei Wörter\nschlecht\tnaïve Idee\n")
    write(folder / "valid.tsv", "gut\tx\n")
    return Labelled(path=str(folder), **how)


def conll(folder, write, **how):
    write(folder / "train.txt", "Köln B-LOC\nist O\n\nda O\n")
    write(folder / "valid.txt", "Köln B-LOC\n")
    return Conll(path=str(folder), **how)


def iob(folder, write, **how):
    for split in ("train", "valid"):
        (folder / split).mkdir()
        write(folder / split / "seq.in", "Köln ist\nda\n")
        write(folder / split / "seq.out", "B-LOC O\nO\n")
    return Iob(path=str(folder), **how)


def parallel(folder, write, **how):
    for split in ("train", "valid"):
        write(folder / f"{split}.de", "schöner Tag\nja\n")
        write(folder / f"{split}.fr", "belle journée\noui\n")
    return Parallel(path=str(folder), source="de", target="fr", **how)


def text(folder, write, **how):
    write(folder / "train.txt", "schöner Tag\nja\n")
    write(folder / "valid.txt", "schöner Tag\n")
    return TextCorpus(path=str(folder), **how)


def content(source):
    return list(source.examples("train")) if hasattr(source, "examples") else "".join(source.read("train"))


SOURCES = [labelled, conll, iob, parallel, text]


@pytest.mark.parametrize("make", SOURCES)
def test_every_source_reads_every_encoding(tmp_path, make):
    found = []
    for name, encoding, end, how in [
        ("plain", "utf-8", "\n", {}),
        ("mark", "utf-16", "\r\n", {}),
        ("mac", "utf-8-sig", "\r", {}),
        ("west", "cp1252", "\n", {"encoding": "cp1252"}),
        ("kept", "utf-8", "\n", {"newlines": "keep"}),
    ]:
        (tmp_path / name).mkdir()

        def write(path, text, end=end, encoding=encoding):
            path.write_bytes(text.replace("\n", end).encode(encoding))

        source = make(tmp_path / name, write, **how)
        found.append((source.fingerprint("train"), content(source)))
        assert ("carriage returns" in source.note()) == (end != "\n")
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.parametrize("kind", ["device", "pipe"])
def test_no_source_reads_what_never_ends(tmp_path, make, kind):
    def endless(path, _):
        path.unlink(missing_ok=True)
        path.symlink_to("/dev/zero") if kind == "device" else os.mkfifo(path)

    with pytest.raises(ConfigError, match="not a regular file|is not a file|has no|without any text"):
        content(make(tmp_path, endless))


def test_tables_beside_arrays_are_files(tmp_path):
    (tmp_path / "labels.tsv").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="needs labels.tsv"):
        list(Features(path=str(tmp_path)).read(tmp_path))


# ---- older runs


def test_runs_of_the_first_version_read_as_they_did(tmp_path):
    (tmp_path / "train.txt").write_bytes(b"one\r\ntwo\0\n")
    (tmp_path / "valid.txt").write_bytes(b"one\r\n")
    node = {"_target_": "seqlm.data.sources.text.TextCorpus", "path": str(tmp_path)}
    today = migrate({"data": node})
    assert today == migrate(today) and (today["data"]["encoding"], today["data"]["newlines"]) == (None, None)
    whole = with_absolute_paths(replace(compose("data=text"), data=node)).data  # a new run keeps how it reads
    assert migrate({"data": whole})["data"] == {**node, "encoding": "auto", "newlines": "universal"}
    arguments = {key: value for key, value in today["data"].items() if key != "_target_"}
    assert content(TextCorpus(**arguments)) == "one\r\ntwo\0\n"
    new = {"data": {**node, "encoding": "auto", "newlines": "universal"}}
    assert comparable_config(today) == comparable_config(new) == comparable_config({"data": node})
    assert comparable_config({"data": {**node, "newlines": "keep"}}) != comparable_config(new)
