"""Sources of tagged sentences: column files, files side by side, ATIS, and what is wrong with them by file and line."""

from __future__ import annotations

import pytest

from seqlm.data.sources.atis import Atis
from seqlm.data.sources.conll import Conll
from seqlm.data.sources.iob import Iob
from seqlm.data.sources.taipei import Taipei
from seqlm.errors import ConfigError

SENTENCES = [(["EU", "rejects"], ["B-ORG", "O"]), (["Peter"], ["B-PER"])]
COLUMNS = "EU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\nPeter NNP B-NP B-PER\n"


def read(source, split="train"):
    return [(example["words"], example["tags"]) for example in source.examples(split)]


def files(folder, text=COLUMNS, names=("train.txt", "valid.txt"), **others):
    """A folder of column files that hold the same, but for `others`."""
    folder.mkdir(exist_ok=True)
    for name in names:
        new = others.get(name.partition(".")[0], text)
        (folder / name).write_bytes(new if isinstance(new, bytes) else new.encode())
    return str(folder)


@pytest.mark.parametrize("text", [
    COLUMNS,
    COLUMNS.replace("\n", "\r\n"),
    "\ufeff" + COLUMNS,
    COLUMNS.replace(" ", "\t  "),
    "-DOCSTART- -X- -X- O\n\n" + COLUMNS.replace("\n\n", "\n \n\n-DOCSTART- -X- -X- O\n\n") + "\n\n",
    COLUMNS.replace("\n\n", "\n-DOCSTART- -X- -X- O\n"),
    COLUMNS.rstrip(),
], ids=["plain", "crlf", "bom", "tabs", "documents", "documents alone", "no last line feed"])  # fmt: skip
def test_column_files(tmp_path, text):
    assert read(Conll(path=files(tmp_path, text))) == SENTENCES


def test_columns_by_number_and_name(tmp_path):
    names = ["form", "pos", "chunk", "ner"]
    folder = files(tmp_path)
    pos = [(["EU", "rejects"], ["NNP", "VBZ"]), (["Peter"], ["NNP"])]
    assert read(Conll(path=folder, tag=1)) == read(Conll(path=folder, tag=-3)) == pos
    assert read(Conll(path=folder, columns=names, word="form", tag="pos")) == pos
    headed = files(tmp_path, "-DOCSTART-\n" + " ".join(names) + "\n" + COLUMNS)
    assert read(Conll(path=headed, columns="header", tag="pos")) == pos
    assert read(Conll(path=headed, columns="header")) == SENTENCES


def test_words_with_spaces_and_comments(tmp_path):
    folder = files(tmp_path, "# sent_id = 1\n1\tNew York\tB-LOC\n2\ta\u00a0b\tO\n")
    assert read(Conll(path=folder, word=1, separator="tab", comment="#")) == [
        (["New York", "a\u00a0b"], ["B-LOC", "O"])
    ]
    spaced = files(tmp_path, "a\u00a0b O\n# O\n")
    assert read(Conll(path=spaced)) == [(["a\u00a0b", "#"], ["O", "O"])]


def test_files_of_a_folder(tmp_path):
    for names in (["train.txt", "dev.txt", "test.txt"], ["eng.train", "eng.testa", "eng.testb"],
                  ["en_ewt-ud-train.conllu", "en_ewt-ud-dev.conllu", "en_ewt-ud-test.conllu"]):  # fmt: skip
        folder = tmp_path / names[0]
        source = Conll(path=files(folder, names=names, test="x O\n"))
        assert source.splits() == ("train", "valid", "test") and read(source, "valid") == SENTENCES
    apart = Conll(train=f"{folder}/{names[0]}", valid=f"{folder}/{names[1]}")
    assert apart.splits() == ("train", "valid") and read(apart) == SENTENCES


@pytest.mark.parametrize("text, options, message", [
    ("a O\nb O x\n", {}, r"train.txt, line 2: 3 columns, but line 1 has 2"),
    ("a O\n\nb\n", {}, r"train.txt, line 3: 1 columns, but line 1 has 2"),
    ("a O\n", {"tag": 2}, r"train.txt, line 1: 2 columns, so there are no data.word=0 and data.tag=2"),
    ("a\t\n", {"separator": "tab"}, r"train.txt: 1 of its examples .*\n  line 1: the word or its tag is empty"),
    ("", {}, r"train.txt is empty"),
    ("-DOCSTART- O\n\n", {}, r"train.txt holds no sentence"),
    (b"a O\ncaf\xe9 O\n", {}, r"train.txt, line 2: byte 0xe9 is not UTF-8 .*data.encoding="),
    ("a O\n", {"tag": "ner"}, r"data.tag=ner is unknown; name the columns by data.columns"),
    ("a O\n", {"tag": "ner", "columns": ["w", "t"]}, r"data.tag=ner is unknown; the columns are w, t"),
    ("w t\na O\n", {"word": "x", "columns": "header"}, r"data.word=x is unknown; the columns are w, t"),
])  # fmt: skip
def test_what_is_wrong_with_a_column_file(tmp_path, text, options, message):
    folder = files(tmp_path, train=text)
    with pytest.raises(ConfigError, match=message):
        list(Conll(path=folder, **options).examples("train"))


def test_empty_words_and_tags_are_left_out_if_asked(tmp_path):
    conll = Conll(path=files(tmp_path / "a", "a\tO\nb\t\n\nc\tO\n\n\tO\n"), separator="tab", skip_empty=True)
    assert read(conll) == [(["c"], ["O"])] and conll.note() == "left out, for a part of them is empty: 2 in train.txt"
    folder = side_by_side(tmp_path / "b", label="x\n \ny\n\n", **{"seq.in": "a b\nc\nd\n", "seq.out": "O O\nO\nO\n"})
    iob = Iob(path=folder, skip_empty=True)
    assert [example["words"] for example in iob.examples("train")] == [["a", "b"], ["d"]]
    assert iob.note() == "left out, for a part of them is empty: 1 in train"


def test_a_no_break_space_is_part_of_a_word(tmp_path):
    expected = [(["pay", "10\u00a0000", "now"], ["O", "B-sum", "O"])]
    assert read(Conll(path=files(tmp_path / "a", "pay O\n10\u00a0000 B-sum\nnow O\n"))) == expected
    texts = {"seq.in": "pay 10\u00a0000\tnow\n", "seq.out": "O  B-sum O \n"}
    assert read(Iob(path=side_by_side(tmp_path / "b", **texts))) == expected


def test_a_conllu_file_is_read_as_it_is(tmp_path):
    lines = ["# sent_id = 1", "# text = du pain", "1-2\tdu" + "\t_" * 8, "1\tde\tde\tADP\tP" + "\t_" * 5]
    lines += ["2\tle\tle\tDET\tD" + "\t_" * 5, "2.1" + "\t_" * 9, "3\tNew York\tpain\tNOUN\tN" + "\t_" * 5]
    folder = files(tmp_path / "a", "\n".join(lines) + "\n\n", names=["fr-ud-train.conllu", "fr-ud-dev.conllu"])
    source = Conll(path=folder)
    assert read(source) == [(["de", "le", "New York"], ["ADP", "DET", "NOUN"])]
    assert source.note() == "fr-ud-train.conllu: read as CoNLL-U, column form and its upos"
    assert read(Conll(path=folder, word="lemma", tag="xpos")) == [(["de", "le", "pain"], ["P", "D", "N"])]
    other = files(tmp_path / "b", "1\tde\tde\tADP\n# text = du pain\n")
    with pytest.raises(ConfigError, match="line 2: 5 columns, but line 1 has 4; data.comment='#' leaves out"):
        read(Conll(path=other))
    with pytest.raises(ConfigError, match="2: 5 columns, but line 1 has 4; data.separator=tab takes"):
        read(Conll(path=files(tmp_path / "c", "1\tde\tde\tADP\n2\tNew York\tde\tNOUN\n")))


def test_a_line_of_a_document_ends_a_sentence(tmp_path):
    text = "one O\nOslo B-city\n-DOCSTART- O\ntwo O\n"
    assert read(Conll(path=files(tmp_path, text))) == [(["one", "Oslo"], ["O", "B-city"]), (["two"], ["O"])]
    tabs = text.replace(" ", "\t")
    assert read(Conll(path=files(tmp_path, tabs), separator="tab")) == [
        (["one", "Oslo"], ["O", "B-city"]),
        (["two"], ["O"]),
    ]


def test_what_is_wrong_with_a_folder_of_column_files(tmp_path):
    for options, message in [
        ({}, "give either data.path"),
        ({"path": "x", "train": "y"}, "give either data.path"),
        ({"path": str(tmp_path / "none")}, "none is not a folder"),
        ({"path": files(tmp_path / "a", names=["train.txt"])}, "has no file for valid"),
        ({"path": files(tmp_path / "b", names=["train.txt", "train.conll", "dev.txt"])}, "several files for train"),
        ({"train": str(tmp_path / "a" / "train.txt")}, "data.valid is not set"),
        ({"train": "nowhere", "valid": "nowhere"}, "data.train=nowhere does not exist"),
    ]:
        with pytest.raises(ConfigError, match=message):
            Conll(**options)


def side_by_side(folder, splits=("train", "valid"), **files):
    for split in splits:
        (folder / split).mkdir(exist_ok=True, parents=True)
        texts = {"seq.in": "EU rejects\nPeter\n", "seq.out": "B-ORG O\nB-PER\n", **files}
        for name, text in texts.items():
            (folder / split / name).write_text(text, newline="")
    return str(folder)


def test_files_side_by_side(tmp_path):
    source = Iob(path=side_by_side(tmp_path / "a"))
    assert source.splits() == ("train", "valid") and read(source) == SENTENCES
    assert all("label" not in example for example in source.examples("train"))
    folder = side_by_side(tmp_path / "b", ("train", "valid", "test"), label="news\r\nname\r\n")
    for source in (Iob(path=folder), Atis(path=folder)):
        assert [example["label"] for example in source.examples("test")] == ["news", "name"]
    assert source.splits() == ("train", "valid", "test") and read(source) == SENTENCES


def test_what_is_wrong_with_files_side_by_side(tmp_path):
    def lines(**files):
        return list(Iob(path=side_by_side(tmp_path / "a", **files)).examples("valid"))

    for files, message in [
        ({"seq.out": "B-ORG O\nB-PER O\n"}, r"valid, line 2: 1 words, 2 tags"),
        (
            {"seq.in": "EU rejects\n\nPeter\n", "seq.out": "B-ORG O\n\nB-PER\n"},
            r"valid: 1 of its examples .*\n  line 2 of seq.in and seq.out",
        ),
        ({"seq.out": "B-ORG O\n"}, r"valid: the files have different numbers of lines: seq.in 2, seq.out 1"),
        ({"seq.in": ""}, r"seq.in is empty"),
    ]:
        with pytest.raises(ConfigError, match=message):
            lines(**files)
    with pytest.raises(ConfigError, match="has no train/seq.in; it should hold train, valid, each with seq.in"):
        Iob(path=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="has no train/label; it should hold train, valid, test, each with seq.in"):
        Atis(path=str(tmp_path / "a"))


def test_made_up_requests():
    source = Taipei(sentences=400)
    assert [len(read(source, split)) for split in source.splits()] == [400, 40, 40]
    assert read(source) == read(Taipei(sentences=400)) != read(Taipei(sentences=400, seed=1))
    slots = {tag: 0 for tag in ("B-destination", "B-departure")}
    for words, tags in read(source):
        verb = ""
        for word, tag in zip(words, tags, strict=True):
            verb = word if word in ("arrive", "leave") else verb
            if tag in slots:
                assert tag == {"arrive": "B-destination", "leave": "B-departure"}[verb]
                slots[tag] += 1
    assert min(slots.values()) > 0.8 * max(slots.values())
    assert any("Taipei" in words for words, _ in read(source))
    with pytest.raises(ConfigError, match="data.sentences=9 must be at least 10"):
        Taipei(sentences=9)


def test_contractions_and_empty_nodes_of_universal_dependencies_are_no_words(tmp_path):
    lines = ["# text = du pain", "1-2\tdu\t_\t_", "1\tde\tde\tADP", "2\tle\tle\tDET", "2.1\t_\t_\t_"]
    lines.append("3\tpain\tpain\tNOUN")
    for name in ("fr-ud-train.conllu", "fr-ud-dev.conllu"):
        (tmp_path / name).write_text("\n".join(lines) + "\n\n")
    data = Conll(path=str(tmp_path), word=1, tag=3, comment="#", separator="tab")
    assert list(data.examples("train")) == [{"words": ["de", "le", "pain"], "tags": ["ADP", "DET", "NOUN"]}]
    (tmp_path / "other.txt").write_text("1-2 B-score\n\n")  # elsewhere that is a word
    data = Conll(train=str(tmp_path / "other.txt"), valid=str(tmp_path / "other.txt"))
    assert list(data.examples("train")) == [{"words": ["1-2"], "tags": ["B-score"]}]
