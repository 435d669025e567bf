"""Scoring: every target once, in every unit, whatever the shape of the chunks."""

from __future__ import annotations

import json
import math

import pytest
import torch

from seqlm.commands.eval import evaluate_run as main
from seqlm.data.batching.streams import Streams
from seqlm.evaluation.evaluate import evaluate
from seqlm.runs.folder import RunFolder
from seqlm.runs.load import load_run
from seqlm.tasks.text import perplexity
from seqlm.training.launch import train

from ..conftest import compose, tiny

TEXT = "".join(f"the {a} saw the {b} again\n" for a in ("cat", "dog", "ox") for b in ("hen", "cow", "pig", "owl"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    for split, text in (("train", TEXT), ("valid", TEXT[-60:]), ("test", TEXT[50:170] + "the emu saw the hen")):
        (folder / f"{split}.txt").write_text(text)
    for tokenizer in ("word", "char"):
        train(
            compose("data=text", f"data/tokenizer={tokenizer}", f"data.path={folder}", f"run.root={folder}",
                    f"run.name={tokenizer}", "model.hidden_size=12", "model.num_layers=2", "train.steps=30",
                    "train.batch_size=2",
                    "train.bptt=9", "train.eval_batch_size=2", "train.log_every=10", "sample.tokens=5", "threads=1"),
            {},
        )  # fmt: skip
    return folder


def one_by_one(run, tokens):
    """The definition: sum of -ln p(w_t | all before), token after token, starting from <eos>."""
    carry, nats, before = run.model.init_carry(1), 0.0, run.tokenizer.eos_id
    with torch.no_grad():
        for token in tokens.tolist():
            carry, logits = run.model(torch.tensor([[before]]), carry)
            nats -= float(logits[0, 0].double().log_softmax(0)[token])
            before = token
    return nats


@pytest.mark.parametrize("tokenizer", ["word", "char"])
@pytest.mark.parametrize("bptt", [1, 7, 1000])
def test_one_stream_scores_by_the_definition(run, tokenizer, bptt):
    loaded = load_run(run / tokenizer)
    tokens = loaded.data["test"].tokens
    streams = Streams(tokens, 1, bptt, first=loaded.tokenizer.eos_id, clip=True)
    score = evaluate(loaded.model, loaded.task, streams, torch.device("cpu"))
    assert score.tokens == len(tokens)
    assert score.loss_sum == pytest.approx(one_by_one(loaded, tokens), rel=1e-5)


def test_columns_score_every_token_too(run):
    loaded = load_run(run / "char")
    tokens = loaded.data["test"].tokens
    for batch_size in (2, 3, 10):
        streams = Streams(tokens, batch_size, 11, first=loaded.tokenizer.eos_id, clip=True)
        assert evaluate(loaded.model, loaded.task, streams, torch.device("cpu")).tokens == len(tokens)


def test_the_report(run, capsys):
    main(str(run / "word"), ["split=test"], as_json=True)
    result = json.loads(capsys.readouterr().out)
    text = (run / "test.txt").read_text()
    words = len(text.split()) + text.count("\n") + 1
    assert result["tokens"] == result["words"] == words and result["characters"] == len(text)
    assert result["ppl"] == pytest.approx(math.exp(result["loss_sum"] / words)) == pytest.approx(result["ppl_word"])
    assert result["bpc"] == pytest.approx(result["loss_sum"] / math.log(2) / len(text))
    unknown = [word for word in text.split() if word not in TEXT.split()]  # emu, and words cut at the file's ends
    assert "emu" in unknown and result["oov_rate"] == pytest.approx(len(unknown) / words)
    assert json.loads((run / "word" / "eval-test.json").read_text()) == result
    main(str(run / "char"), ["split=test", "batch_size=3", "bptt=4"], as_json=True)
    result = json.loads(capsys.readouterr().out)
    assert result["tokens"] == result["characters"] == len(text) and result["words"] == words
    assert result["ppl_word"] == pytest.approx(math.exp(result["loss_sum"] / words))
    assert result["bpc"] == pytest.approx(result["loss"] / math.log(2))
    main(str(run / "char"), [], as_json=False)
    table = capsys.readouterr().out
    assert "perplexity per word" in table and "bits per character" in table and "out of vocabulary" in table


def test_bits_per_character_are_of_the_text_not_of_the_tokens(run):
    metrics, text = RunFolder(run / "word").info()["metrics"], (run / "valid.txt").read_text()
    tokens = len(text.split()) + text.count("\n")
    assert metrics["valid/bpc"] == pytest.approx(metrics["valid/loss"] * tokens / math.log(2) / len(text))


def test_evaluation_changes_nothing_in_training(tmp_path):
    from ..training.test_training import of

    dropout = ["model.dropout.hidden=0.3", "schedule=constant"]
    train(tiny(tmp_path, *dropout, "train.eval_every=2", name="often"), {})
    train(tiny(tmp_path, *dropout, "train.eval_every=100", name="once"), {})
    assert of("train/loss", tmp_path / "often") == of("train/loss", tmp_path / "once")


def test_runaway_losses_are_infinite_not_errors():
    assert perplexity(1e6, 10) == math.inf and perplexity(10 * math.log(7), 10) == pytest.approx(7)


def test_a_text_is_read_many_tokens_at_once(run, capsys):
    """As many as make products fast; the carry goes on, so chunks of any length give the same."""
    loaded = load_run(run / "char")
    task, config = loaded.task, loaded.config
    assert [task.eval_bptt(config, rows) for rows in (1, 4, 1000)] == [1024, 256, config.train.bptt]
    exact = evaluate(loaded.model, task, task.batches(loaded.data, "valid", 1, 3), torch.device("cpu"))
    found = evaluate(loaded.model, task, task.batches(loaded.data, "valid", 1, 1024), torch.device("cpu"))
    assert found.tokens == exact.tokens and math.isclose(found.loss_sum, exact.loss_sum, rel_tol=1e-5)
    main(str(run / "char"), [], True)
    assert json.loads(capsys.readouterr().out)["bptt"] == 1024
