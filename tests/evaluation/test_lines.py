"""Lines scored token by token: against a NumPy loop, against `seqlm eval`, and whatever lines are read beside them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import seqlm
from seqlm.data.tokenizers.text import ByteTokenizer
from seqlm.errors import ConfigError
from seqlm.evaluation.word_bounds import word_starts, word_text
from seqlm.training.launch import train

from ..conftest import TINY, compose
from ..conftest import seqlm as command

TEXT = "".join(
    f"{who} {verb} {what} and {other}\n"
    for who in ("the man", "she", "a cook", "the dog")
    for verb in ("ate", "saw", "likes")
    for what in ("the apple", "a pear", "the salad", "the pair")
    for other in ("salad", "pear", "bread")
)
LINES = ["she saw the pear", "a cook likes the salad and bread and the apple", "", "the unheard dog", "she"]
SHORT = ["train.steps=9", "train.eval_every=9", "sample.tokens=0", "model.num_layers=1", "train.batch_size=4"]
RUNS = {
    "words": [],
    "other": ["seed=2"],
    "adaptive": ["model/output=adaptive", "model.output.cutoffs=[8]"],
    "mixture": ["model/output=mixture", "model.output.num_softmaxes=2"],
    "deep": ["model.num_layers=2", "model=gru"],
    "both": ["task=bilm", "model=bilm"],
    "chars": ["data/tokenizer=char"],
    "bytes": ["data/tokenizer=byte"],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Runs of every kind of language model, and the text that they learned from."""
    folder = tmp_path_factory.mktemp("lines")
    (folder / "text.txt").write_text(TEXT)
    (folder / "lines.txt").write_text("".join(f"{line}\n" for line in LINES))
    data = ["data=text", f"data.path={folder / 'text.txt'}", "data/tokenizer=word", "train.bptt=7"]
    for name, words in RUNS.items():
        given = [word for word in TINY if not word.startswith(("data", "train.bptt"))]
        train(compose(*given, *data, *SHORT, *words, f"run.root={folder}", f"run.name={name}"), {})
    return folder


def scored(home, name, lines=LINES, **options):
    return list(seqlm.load_scorer(home / name, **options).score(lines))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(run, ids):
    """ln p of all words behind each token: an LSTM of one layer in NumPy, float64."""
    weights = {name: tensor.double().numpy() for name, tensor in run.model.state_dict().items()}
    cell = next(name.removesuffix("weight_hh") for name in weights if name.endswith("weight_hh"))
    w_ih, w_hh = weights[f"{cell}weight_ih"], weights[f"{cell}weight_hh"]
    bias = sum(value for name, value in weights.items() if name.startswith(f"{cell}bias"))
    size = w_hh.shape[1]
    h, c, found = np.zeros(size), np.zeros(size), []
    for token in ids:
        i, f, g, o = np.split(w_ih @ weights["embedding.weight"][token] + w_hh @ h + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        logits = weights["decoder.weight"] @ h + weights["decoder.bias"]
        found.append(logits - logits.max() - np.log(np.exp(logits - logits.max()).sum()))
    return np.array(found)


def test_every_number_against_a_loop(home):
    run = seqlm.load_run(home / "words")
    for line, text in zip(scored(home, "words"), LINES, strict=True):
        ids = [*run.tokenizer.encode(text), run.tokenizer.eos_id]
        logs = by_hand(run, [run.tokenizer.eos_id, *ids[:-1]])
        expected = logs[np.arange(len(ids)), ids]
        np.testing.assert_allclose(line.log_p, expected, atol=1e-5)
        assert line.rank.tolist() == (1 + (logs > expected[:, None] + 1e-5).sum(1)).tolist()
        np.testing.assert_allclose(line.entropy, -(np.exp(logs) * logs).sum(1), atol=1e-5)
        assert line.ids.tolist() == ids and line.pieces == [*text.split(), "<eos>"] and line.text == text
        assert line.total == pytest.approx(expected.sum(), abs=1e-5)
        assert line.unknown.tolist() == [piece == "unheard" for piece in line.pieces]


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_lines_beside_it_change_nothing(home, name, direction):
    """Neither padding nor order nor the number of lines that are read together, with or without rank and entropy."""
    if direction == "backward" and name != "both":
        with pytest.raises(ConfigError, match="direction=backward needs a model that reads from both ends"):
            scored(home, name, direction=direction)
        return
    alone = [line for text in LINES for line in scored(home, name, [text], direction=direction)]
    for together in (
        scored(home, name, direction=direction),
        scored(home, name, direction=direction, batch_size=2),
        scored(home, name, LINES[::-1], direction=direction)[::-1],
        scored(home, name, direction=direction, ranked=False),
    ):
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_allclose(other.log_p, one.log_p, atol=1e-5)
            assert other.rank is None or np.abs(other.rank - one.rank).max() <= 1
            assert math.isclose(sum(word.log_p for word in other.words), other.total, abs_tol=1e-9)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_stream_is_what_eval_scores(home, name, batch_size):
    expected = seqlm.evaluate(home / name, file=home / "lines.txt")
    found = {}
    for direction in ("forward", "backward") if name == "both" else ("forward",):
        lines = scored(home, name, context="stream", direction=direction, batch_size=batch_size)
        assert [line.text for line in lines] == LINES
        count = sum(line.scored for line in lines)
        found[direction] = -sum(line.total for line in lines) / count
        assert sum(len(line.ids) for line in lines) == count
    assert sum(found.values()) / len(found) == pytest.approx(expected["loss"], abs=1e-6)
    if name == "both":
        assert math.exp(found["backward"]) == pytest.approx(expected["backward_ppl"], rel=1e-5)


@pytest.mark.parametrize(
    "options", [{"cache": {"size": 7}}, {"dynamic": {"lr": 0.01, "rule": "sgd"}}, {"dynamic": {"lr": 1e-3}},
                {"cache": {"size": 50}, "dynamic": {"lr": 1e-3, "bptt": 3}}, {"temperature": 1.3},
                {"ensemble": True}, {"ensemble": True, "mean": "geometric"}],
    ids=str,
)  # fmt: skip
def test_adapted_and_averaged_as_eval_does(home, options):
    if "ensemble" in options:
        options = {**options, "ensemble": [str(home / "other")]}
    plain = scored(home, "words", context="stream")
    words = [f"{key}={value}" for key, value in options.items() if not isinstance(value, dict)]
    for key in ("dynamic", "cache"):
        words += [f"{key}.{inner}={value}" for inner, value in options.get(key, {}).items()]
    done = command("eval", home / "words", f"file={home / 'lines.txt'}", "--json", *words, cwd=home)
    expected = json.loads(done.stdout)["loss"]
    for ranked in (True, False):
        lines = scored(home, "words", context="stream", ranked=ranked, **options)
        found = -sum(line.total for line in lines) / sum(line.scored for line in lines)
        assert found == pytest.approx(expected, abs=1e-6)
        assert found != pytest.approx(-sum(line.total for line in plain) / 25, abs=1e-4)


def test_a_first_token_without_a_beginning_is_read_and_not_scored(home):
    whole = scored(home, "words")
    for one, other in zip(scored(home, "words", bos="none"), whole, strict=True):
        assert math.isnan(one.log_p[0]) and one.scored == other.scored - 1
    first = scored(home, "words", ["the dog"], bos="none")[0]
    run = seqlm.load_run(home / "words")
    the, dog = run.tokenizer.encode("the dog")
    assert first.log_p[1] == pytest.approx(by_hand(run, [the])[0, dog], abs=1e-5)
    for one, other in zip(
        *(scored(home, "both", bos=bos, direction="backward") for bos in ("none", "eos")), strict=True
    ):
        place = max(len(one.ids) - 2, 0)  # the word that a line begins with when it is read backward
        assert np.flatnonzero(np.isnan(one.log_p)).tolist() == [place] and not np.isnan(other.log_p).any()
    stream = scored(home, "words", ["the dog", "the dog"], bos="none", context="stream")
    assert [line.scored for line in stream] == [2, 3] and stream[0].log_p[1] == pytest.approx(first.log_p[1], abs=1e-5)


def test_without_the_end_of_a_line(home):
    for one, other in zip(scored(home, "words", eos=False), scored(home, "words"), strict=True):
        np.testing.assert_allclose(one.log_p, other.log_p[:-1], atol=1e-6)
        assert one.pieces == other.pieces[:-1]
    backward = scored(home, "both", eos=False, direction="backward")
    for one, other in zip(backward, scored(home, "both", direction="backward"), strict=True):
        np.testing.assert_allclose(one.log_p, other.log_p[:-1], atol=1e-5)


@pytest.mark.parametrize("kind", ["chars", "bytes"])
@pytest.mark.parametrize(
    ("space", "expected"), [("leading", ["she", " saw", "  a", "<eos>"]), ("trailing", ["she ", "saw  ", "a", "<eos>"])]
)
def test_a_space_counts_to_one_word(home, kind, space, expected):
    (line,) = scored(home, kind, ["she saw  a"], space=space)
    assert [word.text for word in line.words] == expected
    assert [word.end - word.start for word in line.words] == [len(word) for word in expected[:-1]] + [1]
    assert sum(word.log_p for word in line.words) == pytest.approx(line.total, abs=1e-9)


@pytest.mark.parametrize("kind", ["chars", "bytes"])
@pytest.mark.parametrize("space", ["leading", "trailing"])
@pytest.mark.parametrize("text", [" she saw ", "\tshe  saw", "  ", ""])
def test_white_space_alone_is_no_word(home, kind, space, text):
    """Lines of the Penn Treebank begin and end with a space: it counts to a word, or to the end of the line."""
    (line,) = scored(home, kind, [text], space=space)
    assert [word.text.strip() for word in line.words if not word.is_end] == text.split()
    assert [word.is_end for word in line.words] == [False] * len(text.split()) + [True]
    assert sum(word.log_p for word in line.words) == pytest.approx(line.total, abs=1e-9)


def test_a_word_that_is_written_as_the_end_of_a_line_is_none(home):
    (line,) = scored(home, "words", ["she <eos> saw"])
    assert [word.is_end for word in line.words] == [False, False, False, True]


def test_a_word_that_is_written_as_unknown_is_known(home):
    """In the Penn Treebank `<unk>` is a word as any other; it is another one that is not in the vocabulary."""
    (line,) = scored(home, "words", ["she <unk> unheard"])
    assert line.unknown.tolist() == [False, False, True, False]
    assert [word.unknown for word in line.words] == [False, False, True, False] and line.ids[1] == line.ids[2]


def test_what_was_learned_from_a_text_is_forgotten_before_the_next(home):
    scorer = seqlm.load_scorer(home / "words", context="stream", dynamic={"lr": 0.1, "rule": "sgd"})
    first, second = ([line.total for line in scorer.score(LINES)] for _ in range(2))
    next(scorer.score(LINES * 9))  # left before its end
    assert first == second == [line.total for line in scorer.score(LINES)]


def test_short_lines_do_not_wait_for_a_long_one(home, monkeypatch):
    """A line as long as others together is read by itself: no padding of its length is held for each of them."""
    from seqlm.evaluation import lines

    scorer, shapes = seqlm.load_scorer(home / "words", batch_size=32), []
    read = scorer.surprisal.read
    monkeypatch.setattr(lines, "AT_ONCE", 400)
    monkeypatch.setattr(scorer.surprisal, "read", lambda *given: shapes.append(given[0].shape) or read(*given))
    texts = ["the dog"] * 20 + ["she saw " * 300] + ["a cook"] * 20
    assert [line.text for line in scorer.score(texts)] == texts
    assert {shape[1] for shape in shapes if shape[0] > 3} == {1} and max(shape[1] for shape in shapes) == 32


def test_words_of_bytes_are_text_again():
    tokenizer = ByteTokenizer()
    pieces, ids = tokenizer.pieces("für sie"), np.array(tokenizer.encode("für sie"))
    starts = word_starts(pieces, "byte", "leading")
    bounds = zip(starts, [*starts[1:], len(ids)], strict=True)
    assert [word_text(pieces[a:b], ids[a:b], "byte") for a, b in bounds] == ["für", " sie"]


def test_an_endless_line_needs_no_more_memory_than_a_piece(home, monkeypatch):
    from seqlm.evaluation import lines

    text = " ".join(["the dog saw"] * 300)
    expected = scored(home, "words", [text, "she"])
    monkeypatch.setattr(lines, "READ_AT_ONCE", 14)  # 7 steps of two lines
    for one, other in zip(scored(home, "words", [text, "she"]), expected, strict=True):
        np.testing.assert_allclose(one.log_p, other.log_p, atol=1e-5)


def test_the_textbook_example(home, tmp_path):
    """A model that has read of pear salads prefers one to a pair of them."""
    (home / "salad.txt").write_text("she ate the apple and pear salad\nthe pair of shoes\n" * 60)
    given = [word for word in TINY if not word.startswith(("data", "train.bptt"))]
    data = ["data=text", f"data.path={home / 'salad.txt'}", "data/tokenizer=word", "train.bptt=7"]
    train(
        compose(*given, *data, *SHORT, "schedule=constant", "optim.lr=0.05", f"run.root={tmp_path}", "run.name=salad"),
        {},
    )
    good, bad = scored(tmp_path, "salad", ["the apple and pear salad", "the apple and pair salad"])
    assert good.total > bad.total + 1
