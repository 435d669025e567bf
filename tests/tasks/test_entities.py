"""Entities as conlleval counts them: worked cases, its rules written down again, and another implementation."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from seqlm.commands.eval import evaluate_run
from seqlm.errors import ConfigError
from seqlm.runs.folder import RunFolder
from seqlm.tasks.base import Score
from seqlm.tasks.tagging import Tagging, entities
from seqlm.training.launch import train

from ..conftest import compose

# Tags and the entities that the rules of conlleval find in them, worked out by hand.
CASES = {
    "O O O": [],
    "B-PER I-PER O": [("PER", 0, 2)],
    "I-PER I-PER O I-LOC": [("PER", 0, 2), ("LOC", 3, 4)],  # IOB1: an entity need not begin with B-
    "I-PER B-PER I-PER": [("PER", 0, 1), ("PER", 1, 3)],  # IOB1: B- between two that touch
    "B-PER B-PER": [("PER", 0, 1), ("PER", 1, 2)],
    "B-PER I-LOC I-LOC": [("PER", 0, 1), ("LOC", 1, 3)],  # another type begins another entity
    "I-PER I-LOC": [("PER", 0, 1), ("LOC", 1, 2)],
    "O I-PER": [("PER", 1, 2)],
    "B-PER O I-PER": [("PER", 0, 1), ("PER", 2, 3)],
    "B-a-b I-a-b": [("a-b", 0, 2)],  # the type is all behind the first -
    "B I O": [("", 0, 2)],  # and may be nothing
    "S-PER B-PER I-PER E-PER O S-LOC": [("PER", 0, 1), ("PER", 1, 4), ("LOC", 5, 6)],  # IOBES
    "U-PER O B-LOC I-LOC L-LOC U-LOC": [("PER", 0, 1), ("LOC", 2, 5), ("LOC", 5, 6)],  # BILOU
    "B-PER E-PER I-PER": [("PER", 0, 2), ("PER", 2, 3)],  # after E- another begins
    "E-PER E-PER": [("PER", 0, 1), ("PER", 1, 2)],
    "S-PER I-PER": [("PER", 0, 1), ("PER", 1, 2)],
}


@pytest.mark.parametrize("tags", CASES)
def test_worked_cases(tags):
    assert entities(tags.split()) == set(CASES[tags])


def starts(before, tag, type_before, type_):
    """startOfChunk of conlleval, rule by rule, with the rules for E and S of its successors."""
    return (
        tag in ("B", "S")
        or (before in ("E", "S", "O") and tag in ("E", "I"))
        or (tag != "O" and tag != "." and type_before != type_)
    )


def ends(before, tag, type_before, type_):
    """endOfChunk."""
    return (
        before in ("E", "S")
        or (before in ("B", "I") and tag in ("B", "S", "O"))
        or (before != "O" and before != "." and type_before != type_)
    )


def counted(gold, predicted):
    """The loop of conlleval over two sequences: (correct, predicted, gold) by type, without ever listing entities."""
    correct, found, there, inside = Counter(), Counter(), Counter(), False
    before = {name: ("O", "") for name in ("gold", "predicted")}
    for a, b in zip([*gold, "O"], [*predicted, "O"], strict=True):
        now = {name: (tag.partition("-")[0], tag.partition("-")[2]) for name, tag in (("gold", a), ("predicted", b))}
        over = {k: ends(before[k][0], now[k][0], before[k][1], now[k][1]) for k in now}
        begun = {k: starts(before[k][0], now[k][0], before[k][1], now[k][1]) for k in now}
        if inside:
            if over["gold"] and over["predicted"] and before["gold"][1] == before["predicted"][1]:
                inside = False
                correct[before["gold"][1]] += 1
            elif over["gold"] != over["predicted"] or now["gold"][1] != now["predicted"][1]:
                inside = False
        if begun["gold"] and begun["predicted"] and now["gold"][1] == now["predicted"][1]:
            inside = True
        there[now["gold"][1]] += begun["gold"]
        found[now["predicted"][1]] += begun["predicted"]
        before = now
    return correct, found, there


def random_tags(rng, prefixes, length):
    return [str(tag) for tag in rng.choice(["O"] + [f"{p}-{t}" for p in prefixes for t in "xy"], size=length)]


def scored(pairs):
    score = Score(loss_sum=1.0, tokens=1)
    for gold, predicted in pairs:
        score.counts.update(Tagging().count({"tags": predicted}, {"tags": gold}))
    return score


@pytest.fixture(params=["BI", "I", "BIES"])
def pairs(request):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, size=300)
    made = [[random_tags(rng, request.param, n) for _ in "ab"] for n in lengths]
    for gold, predicted in made[::2]:  # half of them alike but for a tag
        predicted[:] = gold[:-1] + predicted[-1:]
    return made


def test_counts_are_those_of_conlleval(pairs):
    totals = [Counter(), Counter(), Counter()]
    for gold, predicted in pairs:
        for total, part in zip(totals, counted(gold, predicted), strict=True):
            total.update(part)
    types = Tagging().report(scored(pairs))["types"]
    assert types.keys() == {"x", "y"}
    for kind, row in types.items():
        correct, found, there = (total[kind] for total in totals)
        assert 0 < correct < there and row["support"] == there
        assert row["precision"] == correct / found and row["recall"] == correct / there
        assert row["f1"] == pytest.approx(2 * correct / (found + there), abs=1e-15)


def test_metrics_are_those_of_seqeval(pairs):
    from seqeval import metrics as seqeval

    gold, predicted = ([pair[side] for pair in pairs] for side in (0, 1))
    score = scored(pairs)
    metrics, types = Tagging().compute_metrics(score, None, "test"), Tagging().report(score)["types"]
    theirs = seqeval.classification_report(gold, predicted, output_dict=True)
    for name in ("precision", "recall", "f1"):
        assert metrics[name] == pytest.approx(theirs["micro avg"][f"{name}-score" if name == "f1" else name])
        for kind, row in types.items():
            assert row[name] == pytest.approx(theirs[kind][f"{name}-score" if name == "f1" else name])
    assert all(row["support"] == theirs[kind]["support"] for kind, row in types.items())
    assert metrics["accuracy"] == pytest.approx(seqeval.accuracy_score(gold, predicted))


def test_a_worked_table():
    """Three entities gold, three found, two of them right; a type that is only found has no recall."""
    score = scored([(["B-a", "I-a", "O", "B-b"], ["B-a", "I-a", "O", "B-c"]), (["B-a", "O"], ["B-a", "O"])])
    metrics = Tagging().compute_metrics(score, None, "test")
    assert metrics == {"loss": 1.0, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "accuracy": 5 / 6}
    report = Tagging().report(score)
    assert report["types"] == {
        "a": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 2},
        "b": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1},
        "c": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0},
    }
    assert report["confusions"] == [{"target": "B-b", "prediction": "B-c", "count": 1}]


def test_confusions_begin_with_the_most_frequent():
    pairs = [(["B-a"], ["B-b"])] * 2 + [(["O"], ["B-b"])] * 3 + [(["O"], ["O"])] * 9
    found = [(row["target"], row["prediction"], row["count"]) for row in Tagging().report(scored(pairs))["confusions"]]
    assert found == [("O", "B-b", 3), ("B-a", "B-b", 2)]


# Of word segmentation with types, and of parts of speech some of which have a name of one letter.
SEGMENTED = "人 B-ORG\n工 M-ORG\n智 M-ORG\n能 E-ORG\n， O\n天 B-LOC\n气 E-LOC\n好 S-PER\n\n"
SPEECH = "the RD\nhouse S\nin E\nnow B\n\n"


def run_on(folder, text, *words):
    for split in ("train", "valid"):
        (folder / f"{split}.conll").write_text(text * 6, encoding="utf-8")
    files = [f"data.{split}={folder / split}.conll" for split in ("train", "valid")]
    short = ["task=tagging", "model=tagger", "data=conll", "model.hidden_size=4", "train.steps=2", "train.batch_size=3",
             "threads=1", "sample.tokens=0", f"run.root={folder}", "run.name=run"]  # fmt: skip
    train(compose(*short, *files, *words), {})
    return folder / "run"


def test_a_run_counts_by_the_scheme_of_its_tags(tmp_path, capsys):
    """Recognised in train, shown, and the same when the run is scored, unless another is asked for."""
    run = run_on(tmp_path, SEGMENTED)
    assert "entities    BMES, recognised in the tags of train" in capsys.readouterr().out
    evaluate_run(str(run), [], False)
    shown = capsys.readouterr().out.splitlines()
    supports = {line.split()[0]: line.split()[-1] for line in shown if line.startswith(("ORG", "LOC", "PER"))}
    assert supports == {"ORG": "6", "LOC": "6", "PER": "6"} and "entities read as  BMES" in shown
    with pytest.raises(ConfigError, match="task.scheme=IOBES has no tag M-ORG, which this data has; its letters"):
        evaluate_run(str(run), ["task.scheme=IOBES"], False)


def test_tags_that_are_no_entities_have_no_f1(tmp_path):
    with pytest.raises(ConfigError, match=r"but the tag RD fits no scheme .*; use task.monitor=accuracy"):
        run_on(tmp_path, SPEECH)
    run = RunFolder.open(run_on(tmp_path, SPEECH, "task.monitor=accuracy"))
    assert set(run.info()["metrics"]) == {"valid/loss", "valid/accuracy"}


def test_strict_counts_what_is_whole(tmp_path, capsys):
    run = run_on(tmp_path, "a B-x\nb I-x\nc O\nd B-x\n\n" * 20 + "e I-x\nf O\n\n")
    capsys.readouterr()
    for words, support in (([], "246"), (["task.strict=true"], "240")):
        evaluate_run(str(run), words, False)
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert next(row[-1] for row in rows if row[:1] == ["x"]) == support
