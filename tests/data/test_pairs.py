"""Pairs whose answer is known, and pairs of files."""

from __future__ import annotations

from datetime import date

import pytest

from seqlm.data.sources.dates import FORMS, Dates, spelled
from seqlm.data.sources.generated import Arithmetic, Copy, Reverse
from seqlm.data.sources.parallel import Parallel
from seqlm.errors import ConfigError

SIZES = (300, 40, 40)
SOURCES = {
    "copy": lambda **how: Copy(**{"max_length": 8, "sizes": SIZES, **how}),
    "reverse": lambda **how: Reverse(**{"max_length": 8, "sizes": SIZES, **how}),
    "arithmetic": lambda **how: Arithmetic(**{"operations": ["+", "-", "*"], "sizes": SIZES, **how}),
    "dates": lambda **how: Dates(**{"sizes": SIZES, **how}),
}
ANSWERS = {
    "copy": lambda text: text,
    "reverse": lambda text: text[::-1],
    "arithmetic": lambda text: str(eval(text)),
}


def pairs(source, split):
    return [(example["words"], example["target"]) for example in source.examples(split)]


@pytest.mark.parametrize("name", SOURCES)
def test_splits_are_as_large_as_asked_different_and_repeat(name):
    source, again, other = SOURCES[name](), SOURCES[name](), SOURCES[name](seed=1)
    found = {split: pairs(source, split) for split in source.splits()}
    assert [len(found[split]) for split in ("train", "valid", "test")] == [*SIZES]
    assert len(dict(sum(found.values(), []))) == sum(SIZES)  # every source once, in one split
    assert all(pairs(again, split) == found[split] != pairs(other, split) for split in found)
    assert source.fingerprint("train") == again.fingerprint("train") != other.fingerprint("train")
    larger = SOURCES[name](sizes=(400, 40, 40))
    assert pairs(larger, "train")[:300] == found["train"] and pairs(larger, "test") == found["test"]


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_are_right(name):
    assert all(ANSWERS[name](text) == target for text, target in pairs(SOURCES[name](), "train"))


def test_a_group_is_in_one_split():
    days = {split: {target for _, target in pairs(Dates(sizes=(3000, 300, 300)), split)} for split in ("train", "test")}
    assert not days["train"] & days["test"] and len(days["test"]) > 250
    sums = Arithmetic(digits=1, sizes=(40, 8, 8))
    unordered = {split: {frozenset(text.split("+")) for text, _ in pairs(sums, split)} for split in sums.splits()}
    assert not unordered["train"] & (unordered["valid"] | unordered["test"])


def test_lengths():
    source = Copy(min_length=3, max_length=7, unseen_lengths=[4, 6], sizes=(400, 100, 100))
    lengths = {split: {len(text.split()) for text, _ in pairs(source, split)} for split in source.splits()}
    assert lengths == {"train": {3, 5, 7}, "valid": {3, 4, 5, 6, 7}, "test": {3, 4, 5, 6, 7}}
    assert {len(text.split()) for text, _ in pairs(Copy(symbols=2, max_length=9, sizes=(99, 9, 9)), "train")} > {5, 9}
    assert {letter for text, _ in pairs(Copy(symbols=3), "test") for letter in text.split()} == set("abc")


def test_every_form_of_a_date():
    day = date(1999, 2, 3)
    expected = """3 February 1999|03 February 1999|February 3, 1999|February 3 1999|Feb 3, 1999|Feb. 3, 1999|3 Feb 1999
    03-Feb-1999|3. February 1999|3rd February 1999|February 3rd, 1999|the 3rd of February, 1999|3rd of February 1999
    Wednesday, 3 February 1999|Wednesday, February 3, 1999|Wed 3 Feb 1999|Wed, 03 Feb 1999|Wednesday 3.2.1999|3/2/1999
    03/02/1999|3.2.1999|03.02.1999|03-02-1999|3 II 1999|1999/02/03|1999.2.3|19990203|1999 February 3|1999-Feb-03
    the third of February 1999|February the third, 1999|3/2/99|03.02.99|3 Feb '99|Feb 3 '99|03-Feb-99
    February 3rd, '99"""
    expected = [text.strip() for line in expected.splitlines() for text in line.split("|")]
    assert [spelled(day, form) for form in FORMS] == expected
    endings = [spelled(date(2000, 1, d), "{d}{th}") for d in range(1, 32)]
    assert {1, 21, 31} == {int(e[:-2]) for e in endings if e.endswith("st")} and endings[11:13] == ["12th", "13th"]
    words = [spelled(date(2000, 1, d), "{ordinal}") for d in range(1, 32)]
    assert (
        len(set(words)) == 31 and words[11] == "twelfth" and words[21] == "twenty-second" and words[30][-5:] == "first"
    )


def test_a_text_means_one_day_and_short_years_are_near():
    source = Dates(first=1960, last=2080, sizes=(5000, 10, 10))
    known = {}
    for text, target in pairs(source, "train"):
        assert known.setdefault(text.lower(), target) == target
        assert 1969 <= int(target[:4]) <= 2068 or target[:4] in text, text
    assert {text == text.lower() for text in known} == {True} and any("'" in text for text in known)
    shown = {text for text, _ in pairs(source, "train")}
    assert any(text.isupper() for text in shown) and any(text.islower() for text in shown)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Copy(symbols=1), "data.symbols=1 must be from 2 to 52"),
    (lambda: Copy(min_length=5, max_length=4), "data.min_length=5 must be from 1 to data.max_length=4"),
    (lambda: Copy(min_length=0), "data.min_length=0 must be from 1"),
    (lambda: Copy(max_length=3, unseen_lengths=[4]), r"data.unseen_lengths=\[4\] must be some of the lengths 1 to 3"),
    (lambda: Copy(max_length=2, unseen_lengths=[1, 2]), "data.unseen_lengths=.*not all"),
    (lambda: Copy(sizes=[1, 2]), r"data.sizes=\[1, 2\] must be three numbers"),
    (lambda: Copy(sizes=[1, 2, 0]), "must be three numbers of at least 1: train, valid, test"),
    (lambda: list(Copy(symbols=2, max_length=3).examples("train")), "train should have 10,000 .* than 1?[0-9] were"),
    (lambda: Arithmetic(digits=0), "data.digits=0 must be from 1 to 18"),
    (lambda: Arithmetic(operations=["/"]), r"data.operations=\['/'\] must be some of"),
    (lambda: Dates(first=2000, last=1999), "data.first=2000 and data.last=1999"),
])  # fmt: skip
def test_impossible_sources_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


# ---- files


def written(folder, **files):
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return str(folder)


def test_two_files_for_each_split(tmp_path):
    # Line separators of Unicode do not end a line: they would shift one side against the other.
    path = written(tmp_path, train_de="ein Haus\r\nzwei\u2028Hunde\n", train_en="a house\ntwo dogs", valid_de="ja\n",
                   valid_en="yes\n")  # fmt: skip
    source = Parallel(path=path, source="de", target="en")
    assert source.splits() == ("train", "valid")
    assert pairs(source, "train") == [("ein Haus", "a house"), ("zwei\u2028Hunde", "two dogs")]
    assert pairs(Parallel(path=path, source="en", target="de"), "valid") == [("yes", "ja")]


def test_one_file_with_tabs(tmp_path):
    path = written(tmp_path, train_tsv="a b\tx\nc\ty z\tby somebody\n", valid_tsv="\ufeffa\tx\n", test_tsv="q\tr\n")
    source = Parallel(path=path)
    assert source.splits() == ("train", "valid", "test")
    assert pairs(source, "train") == [("a b", "x"), ("c", "y z")] and pairs(source, "valid") == [("a", "x")]
    apart = Parallel(train=f"{path}/train.tsv", valid=f"{path}/test.tsv")
    assert apart.splits() == ("train", "valid") and pairs(apart, "valid") == [("q", "r")]
    assert apart.fingerprint("train") == source.fingerprint("train")


def test_files_that_do_not_fit_are_named(tmp_path):
    path = written(tmp_path, train_de="eins\nzwei\n", train_en="one\n", valid_de="eins\n\ndrei\n", valid_en="1\n2\n3\n",
                   train_tsv="a\tb\nc d\n", valid_tsv="a\t \n")  # fmt: skip
    two, one = Parallel(path=path, source="de", target="en"), Parallel(path=path)
    for source, split, message in [
        (two, "train", r"lines do not correspond: .*train.de 2 and .*train.en 1 lines"),
        (
            two,
            "valid",
            r"valid.de: 1 of its examples has an empty part; data.skip_empty=true .*\n  line 2: the source is",
        ),
        (one, "train", r"train.tsv, line 2: there is no tab"),
        (one, "valid", r"valid.tsv: 1 of .*\n  line 1: the target is empty"),
    ]:
        with pytest.raises(ConfigError, match=message):
            pairs(source, split)
    skipping = Parallel(path=path, source="de", target="en", skip_empty=True)
    assert pairs(skipping, "valid") == [("eins", "1"), ("drei", "3")]
    assert skipping.note() == "left out, for a part of them is empty: 1 in valid.de"
    (tmp_path / "train.tsv").write_text("a\tb\n\nc\td\n \t \n")
    assert pairs(Parallel(path=path, skip_empty=True), "train") == [("a", "b"), ("c", "d")]
    (tmp_path / "train.tsv").write_bytes(b"gr\xfc\xdfe\tx\n")
    with pytest.raises(ConfigError, match=r"train.tsv, line 1: byte 0xfc is not UTF-8 .*at byte 2\)"):
        pairs(one, "train")


@pytest.mark.parametrize(("how", "message"), [
    ({}, "give data.path, a folder, or data.train and data.valid"),
    ({"path": ".", "train": "x"}, "one or the other"),
    ({"path": ".", "source": "de"}, "data.source and data.target are endings"),
    ({"source": "de", "target": "en", "train": "x", "valid": "y"}, "data.source=de needs data.path"),
    ({"train": "pyproject.toml"}, "data.valid is not set"),
    ({"path": "nowhere"}, "data.path=nowhere/train.tsv does not exist"),
    ({"path": "nowhere", "source": "de", "target": "en"}, "data.path=nowhere/train.de does not exist"),
    ({"train": "nowhere", "valid": "x"}, "data.train=nowhere does not exist"),
])  # fmt: skip
def test_paths_that_do_not_fit_are_refused(how, message, monkeypatch):
    from ..conftest import REPOSITORY

    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(ConfigError, match=message):
        Parallel(**how)
