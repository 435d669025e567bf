"""Mixture of softmaxes: several distributions over the vocabulary, weighed by the state."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..cells import require_positive, require_probability
from .dropout import make_dropout
from .softmax import Features, Softmax, chunks, exact


class Mixture(Softmax):
    """A mixture of K softmaxes over V words: ys (T, B, I) -> p (T, B, V).

    pi = softmax(W_pi y),  latent_k = dropout(tanh(W_k y + b_k)),  p(w) = sum_k pi_k softmax(W_o latent_k + b_o)_w

    One softmax of a dot product has no more rank than the embedding has dimensions; the mixture has. A temperature
    divides the logits of each softmax. Z. Yang, Z. Dai, R. Salakhutdinov and W. W. Cohen, arXiv 1711.03953 (2018).

    Args:
        embedding_size: width E of each latent_k, and of W_o (V, E)
        num_softmaxes: K
        latent_dropout: probability; locked, with a mask for each latent_k
    """

    def __init__(
        self,
        input_size: int,
        vocab_size: int,
        *,
        embedding_size: int,
        num_softmaxes: int,
        latent_dropout: float = 0.0,
    ) -> None:
        require_positive(input_size=input_size, embedding_size=embedding_size, num_softmaxes=num_softmaxes)
        require_probability("latent_dropout", latent_dropout)
        super().__init__(embedding_size, vocab_size)
        self.num_softmaxes = num_softmaxes
        self.prior = nn.Linear(input_size, num_softmaxes, bias=False)
        self.latent = nn.Linear(input_size, num_softmaxes * embedding_size)
        self.dropout = make_dropout("locked", latent_dropout)

    def initialise(self, scale: float, *, every: bool) -> None:
        super().initialise(scale, every=every)
        if every:
            for parameter in (*self.prior.parameters(), *self.latent.parameters()):
                nn.init.uniform_(parameter, -scale, scale)

    def features(self, ys: Tensor) -> tuple[Tensor, ...]:
        """ln pi (T, B, K) and latent (T, B, K, E)."""
        latent = self.dropout(self.latent(ys).tanh())
        return exact(self.prior(ys)).log_softmax(-1), latent.unflatten(-1, (self.num_softmaxes, -1))

    def logits(self, features: Features, words: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        log_prior, latent = features
        return mixture_log_probabilities(log_prior, latent, self._masked(words), self.bias, temperature)

    def nll(self, features: Features, targets: Tensor, words: Tensor | None = None, ignore_index: int = -100) -> Tensor:
        log_prior, latent = (part.flatten(0, 1) for part in features)
        return mixture_cross_entropy(log_prior, latent, self._masked(words), self.bias, targets.flatten(), ignore_index)


def mixture_log_probabilities(
    log_prior: Tensor, latent: Tensor, weight: Tensor, bias: Tensor, temperature: float = 1.0
) -> Tensor:
    """ln p of every word: ln pi (..., K), latent (..., K, E), weight (V, E) -> (..., V).

    Added up as logsumexp, so that nothing underflows; `temperature` divides the logits of every softmax.
    """
    logits = exact(F.linear(latent, weight, bias)) / temperature
    return torch.logsumexp(logits.log_softmax(-1) + log_prior.unsqueeze(-1), -2)


def mixture_cross_entropy(
    log_prior: Tensor, latent: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, ignore_index: int = -100
) -> Tensor:
    """Summed nats of targets (N) other than `ignore_index`: ln pi (N, K), latent (N, K, E).

    Logits live for a chunk of N at a time, of 64 MiB at most, and are computed again in the backward pass.
    """
    total = log_prior.new_zeros(())
    for part in chunks(len(targets), len(weight) * latent.shape[1] * 4):
        given = (log_prior[part], latent[part], weight, bias, targets[part], ignore_index)
        if torch.is_grad_enabled():
            total = total + checkpoint(_nll, *given, use_reentrant=False)
        else:
            total = total + _nll(*given)
    return total


def _nll(log_prior: Tensor, latent: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    logs = mixture_log_probabilities(log_prior, latent, weight, bias)
    return F.nll_loss(logs, targets, ignore_index=ignore_index, reduction="sum")
