"""Texts with a label each: every form gives the same examples, and what is wrong is told with its line."""

from __future__ import annotations

import hashlib
import json

import pytest

from seqlm.config.migrate import migrate
from seqlm.data.sources.labelled import Labelled
from seqlm.errors import ConfigError

ROWS = [("pos", "a fine day"), ("neg", "not at all"), ("pos", "so so, yet fine"), ("neg", "never again")]


def tsv(path, rows=ROWS):
    path.write_text("".join(f"{label}\t{text}\n" for label, text in rows))


def named(path, rows=ROWS):
    path.write_text("id\ttext\tlabel\r\n" + "".join(f"7\t{text}\t{label}\r\n" for label, text in rows))


def jsonl(path, rows=ROWS):
    path.write_text("".join(json.dumps({"label": label, "text": text, "id": 7}) + "\n" for label, text in rows))


def folders(path, rows=ROWS):
    for number, (label, text) in enumerate(rows):
        (path / label).mkdir(parents=True, exist_ok=True)
        (path / label / f"{number}.txt").write_text(text + "\n")
    (path / ".hidden").mkdir()
    (path / "README.txt").write_text("about\n")


def files(path, rows=ROWS):
    path.mkdir()
    for label in {label for label, _ in rows}:
        (path / f"{label}.txt").write_text("\n\n".join(text for other, text in rows if other == label))
    (path / "LICENSE").write_text("free\n")


FORMS = {"a.tsv": tsv, "b.txt": tsv, "c.jsonl": jsonl, "d": folders, "e": files}


def read(corpus, split):
    return [(example["label"], example["words"]) for example in corpus.examples(split)]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same(tmp_path, form):
    for split in ("train", "valid", "test"):
        FORMS[form](tmp_path / form.replace(form[0], split, 1))
    corpus = Labelled(path=str(tmp_path))
    assert corpus.splits() == ("train", "valid", "test")
    for split in corpus.splits():
        found = read(corpus, split)
        assert (found if "." in form else sorted(found)) == (ROWS if "." in form else sorted(ROWS))


def test_columns_by_name_and_number(tmp_path):
    for split in ("train", "valid"):
        named(tmp_path / f"{split}.tsv")
    assert Labelled(path=str(tmp_path)).splits() == ("train", "valid")
    for columns in ({"text": "text", "label": "label"}, {"text": "text"}, {"label": "label"}):
        assert read(Labelled(path=str(tmp_path), **columns), "train") == ROWS
    assert read(Labelled(path=str(tmp_path), text=1, label=2), "train") == ROWS
    for header in (False, None):
        assert read(Labelled(path=str(tmp_path), text=1, label=2, header=header), "train") == [("label", "text"), *ROWS]


def test_keys_and_kinds_in_json(tmp_path):
    lines = [{"s": ["two words", "here"], "y": 3}, {"s": "plain", "y": True}, {"s": "line\u2028tab\x0c.", "y": "x "}]
    for split in ("train", "valid"):
        (tmp_path / f"{split}.jsonl").write_text("\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    found = read(Labelled(path=str(tmp_path), text="s", label="y"), "train")
    assert found == [("3", ["two words", "here"]), ("true", "plain"), ("x", "line\u2028tab\x0c.")]


def test_one_source_is_shared_out_by_text(tmp_path):
    rows = [("ab"[number % 2], f"text {number}") for number in range(1000)]
    tsv(tmp_path / "all.tsv", rows)
    corpus = Labelled(path=str(tmp_path / "all.tsv"), fractions=[0.7, 0.2, 0.1])
    parts = {split: read(corpus, split) for split in corpus.splits()}
    assert sorted(sum(parts.values(), [])) == sorted(rows)
    assert [len(part) for part in parts.values()] == pytest.approx([700, 200, 100], abs=45)
    first = int(hashlib.sha256(b"text 0").hexdigest()[:16], 16) / 2**64
    assert ("a", "text 0") in parts["train" if first < 0.7 else "valid" if first < 0.9 else "test"]
    # Others may come, twice even and under another label: each text stays where it was, with its like.
    tsv(tmp_path / "more.tsv", [("c", f"text {number}") for number in range(-50, 50)] + rows)
    more = Labelled(path=str(tmp_path / "more.tsv"), fractions=[0.7, 0.2, 0.1])
    seen = [{text for _, text in read(more, split)} for split in parts]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 1050
    assert all({text for _, text in part} <= texts for part, texts in zip(parts.values(), seen, strict=True))
    assert Labelled(path=str(tmp_path / "all.tsv"), fractions=[0.9, 0.1]).splits() == ("train", "valid")


def test_a_fingerprint_knows_every_label_and_text(tmp_path):
    tsv(tmp_path / "train.tsv")
    tsv(tmp_path / "valid.tsv")
    seen = {Labelled(path=str(tmp_path)).fingerprint("train")}
    for changed in ([("neg", ROWS[0][1]), *ROWS[1:]], [("pos", "a fine dax"), *ROWS[1:]], ROWS[:3], ROWS):
        tsv(tmp_path / "train.tsv", changed)
        seen.add(Labelled(path=str(tmp_path)).fingerprint("train"))
    assert len(seen) == 4


WRONG = [
    ("a\tb\n\nno tabulator\n", {}, "line 3: 1 columns, but 2 in the first line"),
    ("a\tb\tc\td\n", {"label": 4}, r"line 1: 4 columns.*no number 4 \(data.label"),
    ("a b\n", {}, r"line 1: 1 columns, with tabulators between; there is no number 1 \(data.text"),
    ("a\tb\n", {"text": "sentence"}, "line 1: there is no column data.label=label, but a, b"),
    ("a\tb\n \tc\n", {}, "line 2: the label is empty"),
    ("a\tb\nc\t \n", {}, "line 2: the text is empty"),
    (
        "a\tb\n",
        {"text": "b", "label": 0},
        "data.text=b and data.label=0 must both be numbers of columns, or both names",
    ),
]


@pytest.mark.parametrize(("content", "options", "message"), WRONG)
def test_what_is_wrong_in_a_table(tmp_path, content, options, message):
    tsv(tmp_path / "valid.tsv")
    (tmp_path / "train.tsv").write_text(content)
    with pytest.raises(ConfigError, match=message):
        read(Labelled(path=str(tmp_path), **options), "train")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'text': 1}", "line 2: not JSON"),
        ("[1, 2]", "line 2: there is no key data.text=text, for this is no object"),
        ('{"text": "a", "class": "b"}', "line 2: there is no key data.label=label, but text, class"),
        (
            '{"text": 3, "label": "b"}',
            "line 2: text must be a text or a list of words, label a text, a number or numbers",
        ),
        ('{"text": "a", "label": null}', "line 2: text must be a text"),
        ('{"text": [], "label": "b"}', "line 2: the text is empty"),
    ],
)
def test_what_is_wrong_in_json(tmp_path, line, message):
    for split in ("train", "valid"):
        (tmp_path / f"{split}.jsonl").write_text('{"text": "a", "label": "b"}\n' + line)
    with pytest.raises(ConfigError, match=message):
        read(Labelled(path=str(tmp_path)), "train")


def test_what_is_wrong_with_a_path(tmp_path):
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        Labelled(path=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="must be 2 or 3 positive numbers of sum 1"):
        Labelled(path=str(tmp_path), fractions=[0.5, 0.2])
    (tmp_path / "README.md").write_text("about")
    with pytest.raises(ConfigError, match="neither a folder nor a .txt file for each label"):
        read(Labelled(path=str(tmp_path)), "train")
    with pytest.raises(ConfigError, match=r"README.md should be a folder, or end in .tsv, .txt, .csv, .jsonl"):
        read(Labelled(path=str(tmp_path / "README.md")), "train")
    tsv(tmp_path / "train.tsv")
    with pytest.raises(ConfigError, match="has train.tsv, but no valid"):
        Labelled(path=str(tmp_path))
    tsv(tmp_path / "train.txt")
    with pytest.raises(ConfigError, match=r"has train twice: train.tsv and train.txt"):
        Labelled(path=str(tmp_path))
    (tmp_path / "train.txt").unlink()
    folders(tmp_path / "valid")
    with pytest.raises(ConfigError, match="data.text and data.label do nothing: .*valid is a folder"):
        read(Labelled(path=str(tmp_path), text=1), "valid")
    (tmp_path / "valid" / "neg" / "9.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ConfigError, match="9.txt, line 1: byte 0xe9 is not UTF-8"):
        read(Labelled(path=str(tmp_path)), "valid")


# ---- headers, quotes, separators, fields of fields, empty parts


def table(tmp_path, content, name="train.tsv", path=None, **how):
    for split in ("train", "valid"):
        (tmp_path / name.replace("train", split)).write_text(content, newline="")
    corpus = Labelled(path=str(tmp_path), **how)
    return read(corpus, "train"), corpus.note()


@pytest.mark.parametrize(("content", "how", "expected"), [
    ("label\ttext\npos\ta b\n", {}, [("pos", "a b")]),
    ("Sentence\tLabel\na b\tpos\n", {}, [("pos", "a b")]),
    ("id\ttext\tsentiment\n1\ta b\tpos\n", {}, [("pos", "a b")]),
    ("id\tclass\treview\n1\tpos\ta b\n", {"label": 1, "text": 2}, [("pos", "a b")]),
    ("grade\twords\n1.5\ta b\n-2\tc\n", {}, [("1.5", "a b"), ("-2", "c")]),
    ("any\tname\npos\ta b\n", {"header": True}, [("pos", "a b")]),
])  # fmt: skip
def test_a_header_is_recognised_and_said(tmp_path, content, how, expected):
    found, note = table(tmp_path, content, **how)
    assert found == expected and "train.tsv: the first line is a header, label in column" in note
    found, note = table(tmp_path, content, **{**how, "header": False})
    assert len(found) == len(expected) + 1 and not note


def test_what_is_no_header(tmp_path):
    for content in ("label\tx\npos\ta\n", "a\tb\n1\tc\nd\te\n", "1\ta\n2\tb\n3\tc\n"):
        found, note = table(tmp_path, content)
        assert len(found) == content.count("\n") and not note
    with pytest.raises(ConfigError, match="data.header=false, but data.text and data.label are names"):
        table(tmp_path, "a\tb\n", header=False, text="a")


QUOTED = [
    ('pos\t"he said ""fine"""\nneg\tno\n', [("pos", 'he said "fine"'), ("neg", "no")]),
    ('"pos"\t"fine"\n"neg"\t"no"\n', [("pos", "fine"), ("neg", "no")]),
    ('pos\t"two\nlines"\nneg\tno\n', [("pos", "two\nlines"), ("neg", "no")]),
    ('pos\t"a\ttab"\nneg\tno\n', [("pos", "a\ttab"), ("neg", "no")]),
]
TEXTS = [
    ('pos\t"fine" he said\nneg\tno\n', [("pos", '"fine" he said'), ("neg", "no")]),
    ('pos\t"fine"\nneg\tno\n', [("pos", '"fine"'), ("neg", "no")]),
    ('pos\t5" disks\nneg\tsaid ""no""\n', [("pos", '5" disks'), ("neg", 'said ""no""')]),
    ('pos\t"open\nneg\tno\n', [("pos", '"open'), ("neg", "no")]),
]


@pytest.mark.parametrize(("content", "expected", "quoted"), [(*q, True) for q in QUOTED] + [(*t, False) for t in TEXTS])
def test_quotes_are_of_the_table_or_of_the_text(tmp_path, content, expected, quoted):
    found, note = table(tmp_path, content)
    assert found == expected and ("without them (data.quoting=false" in note) == quoted
    for plain in (False, None):
        if quoted and content.count("\n") == 2 and content.count("\t") == 2:
            assert table(tmp_path, content, quoting=plain)[0][0][1].startswith('"')
        elif not quoted:
            assert table(tmp_path, content, quoting=plain)[0] == expected


@pytest.mark.parametrize(("content", "how", "expected"), [
    ('pos,"a, b"\nneg,c\n', {}, [("pos", "a, b"), ("neg", "c")]),
    ("pos;a, b\nneg;c, d, e\n", {}, [("pos", "a, b"), ("neg", "c, d, e")]),
    ("text,label\r\na b,pos\r\n", {}, [("pos", "a b")]),
    ("pos|a, b\n", {"separator": "|"}, [("pos", "a, b")]),
    ("pos\ta, b\n", {"separator": "tab"}, [("pos", "a, b")]),
    ('pos,"a\n\nb"\n', {}, [("pos", "a\n\nb")]),
])  # fmt: skip
def test_csv(tmp_path, content, how, expected):
    assert table(tmp_path, content, "train.csv", **how)[0] == expected


def test_what_is_wrong_in_csv(tmp_path):
    for content, message in [
        ('pos,a\nneg,"b" c\n', "train.csv, line 2: .*data.quoting=false"),
        ('pos,a\nneg,"b\n', "train.csv, line 2: unexpected end of data"),
        ("pos,a\nneg,b,c\n", "line 2: 3 columns, but 2"),
        ("pos\n", r"line 1: 1 columns, with commas between; there is no number 1 \(data.text"),
    ]:
        with pytest.raises(ConfigError, match=message):
            table(tmp_path, content, "train.csv")
    with pytest.raises(ConfigError, match="data.separator=, , should be tab, comma, semicolon or a single character"):
        table(tmp_path, "a,b\n", "train.csv", separator=", ,")
    tsv(tmp_path / "train.tsv")
    assert read(Labelled(path=str(tmp_path)), "train") == ROWS  # before .csv was read there was no choice


def test_fields_of_fields_in_json(tmp_path):
    item = {
        "a": {"b": "plain", "tokens": [{"w": "two"}, {"w": "words"}]},
        "y": [{"l": "pos"}, {"l": "neg"}],
        "a.c": "dot",
    }
    for text, label, expected in [
        ("a.b", "y.0.l", ("pos", "plain")),
        ("a.tokens.w", "y.1.l", ("neg", ["two", "words"])),
        ("a.c", "a.b", ("plain", "dot")),
    ]:
        found, _ = table(tmp_path, json.dumps(item) + "\n", "train.jsonl", text=text, label=label)
        assert found == [expected]
    for text, message in [("a.x", "no key data.text=a.x, but b, tokens"), ("a.b.c", "data.text=a.b.c, for this is no")]:
        with pytest.raises(ConfigError, match=message):
            table(tmp_path, json.dumps(item) + "\n", "train.jsonl", text=text, label="a.b")
    with pytest.raises(ConfigError, match="line 1: not JSON"):
        table(tmp_path, "[" * 100_000, "train.jsonl")


def test_empty_parts_are_counted_and_left_out_if_asked(tmp_path):
    content = "pos\ta\nneg\t\n\tb\n \t \npos\tc\nneg\t\n"
    with pytest.raises(ConfigError) as raised:
        table(tmp_path, content)
    assert str(raised.value).splitlines() == [
        f"{tmp_path}/train.tsv: 3 of its examples have an empty part; data.skip_empty=true leaves them out",
        "  line 2: the text is empty",
        "  line 3: the label is empty",
        "  line 6: the text is empty",
    ]
    found, note = table(tmp_path, content + "neg\t\n", skip_empty=True)
    assert found == [("pos", "a"), ("pos", "c")] and note == "left out, for a part of them is empty: 4 in train.tsv"


def test_a_folder_of_labels_passes_over_runs_and_binary_files(tmp_path):
    folders(tmp_path / "all")
    (tmp_path / "all" / "pos" / "picture.txt").write_bytes(b"\0\1")
    (tmp_path / "all" / "outputs" / "a").mkdir(parents=True)
    (tmp_path / "all" / "outputs" / "notes.txt").write_text("of a run\n")
    corpus = Labelled(path=str(tmp_path / "all"), outputs=str(tmp_path / "all" / "outputs"))
    assert sorted(sum((read(corpus, split) for split in corpus.splits()), [])) == sorted(ROWS)
    assert corpus.note() == "skipped in all: 1 hidden, 1 of runs; skipped in pos: 1 binary"


def test_tables_of_older_runs_are_read_as_before(tmp_path):
    node = {"_target_": "seqlm.data.sources.labelled.Labelled", "path": str(tmp_path)}
    arguments = {key: value for key, value in migrate({"data": node})["data"].items() if key != "_target_"}
    assert arguments == {"path": str(tmp_path), "header": None, "quoting": None}
    found, note = table(tmp_path, 'label\ttext\npos\t"he said ""fine"""\n', **{**arguments, "path": str(tmp_path)})
    assert found == [("label", "text"), ("pos", '"he said ""fine"""')] and not note
