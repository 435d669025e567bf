"""Language models in both directions: each is the language model it says it is, and what they share is shared."""

from __future__ import annotations

import json

import pytest
import torch

from seqlm.config.build import build
from seqlm.data.batching.batches import IGNORE_INDEX
from seqlm.data.batching.both import Both
from seqlm.data.batching.streams import Lengths, Streams
from seqlm.errors import ConfigError
from seqlm.evaluation.evaluate import evaluate
from seqlm.models.language_model import BidirectionalLanguageModel, LanguageModel
from seqlm.runs.assemble import build_data
from seqlm.runs.load import load_run, trained_model
from seqlm.tasks.bilm import BidirectionalLanguageModeling
from seqlm.tasks.lm import LanguageModeling
from seqlm.training.launch import train

from ..conftest import compose, seqlm, tiny
from ..training.test_resume import stops_change_nothing

BILM = ["task=bilm", "model=bilm"]


def model_of(*overrides, vocab=9):
    torch.manual_seed(3)
    config = compose(*BILM, "model.hidden_size=6", *overrides)
    return build(config.model, "model", vocab_size=vocab, engine="auto").double()


def data_of(*overrides):
    return build_data(compose("data=markov", "data.tokens=300", "data.symbols=8", *overrides))


@pytest.mark.parametrize(
    "options", [[], ["model.tied=true", "model.num_layers=2"], ["model/output=mixture", "model.output.num_softmaxes=2"]]
)
def test_each_direction_is_a_language_model_by_itself(options):
    data, task = data_of(), BidirectionalLanguageModeling()
    model = model_of(*options, vocab=len(data.tokenizer)).eval()
    score = evaluate(model, task, task.batches(data, "valid", 3, 7), torch.device("cpu"))
    tokens = data["valid"].tokens
    for one, read, name in [(model.fwd, tokens, "forward"), (model.bwd, tokens[::-1], "backward")]:
        assert isinstance(one, LanguageModel)
        streams = Streams(read.copy(), 3, 7, first=data.tokenizer.eos_id, clip=True)
        alone = evaluate(one, LanguageModeling(), streams, torch.device("cpu"))
        assert score.counts[name] == pytest.approx(alone.loss_sum, abs=1e-9) and alone.tokens == len(tokens)
    assert score.tokens == 2 * len(tokens)
    told = task.compute_metrics(score, data, "valid")
    assert told["ppl"] == pytest.approx((told["forward_ppl"] * told["backward_ppl"]) ** 0.5)
    assert told["forward_ppl"] != told["backward_ppl"]


def test_words_are_shared_and_stacks_are_not():
    model = model_of("model.tied=true", "model.projection=true", "model.embedding_size=5")
    assert model.bwd.embedding is model.fwd.embedding and model.bwd.decoder is model.fwd.decoder
    names = dict(model.named_parameters())
    alone = model_of("model=lstm", "model.tied=true", "model.projection=true", "model.embedding_size=5")
    shared = sum(p.numel() for p in [*model.fwd.embedding.parameters(), model.fwd.decoder.bias])
    assert sum(p.numel() for p in names.values()) == 2 * sum(p.numel() for p in alone.parameters()) - shared
    assert model.bwd.projection is not model.fwd.projection
    tokens = torch.zeros(4, 2, dtype=torch.long)
    model.bwd.nll(tokens, tokens + 1, model.init_carry(2)[1])[1].backward()
    assert model.fwd.embedding.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in model.fwd.stack.parameters())


def test_a_number_of_parameters_is_that_of_both():
    model = model_of("model.num_params=20k")
    count = sum(p.numel() for p in model.parameters())
    size = model.fwd.stack.output_size
    larger = model_of(f"model.hidden_size={size + 1}")
    assert count <= 20_000 < sum(p.numel() for p in larger.parameters())


@pytest.mark.parametrize("lengths", [7, Lengths(7, 2.0, 0.3, seed=4)])
def test_both_directions_read_every_token_once_in_chunks_of_one_height(lengths):
    tokens = torch.randperm(101).numpy()
    both = Both(lambda read: Streams(read, 4, lengths, first=0), tokens)
    for epoch in (0, 1):
        both.start_epoch(epoch)
        assert len(both) == both.count(epoch)
        seen = []
        for index in range(len(both)):
            pair = both[index]
            assert pair.forward.inputs.shape == pair.backward.inputs.shape
            assert pair.tokens == pair.forward.tokens + pair.backward.tokens
            assert both.lr_scale(index) == both.backward.lr_scale(index)
            seen.append(pair)
        for direction in ("forward", "backward"):
            targets = torch.cat([getattr(pair, direction).targets.flatten() for pair in seen])
            assert sorted(targets[targets != IGNORE_INDEX].tolist()) == sorted(tokens.tolist())
    assert sum(part.tokens for part in both[0].parts(3)) == both[0].tokens


@pytest.mark.parametrize("penalty", ["activation", "temporal"])
def test_penalties_are_of_both_directions(penalty):
    data = data_of()
    model, batch = model_of(vocab=len(data.tokenizer)), BidirectionalLanguageModeling().batches(data, "valid", 3, 7)[0]
    whole = BidirectionalLanguageModeling(penalties={penalty: 2.0}).objective(model, batch, model.init_carry(3))
    one = LanguageModeling(penalties={penalty: 2.0})
    each = [
        one.objective(of, chunk, carry)
        for of, chunk, carry in zip((model.fwd, model.bwd), batch, model.init_carry(3), strict=True)
    ]
    assert whole[1] == each[0][1] + each[1][1] and whole[2] == each[0][2] + each[1][2]
    assert BidirectionalLanguageModeling().objective(model, batch, model.init_carry(3))[2] is None


@pytest.mark.parametrize("steps", [[4], [3, 5]])
def test_resume_is_exact(tmp_path, steps, monkeypatch):
    words = [*BILM, "train.steps=14", "train.eval_every=7", "model.dropout.input=0.3", "train.accumulate=2",
             "train.bptt_std=2", "task.penalties.activation=1"]  # fmt: skip
    stops_change_nothing(tmp_path, lambda name: tiny(tmp_path, *words, name=name), steps, monkeypatch)


@pytest.fixture(scope="module")
def words_run(tmp_path_factory):
    """A run on lines of words."""
    folder = tmp_path_factory.mktemp("bilm")
    (folder / "text.txt").write_text("we arrive in Taipei on monday\nthey leave Taipei on friday\n" * 20)
    train(compose(*BILM, "data=text", "data/tokenizer=word", f"data.train={folder}/text.txt",
                  f"data.valid={folder}/text.txt", f"data.test={folder}/text.txt", "model.hidden_size=7",
                  "model/cell=gru", "train.steps=6", "train.batch_size=4", "train.bptt=8", "sample.tokens=5",
                  "threads=1", f"run.root={folder}", "run.name=run"), {})  # fmt: skip
    return folder / "run"


def test_its_states_are_features_in_both_directions(words_run, tmp_path):
    run = load_run(words_run)
    assert isinstance(run.model, BidirectionalLanguageModel)
    config = compose("task=tagging", "data=taipei", "model=tagger", "model.hidden_size=5",
                     f"model.language_models=[{{run: {words_run}}}]")  # fmt: skip
    data = build_data(config)
    from seqlm.runs.assemble import build_model

    model = build_model(config, data.tokenizer, trained_model)
    assert len(model.readers) == 3 and [reader.reverse for reader in model.readers[1:]] == [False, True]
    batch = data["train"].batch([0, 1, 5])
    for column, example in enumerate(data["train"].examples(batch)):
        ids = run.tokenizer.encode(" ".join(example["words"]))
        for reader, one, turn in zip(model.readers[1:], (run.model.fwd, run.model.bwd), (1, -1), strict=True):
            read = torch.tensor([run.tokenizer.eos_id, *ids[::turn]]).unsqueeze(1)
            states = one.read(read, one.init_carry(1)).top[1:, 0]
            states = states if turn == 1 else states.flip(0)
            torch.testing.assert_close(reader(batch)[: len(ids), column], states)


def test_what_does_not_go_together(words_run, tmp_path):
    for options, message in [
        (["task=bilm"], "trains a BidirectionalLanguageModel, but this model is a LanguageModel"),
        (["model=bilm"], "trains a LanguageModel, but this model is a BidirectionalLanguageModel"),
        ([*BILM, "model.bidirectional=true"], "model.bidirectional=true cannot be a language model"),
        (["+model.predicts=next"], "model.predicts is now the choice of a model: model=lstm, bilm or cloze"),
        (["task=tagging", "data=taipei", "model=tagger",
          f"model.language_models=[{{run: {words_run}, reverse: true}}]"], "reads in both directions"),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            train(compose(*options, f"run.root={tmp_path}", "run.name=wrong", "threads=1"), {})
        assert not (tmp_path / "wrong").exists()
    with pytest.raises(ValueError, match="a stack of its own"):
        one = model_of("model=lstm")
        BidirectionalLanguageModel(one, one)
    with pytest.raises(ValueError, match="the embedding is to be one for both"):
        BidirectionalLanguageModel(model_of("model=lstm"), model_of("model=lstm", vocab=8))


def test_from_the_command_line(words_run, tmp_path):
    scored = json.loads(seqlm("eval", words_run, "split=test", "threads=1", "--json", cwd=tmp_path).stdout)
    assert scored["tokens"] == 2 * 20 * 13 and scored["forward_ppl"] != scored["backward_ppl"]
    said = seqlm("predict", words_run, "-", cwd=tmp_path, input="leave Taipei\n\n").stdout.splitlines()
    answer, empty = map(json.loads, said)
    assert empty == {"words": "", "error": "empty"} and answer["tokens"] == 3
    run = load_run(words_run)
    ids = run.tokenizer.encode("leave Taipei")
    for name, one, turned in [("forward", run.model.fwd, ids), ("backward", run.model.bwd, ids[::-1])]:
        eos = run.tokenizer.eos_id
        read = torch.tensor([eos, *turned, eos]).unsqueeze(1)
        logs = one(read[:-1], one.init_carry(1))[1].log_softmax(-1)
        assert answer[f"{name}_nll"] == pytest.approx(-logs.gather(-1, read[1:].unsqueeze(-1)).sum().item(), rel=1e-5)
    assert seqlm("sample", words_run, "tokens=5", "threads=1", cwd=tmp_path).stdout.strip()
    done = seqlm("eval", words_run, "cache.size=5", cwd=tmp_path, check=False)
    assert done.returncode == 2 and "cache does nothing for BidirectionalLanguageModeling" in done.stderr
