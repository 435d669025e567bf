"""Other people's ways of counting, against one column read after the other."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from seqlm import LanguageModel, LSTMCell, Recurrent, Stack
from seqlm.commands.eval import evaluate_run as main
from seqlm.errors import ConfigError
from seqlm.evaluation.protocols import PROTOCOLS, score_as
from seqlm.evaluation.scorer import Scorer
from seqlm.training.launch import train

from ..conftest import tiny

V, EOS, WINDOW = 9, 1, 7


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = LanguageModel(V, Stack([Recurrent(LSTMCell(5, 5))])).double().eval()
    for parameter in made.parameters():
        torch.nn.init.uniform_(parameter, -1, 1)
    return made


def column_nats(model, inputs, targets):
    """Token by token."""
    carry, total = model.init_carry(1), 0.0
    with torch.no_grad():
        for word, target in zip(inputs, targets, strict=True):
            carry, logits = model(torch.tensor([[word]]), carry)
            total -= logits.log_softmax(-1)[0, 0, target].item()
    return total


def text(size, seed=2):
    return np.random.default_rng(seed).integers(0, V, size).astype(np.uint16)


@pytest.mark.parametrize("size", [333, 90, 15])  # streams longer than a chunk, shorter, and fewer than asked for
@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("name", ["awd", "wlm", "zaremba"])
def test_columns(model, name, split, size):
    tokens, protocol = text(size), PROTOCOLS[name]
    columns = min({"awd": (10, 1), "wlm": (10, 10), "zaremba": (20, 1)}[name][split == "test"], size // 2)
    rows = size // columns
    scored = rows - 1
    if name == "zaremba" and split == "valid" and scored >= WINDOW:
        scored = scored // WINDOW * WINDOW
    nats = 0.0
    for k in range(columns):
        column = [int(token) for token in tokens[k * rows : (k + 1) * rows]]
        nats += column_nats(model, column[:scored], column[1 : scored + 1])
    found = score_as(name, Scorer([model]), tokens, split, WINDOW, EOS)
    assert found["tokens"] == columns * scored and found["batch_size"] == columns
    divisor = columns * (scored + (name == "awd"))
    assert found["loss"] == pytest.approx(nats / divisor, rel=1e-12)
    assert protocol.source


def test_a_column_for_every_hundred_sentences(model):
    """350 sentences: three columns that begin after <eos>, and every token is scored."""
    generator = np.random.default_rng(5)
    sentences = [[*generator.integers(2, V, generator.integers(1, 6)).tolist(), EOS] for _ in range(350)]
    tokens = np.array([token for sentence in sentences for token in sentence], dtype=np.uint16)
    found = score_as("lamb", Scorer([model]), tokens, "valid", WINDOW, EOS)
    assert found["batch_size"] == 3 and found["tokens"] == len(tokens)
    nats = 0.0
    for k in range(3):
        part = [token for sentence in sentences[350 * k // 3 : 350 * (k + 1) // 3] for token in sentence]
        nats += column_nats(model, [EOS, *part[:-1]], part)
    assert found["loss"] == pytest.approx(nats / len(tokens), rel=1e-12)
    words = tokens[tokens != EOS]  # not a sentence ends
    found = score_as("lamb", Scorer([model]), words, "test", WINDOW, EOS)
    expected = column_nats(model, [EOS, *words[:-1].tolist()], words.tolist())
    assert found["batch_size"] == 1 and found["loss"] == pytest.approx(expected / len(words), rel=1e-12)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_nothing_to_predict(model, name):
    with pytest.raises(ConfigError, match=f"protocol={name} needs two tokens at least, but split=valid has 1"):
        score_as(name, Scorer([model]), np.array([EOS], dtype=np.uint16), "valid", WINDOW, EOS)


def test_from_the_command_line(tmp_path, capsys):
    train(tiny(tmp_path, "train.steps=20"), {})
    capsys.readouterr()
    losses = {}
    for protocol in ("seqlm", "awd", "zaremba", "wlm", "lamb"):
        main(str(tmp_path / "run"), [f"protocol={protocol}"], True)
        result = json.loads(capsys.readouterr().out)
        losses[protocol] = result.get("protocol", result)["loss"]
        if protocol != "seqlm":
            assert result["protocol"]["ppl"] - result["ppl"] == pytest.approx(result["protocol"]["difference"])
    assert len(set(losses.values())) >= 4
    main(str(tmp_path / "run"), ["protocol=awd"], False)
    assert "as awd counts" in capsys.readouterr().out


def test_precision():
    """Products are of the type that the score beside it has."""
    torch.manual_seed(0)
    scorer = Scorer([LanguageModel(V, Stack([Recurrent(LSTMCell(5, 5), engine="scan")])).eval()])
    exact, narrow = (score_as("wlm", scorer, text(90), "test", WINDOW, EOS, one)["loss"] for one in ("float32", "bf16"))
    assert exact != narrow and narrow == pytest.approx(exact, rel=0.02)
