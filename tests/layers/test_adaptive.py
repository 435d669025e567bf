"""The adaptive softmax against a slow hierarchy in NumPy, and everything that is done with it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from seqlm.commands.eval import evaluate_run as evaluate
from seqlm.commands.sample import main as sample
from seqlm.data.tokenizers.text import CharTokenizer, WordTokenizer
from seqlm.errors import ConfigError
from seqlm.layers import AdaptiveSoftmax, softmax
from seqlm.training.launch import resume, train

from ..conftest import TINY, compose
from ..models.test_model import model_of
from ..training.test_resume import losses, weights

WIDTH, V, CUTOFFS = 9, 23, [5, 11]  # clusters of 6 and 12 words with 4 and 2 features
ADAPTIVE = "model/output=adaptive"
WORDS = ["data=text", "data/tokenizer=word", ADAPTIVE, "model.output.cutoffs=[4,9]", "model.output.div_value=2"]


def layer(seed=0):
    torch.manual_seed(seed)
    made = AdaptiveSoftmax(WIDTH, V, CUTOFFS, div_value=2.0).double()
    for parameter in made.parameters():
        torch.nn.init.uniform_(parameter, -1.5, 1.5)
    return made, torch.randn(4, 3, WIDTH, dtype=torch.float64)


def by_hand(made, y):
    """p of every word, one after the other."""

    def soft(scores):
        return np.exp(scores) / np.exp(scores).sum()

    weights = {name: parameter.detach().numpy() for name, parameter in made.named_parameters()}
    head = soft(weights["head.weight"] @ y)
    p = list(head[:5])
    for k, size in enumerate((6, 12)):
        down, out = weights[f"tail.{k}.0.weight"], weights[f"tail.{k}.1.weight"]
        assert down.shape == (9 // 2 ** (k + 1), WIDTH) and out.shape[0] == size
        p += list(head[5 + k] * soft(out @ (down @ y)))
    return np.array(p)


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_probabilities_by_hand(temperature):
    made, ys = layer()
    found = made.logits((ys,), temperature=temperature).log_softmax(-1).exp().detach().numpy()
    for t in range(4):
        for b in range(3):
            expected = by_hand(made, ys[t, b].numpy())
            assert expected.sum() == pytest.approx(1, abs=1e-12)
            expected **= 1 / temperature
            np.testing.assert_allclose(found[t, b], expected / expected.sum(), rtol=1e-10)
    torch.testing.assert_close(made.logits((ys,)).exp().sum(-1), torch.ones(4, 3, dtype=torch.float64))


@pytest.mark.parametrize("targets", [
    [[0, 4, 5], [10, 11, 22], [-1, 7, -1], [3, 16, 2]],
    [[0, 1, 2], [3, 4, 0], [4, 5, 6], [-1, 1, 1]],  # nobody in the last cluster
    [[-1] * 3] * 4,
])  # fmt: skip
@pytest.mark.parametrize("chunk", [2**26, 8 * 7 * 2])
def test_loss_and_gradient(targets, chunk, monkeypatch):
    monkeypatch.setattr(softmax, "CHUNK_BYTES", chunk)
    made, ys = layer()
    targets = torch.tensor(targets)
    nats = made.nll((ys.requires_grad_(),), targets, ignore_index=-1)
    slow = sum(-math.log(by_hand(made, ys[t, b].detach().numpy())[targets[t, b]])
               for t in range(4) for b in range(3) if targets[t, b] >= 0)  # fmt: skip
    assert nats.item() == pytest.approx(slow, rel=1e-10)
    kept = targets.flatten() >= 0
    if kept.any():
        theirs = made(ys.flatten(0, 1)[kept], targets.flatten()[kept]).output.sum()
        assert nats.item() == pytest.approx(-theirs.item(), rel=1e-10)
    sources = [ys, *made.parameters()]
    nats.backward()
    logs = made.logits((ys,)).gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    expected = torch.autograd.grad(-torch.where(targets < 0, 0.0, logs).sum(), sources)
    for source, gradient in zip(sources, expected, strict=True):
        torch.testing.assert_close(source.grad, gradient, rtol=1e-10, atol=1e-12)


def test_a_word_outside_the_vocabulary_is_an_error():
    made, ys = layer()
    with pytest.raises(IndexError):
        made.nll((ys,), torch.full((4, 3), V))


def test_in_a_model():
    torch.manual_seed(0)
    model = model_of(
        ADAPTIVE, "model.output.cutoffs=[10,25]", "model.hidden_size=20", "model.dropout.output=0.3", vocab=60
    )
    tokens, carry = torch.randint(60, (30, 3)), model.init_carry(3)
    model.nll(tokens[:-1], tokens[1:], carry)[1].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    assert "decoder.tail.1.0.weight" in model.state_dict()
    model.eval()
    nats, logits = model.nll(tokens[:-1], tokens[1:], carry)[1], model(tokens[:-1], carry)[1]
    torch.testing.assert_close(nats, -logits.gather(-1, tokens[1:].unsqueeze(-1)).sum())
    reading = model.read(tokens[:-1], carry)
    torch.testing.assert_close(model.log_probabilities(reading, tokens[1:]).sum(), -nats)
    warm = model.log_probabilities(reading, tokens[1:], 1.4)
    torch.testing.assert_close(warm.sum(), -torch.nn.functional.cross_entropy(
        logits.flatten(0, 1) / 1.4, tokens[1:].flatten(), reduction="sum"))  # fmt: skip


@pytest.mark.parametrize(
    "options", [(), ("model.init_range=0.05",), ("model.projection=true", "model.embedding_size=64")]
)
def test_the_first_loss(options):
    """ln of the head's choices, and of the cluster's for its words."""
    torch.manual_seed(0)
    model = model_of(ADAPTIVE, "model.output.cutoffs=[100,400]", "model.hidden_size=48", *options, vocab=1000).eval()
    expected = math.log(102) + np.repeat([0, math.log(300), math.log(600)], [100, 300, 600])
    _, logits = model(torch.randint(1000, (20, 5)), model.init_carry(5))
    np.testing.assert_allclose(-logits.detach().mean((0, 1)).numpy(), expected, rtol=0.02)
    if "model.init_range=0.05" in options:
        assert all(0.04 < parameter.abs().max() <= 0.05 for parameter in model.parameters())


def test_a_budget_of_parameters():
    words = (ADAPTIVE, "model.output.cutoffs=[10,30]", "model.output.div_value=3")
    model = model_of("model.num_params=30k", *words, vocab=100)
    size = model.stack.output_size
    larger = model_of(f"model.hidden_size={size + 1}", *words, vocab=100)
    counts = [sum(parameter.numel() for parameter in one.parameters()) for one in (model, larger)]
    assert counts[0] <= 30_000 < counts[1]
    hand = 100 * size + 8 * size * (size + 1) + 12 * size
    hand += sum(size // 3**k * (size + words) for k, words in ((1, 20), (2, 70)))
    assert counts[0] == hand
    with pytest.raises(ConfigError, match="num_params=500 is too small: with hidden size 9 there are"):
        model_of("model.num_params=500", *words, vocab=100)


@pytest.mark.parametrize(("words", "message"), [
    (["cutoffs=[30,10]"], r"model.output.cutoffs=\[30, 10\] must rise from 1 .* to 49 at most: there are 50 words"),
    (["cutoffs=[10,50]"], r"model.output.cutoffs=\[10, 50\] must rise"),
    (["cutoffs=[0,20]"], r"model.output.cutoffs=\[0, 20\] must rise"),
    (["cutoffs=[]"], r"model.output.cutoffs=\[\] must rise"),
    (["cutoffs=[2.5]"], r"model.output.cutoffs.0=2.5 should be a whole number"),
    (["cutoffs=[10]", "div_value=0.5"], "model.output.div_value=0.5 must be at least 1"),
    (["cutoffs=[10,20]", "model.hidden_size=15"], "model.output.div_value=4.0 leaves nothing of 15 features"),
    (["cutoffs=[30,10]", "model.num_params=1M"], r"model.output.cutoffs=\[30, 10\] must rise"),
    (["cutoffs=[10]", "model.tied=true"], r"model.tied=true cannot be with cutoffs=\[10\]"),
    (["cutoffs=[10]", "model.tied=true", "model.embedding_size=9"], r"model.tied=true cannot be with cutoffs"),
    (["cutoffs=[10]", "model.dropout.embedding_tied=true"], "embedding_tied=true"),
    (["cutoffs=[10]", "+model.output.num_softmaxes=2"], "num_softmaxes is not an argument of AdaptiveSoftmax"),
])  # fmt: skip
def test_what_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        model_of(ADAPTIVE, *(word if "model." in word else f"model.output.{word}" for word in words))


def test_an_option_of_another_output_layer_is_refused():
    with pytest.raises(ConfigError, match="model.output.div_value is not an argument of Softmax"):
        model_of("+model.output.div_value=2")


def text(folder):
    """Words of falling frequency, in shuffled lines."""
    generator = np.random.default_rng(0)
    p = 1 / np.arange(1, 31)
    for split, lines in (("train", 300), ("valid", 40), ("test", 40)):
        drawn = generator.choice(30, size=(lines, 6), p=p / p.sum())
        (folder / f"{split}.txt").write_text("".join(" ".join(f"w{k}" for k in line) + "\n" for line in drawn))
    return folder


def test_words_are_in_the_order_of_their_frequency(tmp_path):
    content = (text(tmp_path) / "train.txt").read_text()
    fitted = WordTokenizer().fit([content])
    counts = np.bincount(fitted.encode(content), minlength=len(fitted))[2:]  # after <unk> and <eos>
    assert fitted.ranked and CharTokenizer.ranked and (np.diff(counts) <= 0).all() and counts[0] > counts[-1] > 0


def config(folder, *words, name="run"):
    reading = [word for word in TINY if not word.startswith("data")]
    return compose(*reading, *WORDS, f"data.path={folder}", f"run.root={folder}", f"run.name={name}", *words)


def test_bytes_are_not(tmp_path):
    with pytest.raises(
        ConfigError, match=r"model.output.cutoffs=\[4, 9\] needs tokens in the order of their frequency.*byte"
    ):
        train(config(text(tmp_path), "data/tokenizer=byte"), {})


def test_from_the_command_line(tmp_path, capsys):
    folder, whole = text(tmp_path) / "run", ["schedule=constant", "train.steps=60", "train.eval_every=30"]
    before = train(config(tmp_path, *whole, "train.steps=1", name="short"), {}).best
    assert train(config(tmp_path, *whole, name="whole"), {}).best < before - 0.2
    train(config(tmp_path, *whole, "train.steps=30"), {})
    resume(folder, ["train.steps=60"])
    assert losses(folder) == losses(tmp_path / "whole") and weights(folder) == weights(tmp_path / "whole")
    capsys.readouterr()
    found = []
    for words in ((), ("temperature=1.3",), ("cache.size=30",), ("dynamic.lr=0.001",), ("protocol=awd",)):
        evaluate(str(folder), ["split=test", *words], True)
        result = json.loads(capsys.readouterr().out)
        found.append(result.get("protocol", result)["loss"])
    assert len(set(found)) == 5
    sample([str(folder), "tokens=30"])
    written = capsys.readouterr().out.split()
    assert len(written) > 15 and all(word.startswith("w") for word in written)
