"""seqlm score: its records, its files, and what it refuses."""

from __future__ import annotations

import json
import math

import pytest

from ..conftest import TINY, seqlm

LINES = ["she ate the apple and pear salad", "the pair of shoes", "an unheard thing"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A model that has read of pear salads and pairs of shoes, one of characters, and one that is no language model."""
    folder = tmp_path_factory.mktemp("score")
    (folder / "read.txt").write_text("she ate the apple and pear salad\nthe pair of shoes\n" * 60)
    (folder / "lines.txt").write_text("".join(f"{line}\n" for line in LINES))
    common = [word for word in TINY if not word.startswith(("data", "train.bptt", "train.steps"))]
    common += ["data=text", "data.path=read.txt", "train.bptt=7", "schedule=constant", "optim.lr=0.05"]
    seqlm("train", *common, "data/tokenizer=word", "train.steps=40", "run.name=words", cwd=folder)
    seqlm("train", *common, "train.steps=2", "run.name=chars", cwd=folder)
    tagger = ["task=tagging", "model=tagger", "data=taipei", "data.sentences=43", "model.hidden_size=8", "threads=1"]
    seqlm("train", *tagger, "train.batch_size=4", "train.steps=2", "run.name=tags", cwd=folder)
    return folder


def score(home, *words, run="words", **options):
    return seqlm("score", f"outputs/{run}", *words, cwd=home, **options)


def records(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_records_of_every_level_come_to_the_same(home):
    by_level = {level: records(score(home, "lines.txt", f"level={level}")) for level in ("token", "word", "line")}
    (total,) = records(score(home, "lines.txt", "level=total"))
    for found in by_level.values():
        assert sum(one["log_p"] for one in found) == pytest.approx(total["log_p"], abs=1e-5)
        assert all(one["surprisal"] == pytest.approx(-one["log_p"] / math.log(2)) for one in found)
    assert [one["text"] for one in by_level["line"]] == LINES
    assert [one["text"] for one in by_level["token"] if one["line"] == 2] == ["the", "pair", "of", "shoes", "<eos>"]
    assert by_level["token"][0].keys() == {
        "line", "token", "text", "id", "log_p", "surprisal", "rank", "entropy", "unknown",
    }  # fmt: skip
    assert (total["lines"], total["tokens"], total["words"], total["unknown"]) == (3, 17, 14, 3)
    assert total["ppl"] == pytest.approx(math.exp(-total["log_p"] / 17))
    ends = sum(one["log_p"] for one in by_level["token"] if one["text"] == "<eos>")
    assert total["ppl_without_ends"] == pytest.approx(math.exp(-(total["log_p"] - ends) / 14), rel=1e-5)
    assert [one["unknown"] for one in by_level["word"]][-4:] == [True, True, True, False]


def test_the_total_is_that_of_eval(home):
    for run in ("words", "chars"):
        told = json.loads(seqlm("eval", f"outputs/{run}", "file=lines.txt", "--json", cwd=home).stdout)
        (total,) = records(score(home, "lines.txt", "level=total", "context=stream", run=run))
        assert total["loss"] == pytest.approx(told["loss"], abs=1e-6) and total["tokens"] == told["tokens"]


def test_the_total_is_that_of_eval_without_a_line_feed_and_with_spaces(home):
    (home / "open.txt").write_text(" the pair \n\n  she ate ")
    for run in ("words", "chars"):
        told = json.loads(seqlm("eval", f"outputs/{run}", "file=open.txt", "--json", cwd=home).stdout)
        (total,) = records(score(home, "open.txt", "level=total", "context=stream", run=run))
        assert total["loss"] == pytest.approx(told["loss"], abs=1e-6) and total["tokens"] == told["tokens"]
        assert total["words"] == 4 and (run == "chars" or total["ppl_word"] == pytest.approx(told["ppl_word"]))


def test_columns(home):
    for level in ("token", "word", "line", "total"):
        done = score(home, "lines.txt", f"level={level}", "format=tsv")
        names, *rows = [line.split("\t") for line in done.stdout.splitlines()]
        objects = records(score(home, "lines.txt", f"level={level}"))
        assert len(rows) == len(objects) and all(len(row) == len(names) for row in rows)
        assert [row[names.index("log_p")] for row in rows] == [f"{one['log_p']:.6f}" for one in objects]
    (home / "tab.txt").write_text("a\tb\\n\n")
    assert "a\\tb\\\\n" in score(home, "tab.txt", "format=tsv").stdout


def test_as_srilm_prints_it(home):
    """Its report by hand: sums to the base of 10, unknown words neither in the sums nor among the words."""
    tokens = records(score(home, "lines.txt", "level=token"))
    told = score(home, "lines.txt", "format=srilm").stdout
    blocks = told.split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == [*LINES, "file lines.txt: 3 sentences, 14 words, 3 OOVs"]
    second = [one for one in tokens if one["line"] == 2]
    logs = [one["log_p"] / math.log(10) for one in second]
    words, before = ["the", "pair", "of", "shoes", "</s>"], ["<s> ", "the ...", "pair ...", "of ...", "shoes ..."]
    expected = [
        f"\tp( {word} | {context}) \t= [rnn] {10**log:.6g} [ {log:.6g} ]"
        for word, context, log in zip(words, before, logs, strict=True)
    ]
    assert blocks[1].splitlines()[1:-2] == expected
    assert blocks[1].splitlines()[-2:] == [
        "1 sentences, 4 words, 0 OOVs",
        f"0 zeroprobs, logprob= {sum(logs):.6g} ppl= {10 ** (-sum(logs) / 5):.6g} ppl1= {10 ** (-sum(logs) / 4):.6g}",
    ]
    assert blocks[2].splitlines()[1] == "\tp( <unk> | <s> ) \t= [OOV] 0 [ -inf ]"
    known = sum(one["log_p"] for one in tokens if not one["unknown"]) / math.log(10)
    assert told.splitlines()[-1] == (
        f"0 zeroprobs, logprob= {known:.6g} ppl= {10 ** (-known / 14):.6g} ppl1= {10 ** (-known / 11):.6g}"
    )


def test_srilm_has_no_perplexity_of_nothing(home):
    told = score(home, "-", "format=srilm", input="an unheard thing\n").stdout
    assert "1 sentences, 3 words, 3 OOVs\n0 zeroprobs, logprob= " in told and told.count("ppl1= undefined\n") == 2
    assert "\tp( <unk> | <unk> ...) \t= [OOV] 0 [ -inf ]" in told


def test_pairs(home):
    pairs = [(f"the pair of shoes{' and' * n}", f"the pear of shoes{' and' * n}") for n in range(10)]
    pairs += [(f"{'she ' * n}ate the apple and pear", f"{'she ' * n}ate the apple and pair") for n in range(10)]
    (home / "pairs.tsv").write_text("".join(f"{good}\t{bad}\n" for good, bad in pairs))
    common = {"UID": "homophones", "field": "syntax", "pairID": 7}
    objects = [json.dumps({"sentence_good": good, "sentence_bad": bad, **common}) for good, bad in pairs]
    (home / "blimp.jsonl").write_text("\n".join(objects))
    plain, blimp = score(home, "--pairs", "pairs.tsv"), score(home, "--pairs=blimp.jsonl")
    found = records(plain)
    assert [(one["good"], one["bad"]) for one in found] == pairs
    for one in found[::7]:
        totals = {text: records(score(home, "-", input=f"{text}\n"))[0]["log_p"] for text in (one["good"], one["bad"])}
        assert one["margin"] == pytest.approx(totals[one["good"]] - totals[one["bad"]], abs=1e-4)
    right = sum(one["margin"] > 0 for one in found)
    assert right >= 18 and f"accuracy     {100 * right / 20:.2f}%" in plain.stderr
    piped = score(home, "--pairs", "-", input=(home / "blimp.jsonl").read_text())
    assert (piped.stdout, piped.stderr) == (blimp.stdout, blimp.stderr)
    assert [one["margin"] for one in records(blimp)] == [one["margin"] for one in found]
    assert f"UID homophones  {100 * right / 20:.2f}%  (20)" in blimp.stderr and records(blimp)[0]["field"] == "syntax"


def test_the_best_of_several(home):
    """The textbook's case: by its own score a recogniser prefers the pair, with the model beside it the pear."""
    hypotheses = [("the apple and pair salad", -4.0, 1), ("the apple and pear salad", -4.5, 0), ("the", -60.0, 3)]
    lines = [f"{name}\t{own}\t{text}\t{wrong}" for name in "abcd" for text, own, wrong in hypotheses]
    (home / "nbest.tsv").write_text("\n".join(lines) + "\n")
    done = score(home, "--nbest", "nbest.tsv")
    assert [(one["group"], one["text"], one["place"]) for one in records(done)] == [
        (name, "the apple and pear salad", 2) for name in "abcd"
    ]
    assert "errors in 2" in done.stderr and "0   (by their own scores 2, at best 0)" in done.stderr
    assert "chosen on 2 of them (0 errors there)" in done.stderr
    own = score(home, "--nbest", "nbest.tsv", "weight=0", "format=tsv")
    assert [line.split("\t")[2] for line in own.stdout.splitlines()[1:]] == ["the apple and pair salad"] * 4
    objects = [json.dumps({"group": 7, "score": own, "text": text}) for text, own, _ in hypotheses]
    (home / "nbest.jsonl").write_text("\n".join(objects) + "\n")
    one = records(score(home, "--nbest", "-", "weight=1", input=(home / "nbest.jsonl").read_text()))
    assert one[0]["text"] == "the apple and pear salad" and one[0]["group"] == "7" and "errors" not in one[0]


@pytest.mark.parametrize("option", ["--pairs", "--nbest"])
def test_files_that_are_held_in_memory_have_a_bound(home, monkeypatch, option):
    (home / "large").write_text("the pear\tthe pair\n" * 3)
    monkeypatch.setattr("seqlm.data.reading.LARGEST_FILE", 20)
    done = score(home, option, "large", check=False)
    assert done.returncode == 2 and "large is larger than" in done.stderr and "split it into several" in done.stderr


def test_standard_input_is_answered_line_by_line(home):
    done = score(home, "-", "batch_size=1", input="the pair\r\n\n\ufeffthe pear")
    assert [one["words"] for one in records(done)] == [2, 0, 2]
    assert score(home, "-", input="the pair").stdout == score(home, "-", input="the pair\n").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "seqlm score needs a file after the run's folder"), (["none.txt"], "none.txt is not a file"),
     (["lines.txt", "--pairs", "lines.txt"], "seqlm score takes one file"), (["empty.txt"], "empty.txt holds no text"),
     (["latin.txt"], "latin.txt, line 2: byte 0xe9 is not UTF-8"), (["lines.txt", "level=letter"], "level=letter"),
     (["lines.txt", "format=csv"], "format=csv"), (["lines.txt", "weight=1"], "weight=1 does nothing without --nbest"),
     (["lines.txt", "cache.size=9"], "cache.size=9 needs a text that goes on: context=stream"),
     (["lines.txt", "cache.share=0.2"], "cache.share=0.2 does nothing without cache.size"),
     (["lines.txt", "dynamic.search=true"], "dynamic.search=true: seqlm eval chooses on valid"),
     (["lines.txt", "mean=geometric"], "mean=geometric does nothing without ensemble"),
     (["lines.txt", "context=stream", "eos=false"], "eos=false leaves out the ends"),
     (["lines.txt", "format=srilm", "level=word"], "leave level=word out"),
     (["lines.txt", "direction=backward"], "direction=backward needs a model that reads from both ends"),
     (["lines.txt", "--best"], "seqlm score knows no --best"),
     (["--pairs", "lines.txt"], "lines.txt, line 1: 1 columns; write good<TAB>bad"),
     (["--pairs", "lines.txt", "level=word"], "level=word does nothing with --pairs"),
     (["--pairs", "broken.jsonl"], "broken.jsonl, line 1: not JSON"),
     (["--pairs", "half.jsonl"], "half.jsonl, line 1: needs the keys good and bad"),
     (["--nbest", "lines.txt"], "lines.txt, line 1: 1 columns; write group<TAB>score<TAB>text"),
     (["--nbest", "words.tsv"], "words.tsv, line 1: score=high is no finite number"),
     (["--nbest", "one.tsv"], "1 groups have known errors, and a weight is chosen on half of them")],
)  # fmt: skip
def test_refused(home, words, message):
    (home / "empty.txt").touch()
    (home / "latin.txt").write_bytes(b"plain\ncaf\xe9\n")
    (home / "broken.jsonl").write_text("{no\n")
    (home / "half.jsonl").write_text('{"good": "a"}\n')
    (home / "words.tsv").write_text("a\thigh\ttext\n")
    (home / "one.tsv").write_text("a\t-1\tthe pair\t0\n")
    done = score(home, *words, check=False)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 3


def test_what_is_no_language_model_is_told_what_to_use(home):
    done = score(home, "lines.txt", run="tags", check=False)
    assert done.returncode == 2 and "Tagging gives tokens no probabilities; seqlm eval file=FILE" in done.stderr
