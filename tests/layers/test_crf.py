"""The CRF against all sequences there are, written out one by one in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from seqlm.data.batching.batches import IGNORE_INDEX
from seqlm.layers import LinearChainCRF

K, LENGTHS = 4, [4, 1, 3, 2]
T, B = 4, 4
UNKNOWN = IGNORE_INDEX


@pytest.fixture
def crf():
    torch.manual_seed(0)
    made = LinearChainCRF(K).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


@pytest.fixture
def emissions():
    return torch.randn(T, B, K, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def score(crf, emissions, path):
    """s(x, y), term by term."""
    total = crf.start[path[0]] + crf.end[path[-1]]
    total = total + sum(emissions[t, tag] for t, tag in enumerate(path))
    return (total + sum(crf.transitions[a, b] for a, b in itertools.pairwise(path))).item()


def every_path(crf, emissions, length):
    return {path: score(crf, emissions, path) for path in itertools.product(range(K), repeat=length)}


def log_sum(scores):
    return math.log(sum(map(math.exp, scores)))


def test_the_sum_over_all_sequences(crf, emissions):
    found = crf.log_sum(emissions, torch.tensor(LENGTHS))
    wanted = [log_sum(every_path(crf, emissions[:, b], n).values()) for b, n in enumerate(LENGTHS)]
    assert found.tolist() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("tags", [
    [[0, 2, 1, 1], [2], [1, 3, 0], [3, 3]],
    [[0, UNKNOWN, 1, UNKNOWN], [UNKNOWN], [UNKNOWN, 1, 0], [3, UNKNOWN]],
    [[UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN], [0], [2, UNKNOWN, UNKNOWN], [UNKNOWN, 2]],
])  # fmt: skip
def test_nats_and_what_is_not_known(crf, emissions, tags):
    padded = torch.tensor([row + [UNKNOWN] * (T - len(row)) for row in tags]).t()
    wanted = []
    for b, row in enumerate(tags):
        paths = every_path(crf, emissions[:, b], len(row))
        agreeing = [s for path, s in paths.items() if all(t in (UNKNOWN, p) for t, p in zip(row, path, strict=True))]
        wanted.append(log_sum(paths.values()) - log_sum(agreeing))
    assert crf.nll(emissions, padded, torch.tensor(LENGTHS)).tolist() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_sequence(crf, seed):
    torch.manual_seed(seed)
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter)
    emissions = torch.randn(T, B, K, dtype=torch.float64)
    best = crf.best(emissions, torch.tensor(LENGTHS))
    for b, length in enumerate(LENGTHS):
        paths = every_path(crf, emissions[:, b], length)
        assert tuple(best[:length, b].tolist()) == max(paths, key=paths.get)


def test_probabilities_of_all_sequences_sum_to_one(crf, emissions):
    paths = torch.tensor(list(itertools.product(range(K), repeat=T))).t()  # (T, K^T)
    same = emissions[:, :1].expand(-1, paths.shape[1], -1)
    nats = crf.nll(same, paths, torch.full((paths.shape[1],), T))
    assert (-nats).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_padding_changes_nothing(crf, emissions):
    tags, lengths = torch.tensor([[0, 2, 1, 3], [2, 0, 1, 1], [1, 1, 0, 2], [1, 0, 2, 2]]), torch.tensor(LENGTHS)
    together = crf.nll(emissions, tags, lengths)
    for b, length in enumerate(LENGTHS):
        alone = crf.nll(emissions[:length, b : b + 1], tags[:length, b : b + 1], lengths[b : b + 1])
        assert alone.item() == pytest.approx(together[b].item(), abs=1e-12)
    changed = emissions.masked_fill((torch.arange(T).unsqueeze(1) >= lengths).unsqueeze(-1), 7e5)
    assert crf.nll(changed, tags, lengths).tolist() == together.tolist()
    for mine, theirs, length in zip(*(crf.best(e, lengths).t() for e in (changed, emissions)), LENGTHS, strict=True):
        assert mine[:length].tolist() == theirs[:length].tolist()


def test_gradients(crf, emissions):
    tags = torch.tensor([[0, 2, 1, 3], [UNKNOWN, UNKNOWN, 1, 1], [1, UNKNOWN, 0, 0], [1, UNKNOWN, UNKNOWN, 0]])
    given = [emissions.requires_grad_(), *crf.parameters()]  # gradcheck moves the parameters where they are
    assert torch.autograd.gradcheck(lambda emissions, *_: crf.nll(emissions, tags, torch.tensor(LENGTHS)), given)


def test_without_transitions_it_is_a_softmax(emissions):
    crf, tags = LinearChainCRF(K), torch.tensor([[0, 2, 1, 3], [2, 0, 1, 1], [1, 1, 0, 2], [1, 0, 2, 2]])
    nats = crf.nll(emissions, tags, torch.tensor([T] * B))
    wanted = torch.nn.functional.cross_entropy(emissions.flatten(0, 1), tags.flatten(), reduction="none")
    torch.testing.assert_close(nats, wanted.view(T, B).sum(0))


def test_far_apart_scores_stay_finite():
    """Scores of hundreds of nats, where a product of probabilities in float32 would be 0."""
    crf = LinearChainCRF(2)
    with torch.no_grad():
        crf.transitions.copy_(torch.tensor([[0.0, -300.0], [-300.0, 0.0]]))
    emissions = torch.tensor([[[200.0, 0.0]], [[0.0, 0.0]], [[0.0, 90.0]]], requires_grad=True)
    nats = crf.nll(emissions, torch.tensor([[0], [1], [1]]), torch.tensor([3]))
    scores = [score(crf, emissions[:, 0].double(), path) for path in itertools.product(range(2), repeat=3)]
    top = max(scores)
    wanted = top + math.log(sum(math.exp(s - top) for s in scores)) - (200 - 300 + 90)
    assert nats.item() == pytest.approx(wanted, abs=1e-9)
    nats.sum().backward()
    assert emissions.grad.isfinite().all() and crf.transitions.grad.isfinite().all()
