"""The language model: sizes, ties, initialisation, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from seqlm import Bidirectional, ElmanCell, LanguageModel, LSTMCell, Recurrent, Stack
from seqlm.cells import carry_tensors
from seqlm.config.build import build
from seqlm.errors import ConfigError

from ..conftest import compose

PARAMETERS = {
    "zaremba_small": 4_653_200,
    "zaremba_medium": 19_780_400,
    "zaremba_large": 66_034_000,
    "book_rnnlm": 2_090_800,
    "book_better_rnnlm": 13_280_400,
}


def model_of(*overrides, vocab=50, engine="auto"):
    return build(compose(*overrides).model, "model", vocab_size=vocab, engine=engine)


@pytest.mark.parametrize("experiment", PARAMETERS)
def test_published_parameter_counts_and_initial_loss(experiment):
    with torch.device("meta"):
        model = model_of(f"experiment={experiment}", "data.path=x", vocab=10_000)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[experiment]


@pytest.mark.parametrize("experiment", ["zaremba_small", "book_rnnlm"])
def test_initial_loss_is_that_of_guessing(experiment):
    torch.manual_seed(0)
    model = model_of(f"experiment={experiment}", "data.path=x", vocab=10_000).eval()
    tokens = torch.randint(10_000, (21, 10))
    _, logits = model(tokens[:-1], model.init_carry(10))
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[1:].flatten())
    assert loss.item() == pytest.approx(math.log(10_000), rel=0.02)


@pytest.mark.parametrize("preset", ["elman", "jordan", "lstm", "gru"])
def test_presets_build_and_learn_from_every_parameter(preset):
    torch.manual_seed(0)
    model = model_of(f"model={preset}", "model.hidden_size=8", "model.num_layers=2", "model.dropout.hidden=0.2")
    carry, logits = model(torch.randint(50, (5, 3)), model.init_carry(3))
    assert logits.shape == (5, 3, 50)
    model(torch.randint(50, (5, 3)), carry)[1].logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_tied_is_one_parameter_with_both_gradients():
    torch.manual_seed(0)
    model = model_of("model.hidden_size=8", "model.tied=true")
    assert model.decoder.weight is model.embedding.weight
    assert "decoder.weight" not in dict(model.named_parameters())
    carry, logits = model(torch.randint(10, (5, 3)), model.init_carry(3))
    logits.logsumexp(-1).sum().backward()
    assert (model.embedding.weight.grad[20:].abs().sum(1) > 0).all()  # words that were not read: from the softmax


def test_tied_widths_must_fit():
    with pytest.raises(
        ConfigError, match=r"model.tied=true needs equal widths.*embedding_size=6.*last layer has 8.*projection=true"
    ):
        model_of("model.hidden_size=8", "model.embedding_size=6", "model.tied=true")
    model = model_of("model.hidden_size=8", "model.embedding_size=6", "model.tied=true", "model.projection=true")
    assert model.projection.weight.shape == (6, 8) and model.decoder.weight is model.embedding.weight
    assert model(torch.randint(50, (5, 3)), model.init_carry(3))[1].shape == (5, 3, 50)
    with pytest.raises(ValueError, match="tied=true needs equal widths"):
        LanguageModel(9, Stack([Recurrent(LSTMCell(5, 6))]), tied=True)


def test_a_model_that_sees_the_future_is_no_language_model():
    with pytest.raises(ConfigError, match="model.bidirectional=true cannot be a language model"):
        model_of("model.bidirectional=true")
    both = Bidirectional(Recurrent(ElmanCell(4, 3)), Recurrent(ElmanCell(4, 3), reverse=True))
    for layer in (both, Stack([both]), Recurrent(ElmanCell(4, 4), reverse=True)):
        with pytest.raises(ValueError, match="not causal"):
            LanguageModel(9, layer)


def test_layers_of_different_cells_from_the_command_line():
    model = model_of(
        "model.layers=[{cell: elman, hidden_size: 6}, {cell: gru}, {cell: jordan, hidden_size: 5}]",
        "model.hidden_size=8",
    )
    cells = [type(layer.cell).__name__ for layer in model.stack.layers]
    assert cells == ["ElmanCell", "GRUCell", "JordanCell"]
    assert [layer.output_size for layer in model.stack.layers] == [6, 8, 5]
    known = "elman, feed_forward, gru, .*lstm"
    with pytest.raises(ConfigError, match=f"model.layers.0.cell=elmn is unknown; allowed: {known}"):
        model_of("model.layers=[{cell: elmn}]")
    with pytest.raises(ConfigError, match=r"model.layers.0.hidden is unknown"):
        model_of("model.layers=[{hidden: 3}]")


def test_a_layer_may_have_options_of_its_own():
    """Options that a layer leaves out are those of the model's cell."""
    model = model_of("model/cell=qrnn", "model.cell.bias=false", "model.layers=[{}, {cell: {window: 1}}, {cell: lstm}]")
    first, second, third = (layer.cell for layer in model.stack.layers)
    assert (first.window, second.window) == (2, 1) and first.bias_ih is second.bias_ih is None
    assert third.bias_ih is not None
    with pytest.raises(ConfigError, match=r"layers.0.cell.windo is not an argument of QRNNCell; did you mean .*window"):
        model_of("model/cell=qrnn", "model.layers=[{cell: {windo: 1}}]")


def test_init_range_covers_every_parameter():
    torch.manual_seed(0)
    model = model_of("model.init_range=0.05", "model.hidden_size=30", "model.num_layers=2")
    for name, parameter in model.named_parameters():
        assert 0.04 < parameter.abs().max() <= 0.05, name


def test_dropout_places_change_training_only():
    xs = torch.randint(50, (5, 3))
    for place in ("embedding", "input", "hidden", "output"):
        torch.manual_seed(0)
        model = model_of("model.num_layers=2", "model.hidden_size=8", f"model.dropout.{place}=0.5")
        first, second = (model(xs, model.init_carry(3))[1] for _ in range(2))
        assert not torch.equal(first, second), place
        model.eval()
        first, second = (model(xs, model.init_carry(3))[1] for _ in range(2))
        assert torch.equal(first, second), place


@pytest.mark.parametrize("options", [
    ["model=lstm"], ["model=jordan"], ["model.projection=true", "model.embedding_size=5"], ["model/output=mixture"],
    ["model/output=adaptive", "model.output.cutoffs=[10,30]", "model.output.div_value=2"],
    ["model.dropout.embedding=0.3", "model.dropout.input=0.3"],
])  # fmt: skip
def test_word_by_word_it_is_the_same_model(options):
    torch.manual_seed(0)
    model = model_of("model.hidden_size=8", "model.num_layers=2", *options).eval()
    tokens = torch.randint(50, (6, 3))
    with torch.no_grad():
        last, expected = model(tokens, model.init_carry(3))
        carry, step = model.init_carry(3), model.bind(model.init_carry(3))
        for token, logits in zip(tokens, expected, strict=True):
            carry, found = step(carry, token)
            torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-5)
    for one, other in zip(carry_tensors(carry), carry_tensors(last), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
