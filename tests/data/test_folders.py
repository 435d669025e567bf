"""Folders of texts, and where one text is cut into splits."""

from __future__ import annotations

import os
import re
import tracemalloc

import pytest

from seqlm.data.sources.cuts import NEAR
from seqlm.data.sources.text import TextCorpus
from seqlm.errors import ConfigError
from seqlm.files import MB

FRACTIONS = (0.9, 0.05, 0.05)


def splits(path, **how):
    corpus = TextCorpus(path=str(path), **how)
    return ["".join(corpus.read(split)) for split in corpus.splits()]


def a_run(folder):
    (folder / "checkpoints" / "step-1").mkdir(parents=True)
    for name in ("config.yaml", "run.json", "notes.txt"):
        (folder / name).write_text("{}\n")
    (folder / "checkpoints" / "step-1" / "model.safetensors").write_bytes(b"\x08\0\0\0")


def test_a_folder_that_holds_our_own_output(tmp_path):
    (tmp_path / "a.txt").write_text("one line\n" * 40)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("another line\n" * 40)
    before = TextCorpus(path=str(tmp_path))
    assert before.note() == ""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("hidden\n")
    (tmp_path / ".DS_Store").write_bytes(b"\0\1")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 and more")
    (tmp_path / "sub" / "vectors.bin").write_bytes(b"\0\1\2 abc")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    (tmp_path / "nowhere.txt").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "half.txt").write_text("of no run yet\n")
    a_run(tmp_path / "elsewhere" / "a")
    after = TextCorpus(path=str(tmp_path), outputs=str(tmp_path / "outputs"))
    expected = "skipped in .*: 2 binary, 2 hidden, 1 linked, 2 not regular, 2 of runs"
    assert re.fullmatch(expected, after.note())
    assert [after.fingerprint(split) for split in after.splits()] == [
        before.fingerprint(split) for split in before.splits()
    ]
    a_run(tmp_path / "own" / "b")
    with pytest.raises(ConfigError, match=r"is a folder without any text in it \(skipped in own: 1 of runs\)"):
        TextCorpus(path=str(tmp_path / "own"))
    with pytest.raises(ConfigError, match="photo.jpg is a JPEG file"):  # named, it is not passed over
        TextCorpus(path=str(tmp_path / "photo.jpg"))


def test_a_text_below_run_root_is_read_if_it_is_named(tmp_path):
    (tmp_path / "outputs" / "texts").mkdir(parents=True)
    (tmp_path / "outputs" / "texts" / "a.txt").write_text("one line\n" * 40)
    assert sum(map(len, splits(tmp_path / "outputs" / "texts", outputs=str(tmp_path / "outputs")))) == 360


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_single_line_is_cut_inside(tmp_path, ending):
    (tmp_path / "a.txt").write_text("ACGT" * 1000 + ending, newline="")
    parts = splits(tmp_path / "a.txt")
    assert [len(part) for part in parts][:2] == [round(0.9 * (4000 + len(ending))), 200] and parts[2].endswith(
        "ACGT" + ending[-1:]
    )


def test_a_cut_is_at_a_line_end_wherever_that_leaves_something(tmp_path):
    lines = [f"line {number}\n" for number in range(100)]
    (tmp_path / "a.txt").write_text("".join(lines))
    parts = splits(tmp_path / "a.txt")
    assert all(part.endswith("\n") for part in parts) and "".join(parts) == "".join(lines)
    # One line end, near the last cut only: the first is inside the line, the second there.
    (tmp_path / "b.txt").write_text("x" * 960 + "\n" + "y" * 39)
    assert splits(tmp_path / "b.txt") == ["x" * 900, "x" * 60 + "\n", "y" * 39]
    (tmp_path / "c.txt").write_text("x" * NEAR * 10)
    assert [len(part) / NEAR for part in splits(tmp_path / "c.txt")] == [9, 0.5, 0.5]


@pytest.mark.parametrize("encoding", [
    "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "gb18030", "shift_jis", "euc_jp", "iso2022_jp", "big5",
    "cp037",
])  # fmt: skip
@pytest.mark.parametrize("end", ["", "\n", "\r", "\r\n"])
def test_cuts_fall_between_characters_of_every_encoding(tmp_path, encoding, end):
    text = {"cp037": "Naïve Idee"}.get(encoding, "人工 天" if encoding != "utf-8" else "aé😀") + end
    for count in range(40, 56):
        (tmp_path / "a.txt").write_bytes((text * count).encode(encoding))
        how = {"encoding": encoding} if "utf-" not in encoding or encoding == "utf-16-be" else {}
        parts = splits(tmp_path / "a.txt", fractions=[0.501, 0.499], **how)
        assert "".join(parts) == (text * count).replace("\r\n", "\n").replace("\r", "\n")
        assert all(parts) and (not end or parts[0].endswith("\n"))


def test_a_cut_never_parts_a_carriage_return_from_its_line_feed(tmp_path):
    for count in range(90, 130):
        (tmp_path / "a.txt").write_bytes(b"x" * count + b"\r\n" + b"y" * 100)
        assert splits(tmp_path / "a.txt", fractions=[0.5, 0.5])[1].startswith(("x", "y"))


def test_a_long_line_needs_little_memory(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"ACGT" * (5 * MB))
    tracemalloc.start()
    corpus = TextCorpus(path=str(tmp_path / "a.txt"))
    assert sum(len(block) for split in corpus.splits() for block in corpus.read(split)) == 20 * MB
    assert tracemalloc.get_traced_memory()[1] < 8 * MB
    tracemalloc.stop()
