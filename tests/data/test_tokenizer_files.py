"""tokenizer.json as others may have left it: the message names the file and the key."""

from __future__ import annotations

import json

import pytest

from seqlm.data.tokenizers.examples import ExampleTokenizer
from seqlm.data.tokenizers.saved import load_tokenizer
from seqlm.data.tokenizers.text import CharTokenizer
from seqlm.errors import ConfigError


@pytest.fixture
def files(tmp_path):
    CharTokenizer().fit(["some text\n"]).save(tmp_path / "char.json")
    examples = [{"words": ["a", "b"], "tags": ["X", "Y"], "value": [1.0, 2.0]}]
    ExampleTokenizer().fit(examples).save(tmp_path / "examples.json")
    return tmp_path


@pytest.mark.parametrize(("name", "key", "value", "said"), [
    ("char", "kind", "else", "kind='else' should be char or word or byte or examples"),
    ("char", "kind", ["char"], "kind="),
    ("char", "settings", [], "settings=[] should be a mapping"),
    ("char", "settings", {"min_count": "1"}, "min_count='1' must be a whole number"),
    ("char", "settings", {"max_size": 1.5}, "max_size=1.5 must be"),
    ("char", "settings", {"colour": 1}, "colour"),
    ("char", "vocabulary", None, "vocabulary should be a list of texts"),
    ("char", "vocabulary", {"a": 1}, "vocabulary should be a list of texts"),
    ("char", "vocabulary", ["<unk>", "\n", 3], "vocabulary[2]=3 should be a text"),
    ("char", "vocabulary", ["<unk>", "\n", "ab"], "vocabulary[2]='ab' should be one character"),
    ("char", "vocabulary", ["<unk>", "\n", "a", "a"], "vocabulary has 'a' twice"),
    ("char", "vocabulary", [], "vocabulary has 0 entries"),
    ("examples", "settings", {"unit": "line"}, "settings.unit='line' should be word or char"),
    ("examples", "vocabularies", [], "vocabularies should be a mapping"),
    ("examples", "vocabularies", {"words": "abc"}, "words"),
    ("examples", "counts", {"words": [1]}, "counts.words"),
    ("examples", "counts", {"words": "abc"}, "counts.words"),
    ("examples", "num_features", "x", "num_features='x'"),
    ("examples", "num_features", 1e300, "num_features=1e+300"),
    ("examples", "value", 3, "value=3 should be a mapping"),
    ("examples", "value", {"size": 1}, "steps"),
])  # fmt: skip
def test_wrong_types_are_named(files, name, key, value, said):
    path = files / f"{name}.json"
    load_tokenizer(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ConfigError) as caught:
        load_tokenizer(path)
    assert str(path) in str(caught.value) and said in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "3", "{}", "[" * 100_000])
def test_what_is_no_tokenizer_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match="is not a tokenizer of seqlm"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_a_line_is_split_as_the_data_were(tmp_path):
    """At spaces and tabs where train has lists of words, at any white space where it has texts."""
    line, listed, text = "pay 10\u00a0000\tnow ", ["pay", "10\u00a0000", "now"], ["pay", "10", "000", "now"]
    for examples, expected in [
        ([{"words": listed, "tags": ["O", "B-sum", "O"]}], listed),
        ([{"words": listed, "label": "a"}], listed),
        ([{"words": listed, "label": "a"}, {"words": line, "label": "b"}], text),
        ([{"words": line, "label": "a"}], text),
    ]:
        tokenizer = ExampleTokenizer().fit(examples)
        tokenizer.save(tmp_path / "tokenizer.json")
        assert tokenizer.split(line) == load_tokenizer(tmp_path / "tokenizer.json").split(line) == expected
    tokenizer = ExampleTokenizer().fit([{"words": listed, "tags": ["O", "B-sum", "O"]}])
    tokenizer.save(tmp_path / "tokenizer.json")
    older = json.loads((tmp_path / "tokenizer.json").read_text())
    del older["listed"]  # tags had a word each in older runs too
    (tmp_path / "tokenizer.json").write_text(json.dumps(older))
    assert load_tokenizer(tmp_path / "tokenizer.json").split(line) == listed
