"""The mixture of softmaxes against NumPy, its gradient against finite differences, and its memory."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from seqlm import LanguageModel, LSTMCell, Recurrent, Stack
from seqlm.errors import ConfigError
from seqlm.layers import Mixture, mixture_cross_entropy, mixture_log_probabilities, softmax

from ..models.test_model import model_of

N, K, E, V = 7, 3, 4, 11


def parts(seed=0):
    torch.manual_seed(seed)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((N, K), (N, K, E), (V, E), (V,))]


def test_probabilities_by_hand():
    prior, latent, weight, bias = (part.detach().numpy() for part in parts())
    log_prior = prior - np.log(np.exp(prior).sum(1, keepdims=True))
    expected = np.zeros((N, V))
    for n in range(N):
        for k in range(K):
            scores = np.exp((weight @ latent[n, k] + bias) / 1.3)
            expected[n] += np.exp(log_prior[n, k]) * scores / scores.sum()
    given = [torch.from_numpy(part) for part in (log_prior, latent, weight, bias)]
    found = mixture_log_probabilities(*given, temperature=1.3)
    np.testing.assert_allclose(found.exp().numpy(), expected, rtol=1e-12)
    assert torch.isfinite(mixture_log_probabilities(given[0] - 500, given[1] * 300, *given[2:])).all()


def test_prior_and_latent_by_hand():
    """pi = softmax(W_pi y), latent_k = tanh(W_k y + b_k), K blocks of E rows; a locked mask for each of the K."""
    torch.manual_seed(0)
    made, ys = (
        Mixture(5, V, embedding_size=E, num_softmaxes=K, latent_dropout=0.4).double(),
        torch.randn(6, 2, 5, dtype=torch.float64),
    )
    prior, weight, bias = (part.detach().numpy() for part in (made.prior.weight, made.latent.weight, made.latent.bias))
    scores = np.exp(ys.numpy() @ prior.T)
    latent = np.tanh(ys.numpy() @ weight.T + bias).reshape(6, 2, K, E)
    made.eval()
    log_prior, found = made.features(ys)
    np.testing.assert_allclose(log_prior.exp().detach().numpy(), scores / scores.sum(-1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(found.detach().numpy(), latent, rtol=1e-12)
    made.train()
    mask = made.features(ys)[1].detach().numpy() / latent
    assert np.allclose(mask, mask[:1]) and len(np.unique(mask.round(4))) == 2
    assert mask.max() == pytest.approx(1 / 0.6, rel=1e-4)
    assert not np.allclose(mask[0, :, 0], mask[0, :, 1]) and not np.allclose(mask[0, 0], mask[0, 1])


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_loss_and_gradient_in_chunks(monkeypatch, rows):
    monkeypatch.setattr(softmax, "CHUNK_BYTES", rows * V * K * 4)
    targets = torch.tensor([0, 3, 10, -1, 2, 2, 7])
    whole, pieces = parts(), parts()
    logs = mixture_log_probabilities(whole[0].log_softmax(-1), *whole[1:])
    F.nll_loss(logs, targets, ignore_index=-1, reduction="sum").backward()
    log_prior = pieces[0].log_softmax(-1)
    mixture_cross_entropy(log_prior, *pieces[1:], targets, ignore_index=-1).backward()
    for one, other in zip(whole, pieces, strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        wanted = F.nll_loss(logs, targets, ignore_index=-1, reduction="sum")
        torch.testing.assert_close(mixture_cross_entropy(log_prior, *pieces[1:], targets, ignore_index=-1), wanted)


def test_in_a_model():
    torch.manual_seed(0)
    output = partial(Mixture, num_softmaxes=K, latent_dropout=0.5)
    model = LanguageModel(V, Stack([Recurrent(LSTMCell(E, 6))]), output=output, tied=True)
    tokens, carry = torch.randint(V, (6, 2)), model.init_carry(2)
    first, second = (model(tokens[:-1], carry)[1] for _ in range(2))
    assert not torch.equal(first, second)
    torch.testing.assert_close(first.exp().sum(-1), torch.ones(5, 2))
    model.eval()
    _, logs = model(tokens[:-1], carry)
    nats = model.nll(tokens[:-1], tokens[1:], carry)[1]
    torch.testing.assert_close(nats, -logs.gather(-1, tokens[1:].unsqueeze(-1)).sum())
    reading = model.read(tokens[:-1], carry)
    torch.testing.assert_close(model.log_probabilities(reading, tokens[1:]).sum(), -nats)
    nats.backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


def test_what_does_nothing_is_refused():
    with pytest.raises(ConfigError, match="model.output.latent_dropout is not an argument of Softmax"):
        model_of("+model.output.latent_dropout=0.3")
    with pytest.raises(ConfigError, match="model.projection=true does nothing: the output layer has a map"):
        model_of("model/output=mixture", "model.projection=true")
