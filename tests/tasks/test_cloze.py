"""Cloze: every token masked once, both sides seen, nothing of what is masked."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from seqlm.config.build import build
from seqlm.data.batching.batches import IGNORE_INDEX
from seqlm.data.batching.gaps import Gaps
from seqlm.data.tokenizers.text import CharTokenizer
from seqlm.errors import ConfigError
from seqlm.evaluation.evaluate import evaluate
from seqlm.runs.assemble import build_data
from seqlm.runs.load import load_run
from seqlm.tasks.cloze import Cloze
from seqlm.training.launch import train

from ..conftest import compose, seqlm, tiny
from ..training.test_resume import stops_change_nothing, weights

CLOZE = ["task=cloze", "model=cloze"]


def model_of(*overrides, vocab=9):
    torch.manual_seed(3)
    config = compose(*CLOZE, "model.hidden_size=6", *overrides)
    return build(config.model, "model", vocab_size=vocab, engine="auto").double().eval()


@pytest.mark.parametrize(
    "count, bptt, share", [(100, 10, 0.2), (103, 10, 0.15), (7, 20, 0.5), (31, 30, 0.15), (5, 1, 0.3)]
)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_token_is_a_gap_once(count, bptt, share, batch_size):
    tokens = np.arange(count)
    gaps = Gaps(tokens, batch_size, bptt, mask=count, share=share)
    assert gaps.targets == count and len(gaps) == gaps.count(0)
    seen = []
    for index in range(len(gaps)):
        inputs, targets, number = gaps[index]
        assert inputs.shape[0] == min(bptt, count) and number == int((targets != IGNORE_INDEX).sum())
        for read, wanted in zip(inputs.T.numpy(), targets.T.numpy(), strict=True):
            text = np.where(wanted == IGNORE_INDEX, read, wanted)
            assert (np.diff(text) == 1).all() and ((read == count) == (wanted != IGNORE_INDEX)).all()
            seen += wanted[wanted != IGNORE_INDEX].tolist()
    assert sorted(seen) == list(range(count))


def test_gaps_of_training_follow_from_seed_and_epoch():
    def epoch(number, seed=5):
        gaps = Gaps(np.arange(95), 4, 10, mask=95, share=0.2, seed=seed)
        gaps.start_epoch(number)
        assert sum(gaps[index].tokens for index in range(len(gaps))) == gaps.targets == 9 * 2 + 1
        return [gaps[index].inputs.tolist() for index in range(len(gaps))]

    assert epoch(3) == epoch(3) != epoch(4) and epoch(3) != epoch(3, seed=6)
    with pytest.raises(ConfigError, match=r"train.bptt=96 is longer than the text of 95 tokens; use train.bptt=95"):
        Gaps(np.arange(95), 4, 96, mask=95, share=0.2, seed=5, where="train.")


@pytest.mark.parametrize("options", [
    "", "model.tied=true model.projection=true model.num_layers=2", "model/output=adaptive model.output.cutoffs=[4]",
    "model/output=mixture model.output.num_softmaxes=2",
])  # fmt: skip
def test_both_sides_are_seen_and_what_is_masked_is_not(options):
    model = model_of(*options.split())
    tokens = torch.arange(7).unsqueeze(1)
    read = tokens.clone()
    read[3] = 9

    def said(read):
        return model(read, ())[1][3, 0].log_softmax(-1)

    for place in (0, 2, 4, 6):
        other = read.clone()
        other[place] = (other[place] + 1) % 9
        assert (said(other) - said(read)).abs().max() > 1e-6, place
    targets = torch.full_like(tokens, IGNORE_INDEX)
    targets[3] = tokens[3]
    nats = model.nll(read, targets, (), ignore_index=IGNORE_INDEX)[1]
    assert nats.item() == pytest.approx(-said(read)[tokens[3, 0]].item(), abs=1e-9)
    nats.backward()
    assert model.mask.grad.abs().max() > 0
    if "tied" not in options:
        assert [bool(row.any()) for row in model.embedding.weight.grad[:7]] == [place != 3 for place in range(7)]


def test_scores_are_those_of_the_whole_softmax():
    data = build_data(compose("data=markov", "data.tokens=300", "data.symbols=8"))
    model, task = model_of(vocab=len(data.tokenizer)), Cloze(mask=0.25)
    nats, right = 0.0, 0
    for batch in (task.batches(data, "valid", 1, 11)[i] for i in range(len(task.batches(data, "valid", 1, 11)))):
        logs = model(batch.inputs, ())[1].log_softmax(-1)
        for t, token in enumerate(batch.targets[:, 0].tolist()):
            if token != IGNORE_INDEX:
                nats, right = nats - logs[t, 0, token].item(), right + (logs[t, 0].argmax().item() == token)
    for batch_size in (1, 4):
        score = evaluate(model, task, task.batches(data, "valid", batch_size, 11), torch.device("cpu"))
        assert score.loss_sum == pytest.approx(nats, abs=1e-9) and score.tokens == len(data["valid"].tokens)
        told = task.compute_metrics(score, data, "valid")
        assert told["accuracy"] == right / score.tokens and told["ppl"] == pytest.approx(math.exp(nats / score.tokens))


@pytest.mark.parametrize("bidirectional", [True, False])
def test_what_stands_behind_decides(tmp_path, bidirectional):
    """Every second letter is the one that follows it, drawn anew: who reads forward only must guess."""
    letters = np.random.default_rng(0).choice(list("abcd"), 4000)
    for name, part in {"train": letters[:3500], "valid": letters[3500:]}.items():
        (tmp_path / f"{name}.txt").write_text("".join(f"{x}{x}|" for x in part))
    train(compose(*CLOZE, "data=text", "data/tokenizer=char", f"data.train={tmp_path}/train.txt", "task.mask=0.2",
                  f"data.valid={tmp_path}/valid.txt", "model.hidden_size=24", f"model.bidirectional={bidirectional}",
                  "train.bptt=30", "train.batch_size=16", "optim.lr=0.02", "train.steps=250", "train.eval_every=250",
                  "threads=1", f"run.root={tmp_path}", "run.name=run"), {})  # fmt: skip
    accuracy = json.loads((tmp_path / "run" / "run.json").read_text())["metrics"]["valid/accuracy"]
    if bidirectional:
        assert accuracy > 0.85  # a letter whose twin is masked too must be guessed
    else:
        assert accuracy < 0.8  # a third are bars, a third second twins, a third guesses among four


@pytest.mark.parametrize("steps", [[4], [3, 5]])
def test_resume_is_exact(tmp_path, steps, monkeypatch):
    words = [*CLOZE, "train.steps=14", "train.eval_every=7", "model.dropout.input=0.3", "train.accumulate=2",
             "data.tokens=250", "train.batch_size=8"]  # fmt: skip
    stops_change_nothing(tmp_path, lambda name: tiny(tmp_path, *words, name=name), steps, monkeypatch)


def test_the_share_that_is_masked_changes_training_and_not_which_tokens_are_scored(tmp_path):
    for mask in (0.15, 0.4):
        train(tiny(tmp_path, *CLOZE, f"task.mask={mask}", "train.steps=4", "train.eval_every=4", name=f"m{mask}"), {})
    assert weights(tmp_path / "m0.15") != weights(tmp_path / "m0.4")


def test_long_lines_and_small_vocabularies(tmp_path):
    """A line is read in groups of its gaps; two letters have two fillers."""
    model = model_of(vocab=4)
    tokenizer = CharTokenizer().fit(["ab" * 9])
    assert len(tokenizer) == 4
    long, parts = "ab" * 80 + "b", []
    ids = [tokenizer.eos_id, *tokenizer.encode(long), tokenizer.eos_id]
    for place in range(1, len(ids) - 1):
        read = torch.tensor(ids).unsqueeze(1)
        read[place] = len(tokenizer)
        parts.append(-model(read, ())[1][place, 0].log_softmax(-1)[ids[place]].item())
    said = Cloze().answer(model, tokenizer, long)
    assert said["tokens"] == len(long) == len(parts)
    assert len(Cloze().answer(model, tokenizer, "a<mask>b")["fillers"][0]) == 4
    assert said["nll"] == pytest.approx(sum(parts), rel=1e-9)


@pytest.fixture(scope="module")
def words_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cloze")
    (folder / "text.txt").write_text("we arrive in Taipei on monday\nthey leave Taipei on friday\n" * 20)
    train(compose(*CLOZE, "data=text", "data/tokenizer=word", f"data.train={folder}/text.txt", "optim.lr=0.02",
                  f"data.valid={folder}/text.txt", f"data.test={folder}/text.txt", "model.hidden_size=16",
                  "train.epochs=80", "train.batch_size=4", "train.bptt=14", "threads=1",
                  f"run.root={folder}", "run.name=run"), {})  # fmt: skip
    return folder / "run"


def test_gaps_are_filled_on_the_command_line(words_run, tmp_path):
    text = "we arrive in <mask> on monday\nthey <mask> Taipei on <mask>\nthey leave\n"
    said = [json.loads(line) for line in seqlm("predict", words_run, "-", cwd=tmp_path, input=text).stdout.splitlines()]
    best = [[fillers[0]["token"] for fillers in one["fillers"]] for one in said[:2]]
    assert best == [["Taipei"], ["leave", "friday"]]
    assert all(0 < fillers[0]["p"] <= 1 and len(fillers) == 5 for fillers in said[0]["fillers"])
    run = load_run(words_run)
    ids, nats = [run.tokenizer.eos_id, *run.tokenizer.encode("they leave"), run.tokenizer.eos_id], 0.0
    for place in (1, 2):  # each masked alone
        read = torch.tensor(ids).unsqueeze(1)
        read[place] = len(run.tokenizer)
        nats -= run.model(read, ())[1][place, 0].log_softmax(-1)[ids[place]].item()
    assert said[2]["tokens"] == 2 and said[2]["nll"] == pytest.approx(nats, rel=1e-5)
    answers = seqlm("predict", words_run, "-", cwd=tmp_path, input=" \nwe\n").stdout.splitlines()
    assert json.loads(answers[0])["error"] == "empty" and json.loads(answers[1])["tokens"] == 1
    samples = "".join(path.read_text() for path in (words_run / "samples").iterdir())
    assert "[" in samples and "Taipei" in samples


def test_from_the_command_line(words_run, tmp_path):
    scores = [
        json.loads(seqlm("eval", words_run, "split=test", "threads=1", *how, "--json", cwd=tmp_path).stdout)
        for how in ([], ["batch_size=3"], ["bptt=7"])
    ]
    assert scores[0]["tokens"] == 20 * 13 and scores[0]["bptt"] == 14
    assert (
        scores[0]["loss_sum"] == pytest.approx(scores[1]["loss_sum"], rel=1e-5)
        and scores[2]["loss_sum"] != scores[0]["loss_sum"]
    )
    done = seqlm("sample", words_run, cwd=tmp_path, check=False)
    assert done.returncode == 2 and "Cloze does not write texts; use seqlm predict" in done.stderr


@pytest.mark.parametrize("options, message", [
    (["task.mask=0"], "task.mask=0 must be above 0"),
    (["task.mask=0.6"], "and 0.5 at most"),
    (["train.drop_state=0.1"], "train.drop_state=0.1 does nothing: Cloze reads pieces by themselves"),
    (["train.bptt=5000"], r"train.bptt=5000 is longer than the text"),
    (["sample.prompt=a"], "sample.prompt='a' does nothing"),
    (["model=lstm", "model.bidirectional=true"],
     "cannot be a language model.*task=bilm model=bilm.*task=cloze model=cloze"),
    (["model=lstm"], "trains a ClozeModel, but this model is a LanguageModel"),
])  # fmt: skip
def test_what_cannot_be(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        train(tiny(tmp_path, *CLOZE, *options), {})
    assert not (tmp_path / "run").exists()
