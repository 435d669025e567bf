"""Tag schemes: recognised from tags and how they follow each other, and counted as two other implementations count."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from seqeval import scheme as theirs
from seqeval.metrics.sequence_labeling import get_entities

from seqlm.data.tag_schemes import CONLLEVAL, LETTERS, any_begins, check_name, entities, forced, recognise, transitions
from seqlm.data.tokenizers.examples import ExampleTokenizer
from seqlm.errors import ConfigError

# Letters of an entity: alone, first, inside, last. Those of IOB1 and IOE1 depend on its neighbours: see `written`.
SHAPES = {
    "IOB2": "BBII", "IOBES": "SBIE", "BILOU": "UBIL", "BMES": "SBME", "BMEWO": "WBME", "IOE2": "EIIE", "IOB1": "IIII",
    "IOE1": "IIII",
}  # fmt: skip
COUNT = 1500  # random sequences of each scheme


def drawn(rng, types=("PER", "LOC")):
    """Random entities side by side: (type, or None outside, length)."""
    return [(rng.choice([*types, None]), int(rng.integers(1, 5))) for _ in range(rng.integers(1, 7))]


def written(pieces, name, form):
    """Pieces as tags of a scheme, and their entities."""
    alone, first, inside, last = SHAPES[name]
    tags, found = [], set()
    for index, (kind, length) in enumerate(pieces):
        if kind is None:
            tags += [form("O", "")] * length
            continue
        letters = [alone] if length == 1 else [first, *inside * (length - 2), last]
        if name == "IOB1" and index and pieces[index - 1][0] == kind:
            letters[0] = "B"
        if name == "IOE1" and index + 1 < len(pieces) and pieces[index + 1][0] == kind:
            letters[-1] = "E"
        found.add((kind, len(tags), len(tags) + length))
        tags += [form(letter, kind) for letter in letters]
    return tags, found


FORMS = {
    "B-X": lambda letter, kind: letter if letter == "O" else f"{letter}-{kind}",
    "B_X": lambda letter, kind: letter if letter == "O" else f"{letter}_{kind}",
    "X-B": lambda letter, kind: letter if letter == "O" else f"{kind}-{letter}",
    "X_B": lambda letter, kind: letter if letter == "O" else f"{kind}_{letter}",
    "b:x": lambda letter, kind: letter if letter == "O" else f"{letter.lower()}:{kind}",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LETTERS)
def test_a_scheme_is_recognised_however_it_is_written(name, form):
    rng, pairs, examples = np.random.default_rng(1), Counter(), []
    for _ in range(200):
        examples.append(written(drawn(rng), name, FORMS[form]))
        pairs.update(transitions(examples[-1][0]))
    vocabulary = sorted({tag for tags, _ in examples for tag in tags})
    scheme, _ = recognise(vocabulary, pairs)
    assert scheme is not None and scheme.name == name
    assert all(entities(tags, scheme) == found for tags, found in examples)
    assert forced(name, vocabulary) == scheme


def test_the_letters_of_word_segmentation_stand_alone():
    sentences = ["BESBME", "SSBE", "BMMES"]
    pairs = sum((transitions(list(one)) for one in sentences), Counter())
    scheme, _ = recognise("BMES", pairs)
    assert str(scheme) == "BMES"
    assert entities("BESBME", scheme) == {("", 0, 2), ("", 2, 3), ("", 3, 6)}
    assert str(recognise("BES", transitions("BESS"))[0]) == "BMES", "where no word has more than two characters"


def test_a_letter_that_train_lacks_is_read_as_what_it_stands_for():
    """Entities of one and two words do not tell IOBES from BMES, and one of three may come later."""
    tags = ["S-x", "B-x", "E-x", "O"]
    scheme, _ = recognise(tags, transitions(tags))
    assert scheme is not None and entities(["B-x", "M-x", "E-x"], scheme) == {("x", 0, 3)}
    assert entities(["B-x", "I-x", "E-x"], scheme) == {("x", 0, 3)}


def test_whether_any_tag_begins_an_entity():
    for tags, begins in (("B-x M-x E-x O", True), ("M-x O", False), ("I-x O", True), ("O", False), ("I-x E-x", True)):
        scheme = recognise(tags.split(), transitions(["O"]))[0]
        assert scheme is not None and any_begins(tags.split(), scheme) == begins


def randomly(rng, letters, types="xy"):
    """Tags that break whatever can be broken, as those of a model that has learned little."""
    return [str(tag) for tag in rng.choice(["O"] + [f"{p}-{t}" for p in letters for t in types], rng.integers(1, 9))]


@pytest.mark.parametrize("name", [name for name in LETTERS if not name.startswith("BM")])
def test_broken_sequences_are_read_as_by_seqeval(name):
    rng, scheme = np.random.default_rng(2), forced(name, [f"{letter}-x" for letter in LETTERS[name]])
    for _ in range(COUNT):
        tags = randomly(rng, LETTERS[name])
        plain = [tag.replace("L-", "E-").replace("U-", "S-") for tag in tags]  # which its default mode does not know
        assert entities(tags, scheme) == {(kind, a, b + 1) for kind, a, b in get_entities(plain)}, tags
        assert entities(tags, scheme) == entities(tags, CONLLEVAL)


@pytest.mark.parametrize("name", ["IOB2", "IOE2", "IOBES", "BILOU"])
def test_strict_is_the_strict_mode_of_seqeval(name):
    rng, scheme = np.random.default_rng(3), forced(name, [f"{letter}-x" for letter in LETTERS[name]])
    for _ in range(COUNT):
        tags = randomly(rng, LETTERS[name])
        (found,) = theirs.Entities([tags], getattr(theirs, name)).entities
        assert entities(tags, replace(scheme, strict=True)) == {(one.tag, one.start, one.end) for one in found}, tags


@pytest.mark.parametrize("name", ["BMES", "BMEWO"])
def test_words_are_counted_strictly(name):
    """Every stretch of one type whose letters are B M* E, or S, and no other."""
    rng, single = np.random.default_rng(4), LETTERS[name][-1]
    scheme = forced(name, [f"{letter}-x" for letter in LETTERS[name]])
    pattern = re.compile(f"BM*E|{single}")
    for _ in range(COUNT):
        tags = randomly(rng, LETTERS[name])
        stretches = [(a, b) for a in range(len(tags)) for b in range(a + 1, len(tags) + 1)]
        expected = {
            (tags[a][2:], a, b)
            for a, b in stretches
            if len({tag[2:] for tag in tags[a:b]}) == 1 and pattern.fullmatch("".join(tag[0] for tag in tags[a:b]))
        }
        assert entities(tags, scheme) == {one for one in expected if one[0]}, tags


def test_parts_of_speech_are_no_entities():
    rng, letters = np.random.default_rng(5), ["RD", "S", "E", "B", "V", "A"]
    pairs = sum((transitions(rng.choice(letters, 6)) for _ in range(50)), Counter())
    scheme, reason = recognise(letters, pairs)
    assert scheme is None and re.match(r"the tag RD fits no scheme \(BILOU, .*\) beside the others", reason)
    pairs = sum((transitions(rng.choice(list("SEB"), 6)) for _ in range(50)), Counter())
    scheme, reason = recognise("SEB", pairs)
    assert scheme is None and re.match(r"\d\d% of train breaks BMES, \w then \w for instance", reason)


@pytest.mark.parametrize(
    ("tags", "named"),
    [("B-x I-x L-x S-x O", "L-x"), ("B-x M-x E-x W-x U-x O", "U-x"), ("B-x I-x X-x O", "X-x"), ("NN VB DT", "NN")],
)
def test_a_tag_that_fits_no_scheme_is_named(tags, named):
    assert recognise(tags.split(), transitions(tags.split()))[1].startswith(f"the tag {named} fits no scheme")


def test_some_errors_in_train_do_not_hide_a_scheme():
    rng = np.random.default_rng(6)
    examples = [written(drawn(rng), "IOBES", FORMS["B-X"])[0] for _ in range(200)]
    examples[:10] = [[tag.replace("E-", "I-") for tag in tags] for tags in examples[:10]]
    pairs = sum(map(transitions, examples), Counter())
    assert str(recognise({tag for tags in examples for tag in tags}, pairs)[0]) == "IOBES"
    both = [written(drawn(rng), name, FORMS["B-X"])[0] for name in ("IOB1", "IOB2") for _ in range(100)]
    scheme, _ = recognise({tag for tags in both for tag in tags}, sum(map(transitions, both), Counter()))
    assert scheme is not None and scheme.letters == "BI", "sequences of both can be read"


def test_a_forced_scheme_must_have_the_tags():
    with pytest.raises(ConfigError, match=r"task.scheme=IOB2 has no tag M-x, .* its letters are B, I, O"):
        forced("IOB2", ["O", "B-x", "M-x", "E-x"])
    assert [check_name(name) for name in ("BIOES", "bmes", "BILUO")] == ["IOBES", "BMES", "BILOU"]
    with pytest.raises(ValueError, match="scheme=XYZ is unknown; allowed: BILOU, BMES"):
        check_name("XYZ")


def test_the_tokenizer_keeps_the_scheme(tmp_path):
    def again(change=lambda data: None):
        tokenizer.save(tmp_path / "tokenizer.json")
        data = json.loads((tmp_path / "tokenizer.json").read_text())
        change(data)
        return ExampleTokenizer.load(data).fields["tags"].scheme

    tokenizer = ExampleTokenizer().fit([{"words": ["a", "b", "c"], "tags": ["x_B", "x_M", "x_E"]}])
    assert again() == tokenizer.fields["tags"].scheme and again().suffix
    assert again(lambda data: data.pop("tag_scheme")) == CONLLEVAL, "of an older run"
    with pytest.raises(ValueError, match="tag_scheme='IOB2' is no scheme of its tags"):
        again(lambda data: data.update(tag_scheme="IOB2"))
    tokenizer = ExampleTokenizer().fit([{"words": ["a"], "tags": ["NN"]}])
    assert again() is None


def test_any_tags_are_looked_at_without_an_error():
    rng, pool = np.random.default_rng(7), [*"BIEMSUWLO-_:x", *string.ascii_letters[:4], "", "O-", "-B", "B-", "é"]
    for _ in range(300):
        tags = ["".join(rng.choice(pool, rng.integers(0, 4))) for _ in range(6)]
        scheme, reason = recognise(sorted(set(tags)), transitions(tags))
        assert (scheme is None) == bool(reason)
        if scheme:
            entities(tags, scheme)
