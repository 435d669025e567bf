"""Sampling: deterministic, honest about the vocabulary, and the training step's own mathematics."""

from __future__ import annotations

import re

import pytest
import torch

from seqlm import GRUCell, LanguageModel, Recurrent, Stack
from seqlm.config.compose import compose_words
from seqlm.config.values import load_config, verb_config
from seqlm.config.verb_schema import SampleConfig
from seqlm.data.tokenizers.text import ByteTokenizer, CharTokenizer, WordTokenizer
from seqlm.errors import ConfigError
from seqlm.runs.folder import RunFolder
from seqlm.sweep.plan import make_plan
from seqlm.tasks.generation import draw, generate
from seqlm.training.launch import train

from ..conftest import seqlm as command
from ..conftest import tiny

TEXT = "to be or not to be\nthat is the question\n"


def how(*words):
    return verb_config("sample", SampleConfig, words)


def model_for(tokenizer, engine="scan"):
    torch.manual_seed(0)
    layers = [Recurrent(GRUCell(8, 8), engine=engine) for _ in range(2)]
    return LanguageModel(len(tokenizer), Stack(layers), init_range=1.0)


@pytest.mark.parametrize("tokenizer", [CharTokenizer(), WordTokenizer(), ByteTokenizer()])
def test_the_same_seed_writes_the_same_text(tokenizer):
    tokenizer = tokenizer.fit([TEXT])
    model = model_for(tokenizer)
    texts = [
        "".join(generate(model, tokenizer, how("tokens=60", f"seed={seed}", "prompt=to be"))) for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_greedy_equals_the_argmax_of_the_whole_sequence():
    """Token by token with a carry, or the whole text at once: one model, one answer."""
    tokenizer = CharTokenizer().fit([TEXT])
    model = model_for(tokenizer, "auto").eval()
    text = "".join(generate(model, tokenizer, how("tokens=30", "temperature=0", "prompt=to")))
    ids = [tokenizer.eos_id, *tokenizer.encode("to" + text)]
    _, logits = model(torch.tensor(ids[:-1]).unsqueeze(1), model.init_carry(1))
    logits[..., tokenizer.unk_id] = -torch.inf
    assert logits[2:, 0].argmax(-1).tolist() == ids[3:]


def test_unknown_words_are_never_written_unless_asked():
    tokenizer = WordTokenizer().fit([TEXT])
    model = model_for(tokenizer)
    model.decoder.bias.data[tokenizer.unk_id] = 50
    assert "<unk>" not in "".join(generate(model, tokenizer, how("tokens=50")))
    assert "<unk>" in "".join(generate(model, tokenizer, how("tokens=50", "allow_unk=true")))


def test_prompts_the_vocabulary_lacks_are_refused():
    tokenizer = CharTokenizer().fit([TEXT])
    with pytest.raises(ConfigError, match="'Z', 'ß'"):
        next(generate(model_for(tokenizer), tokenizer, how("prompt=to Zß be Z")))
    words = WordTokenizer().fit([TEXT])
    with pytest.raises(ConfigError, match="'bee'"):
        next(generate(model_for(words), words, how("prompt=to bee")))
    next(generate(model_for(ByteTokenizer()), ByteTokenizer(), how("prompt=ß😀")))


def test_a_bad_prompt_is_refused_before_training_starts(tmp_path):
    with pytest.raises(ConfigError, match="sample.prompt='xyz' has what the vocabulary lacks: 'x', 'y', 'z'"):
        train(tiny(tmp_path, "sample.prompt=xyz"), {})
    assert list(tmp_path.iterdir()) == []


def test_words_follow_the_prompt_with_a_space():
    tokenizer = WordTokenizer().fit([TEXT])
    model = model_for(tokenizer)
    model.decoder.bias.data[tokenizer.encode("be")[0]] = 99
    assert "".join(generate(model, tokenizer, how("tokens=2", "prompt=to"))) == " be be"
    assert "".join(generate(model, tokenizer, how("tokens=2"))) == "be be"


def drawn(*words, logits=(2.0, 1.0, 0.0, -1.0), n=400):
    options = how(*words)
    generator = torch.Generator().manual_seed(0)
    return [draw(torch.tensor(logits), options, generator) for _ in range(n)]


def test_restrictions_of_the_draw():
    assert set(drawn("temperature=1")) == {0, 1, 2, 3}
    assert set(drawn("temperature=0")) == {0}
    assert set(drawn("temperature=1", "top_k=2")) == {0, 1}
    assert set(drawn("temperature=5", "top_k=1")) == {0}
    assert set(drawn("temperature=1", "top_p=0.1")) == {0}
    probabilities = torch.tensor([2.0, 1.0, 0.0, -1.0]).softmax(0)
    assert set(drawn("temperature=1", f"top_p={probabilities[:2].sum() - 1e-4}")) == {0, 1}
    assert set(drawn("temperature=1", f"top_p={probabilities[:2].sum() + 1e-4}")) == {0, 1, 2}
    counts = torch.bincount(torch.tensor(drawn("temperature=1", n=4000)), minlength=4) / 4000
    torch.testing.assert_close(counts, probabilities, rtol=0, atol=0.03)
    hot = torch.bincount(torch.tensor(drawn("temperature=2", n=4000)), minlength=4) / 4000
    torch.testing.assert_close(hot, (torch.tensor([2.0, 1.0, 0.0, -1.0]) / 2).softmax(0), rtol=0, atol=0.03)


def test_keys_of_the_verb():
    assert how("prompt=123").prompt == "123" and how("prompt= a: b=c ").prompt == " a: b=c "
    assert how("prompt=null").prompt == "null" and how("top_k=null").top_k is None
    for words, message in [
        (["temprature=1"], "temprature is not a key.*did you mean temperature?"),
        (["tokens=many"], "tokens=many should be a whole number"),
        (["temperature=-1"], "temperature=-1 must be at least 0"),
        (["top_p=0"], "top_p=0 must be greater than 0"),
        (["loud"], "loud is not key=value"),
    ]:
        with pytest.raises(ConfigError, match=message):
            how(*words)


def test_sampling_leaves_the_global_generator_alone():
    tokenizer = CharTokenizer().fit([TEXT])
    model = model_for(tokenizer).train()
    before = torch.get_rng_state()
    "".join(generate(model, tokenizer, how("tokens=9")))
    assert (torch.get_rng_state() == before).all() and model.training


def test_a_random_seed_is_told_and_writes_the_same_again(tmp_path):
    train(tiny(tmp_path, "train.steps=2"), {})

    def sampled(seed):
        return command("sample", tmp_path / "run", "tokens=60", f"seed={seed}", cwd=tmp_path)

    first = sampled("random")
    (seed,) = re.findall(r"^seed (\d+) was drawn; seed=\1 writes the same again$", first.stderr, re.M)
    assert sampled(seed).stdout == first.stdout != sampled("random").stdout


def test_the_seed_of_a_run_is_drawn_once(tmp_path, capsys):
    """It is in the name, the words and the config of the run, and stays the same when the run goes on."""
    words = ["data=markov", "data.tokens=900", "model.hidden_size=4", "train.steps=2", "seed=random", "threads=1",
             "train.bptt=8", "train.batch_size=4", "train.eval_batch_size=2", "schedule=constant", "sample.tokens=0",
             f"run.root={tmp_path}", "run.name=run", "resume=auto"]  # fmt: skip
    config, choices = compose_words(words)
    train(config, choices, words)
    run = RunFolder.open(tmp_path / "run")
    seed = run.info()["seed"]
    assert f"seed {seed} was drawn; seed={seed} repeats this run" in capsys.readouterr().out
    assert f"seed={seed}" in run.info()["overrides"] and load_config(run.config).seed == seed == config.seed
    again, choices = compose_words([*words, "train.steps=3"])
    train(again, choices, words)
    assert again.seed != seed and load_config(run.config).seed == seed and run.info()["steps"] == 3
    with pytest.raises(ConfigError, match="seed=many should be a whole number or random"):
        compose_words(["seed=many"])
    with pytest.raises(ConfigError, match="seed=random: a sweep finds its runs again by their seeds"):
        make_plan("lr", ["seed=1,random", f"run.root={tmp_path}"])
