"""Greedy and beam search against every hypothesis there is."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from seqlm.cells import map_carry
from seqlm.data.batching.batches import IGNORE_INDEX
from seqlm.data.fields import END, UNKNOWN
from seqlm.models.beam_search import Hypothesis, beam_search, greedy, length_penalty
from seqlm.models.decoder import shifted

from .test_decoder import batch_of, model_of

LIMIT = 4


def sharpened(seed):
    """A model whose distributions are far from uniform."""
    model = model_of(seed=seed).eval()
    torch.nn.init.uniform_(model.head.linear.weight, -3, 3)
    torch.nn.init.uniform_(model.head.embedding.weight, -3, 3)
    return model


def every_score(model, batch, penalty):
    """ln p / lp of every sequence of at most LIMIT words, by teacher forcing: {words: score} for one source."""
    words = [w for w in range(model.head.linear.out_features) if w not in (END, UNKNOWN)]
    sequences = [sequence for size in range(LIMIT + 1) for sequence in product(words, repeat=size)]
    target = torch.full((LIMIT, len(sequences)), IGNORE_INDEX)
    for column, sequence in enumerate(sequences):
        target[: len(sequence), column] = torch.tensor(sequence)
    ys, lengths = model.encode(batch)
    ys, lengths = ys.expand(-1, len(sequences), -1), lengths.expand(len(sequences))
    inputs, goals = shifted(target, torch.tensor([len(sequence) for sequence in sequences]))
    logs = model.head.linear(model.head.read(ys, lengths, inputs)[0]).log_softmax(-1)
    picked = logs.gather(-1, goals.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    totals = torch.where(goals == IGNORE_INDEX, 0.0, picked).sum(0).tolist()
    return {s: total / ((5 + len(s) + 1) / 6) ** penalty for s, total in zip(sequences, totals, strict=True)}


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_a_wide_beam_finds_the_best_of_all(penalty):
    differs = 0
    for seed in range(6):
        model = sharpened(seed)
        ys, lengths = model.encode(batch_of())
        found = model.head.write(ys, lengths, beam=130, length_penalty=penalty, max_length=LIMIT)
        first = model.head.write(ys, lengths, max_length=LIMIT)
        for index, mine in enumerate(found):
            scores = every_score(model, batch_of(index), penalty)
            best = max(scores, key=scores.__getitem__)
            assert tuple(mine) == best, (scores[tuple(mine)], scores[best])
            differs += tuple(first[index]) != best
    assert differs > 3, "greedy would have done"


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("size", [2, 3])
def test_a_beam_is_never_worse_than_greedy(size, penalty):
    better = 0
    for seed in range(6):
        model = sharpened(seed)
        ys, lengths = model.encode(batch_of())
        wide = model.head.write(ys, lengths, beam=size, length_penalty=penalty, max_length=LIMIT)
        first = model.head.write(ys, lengths, max_length=LIMIT)
        for index in range(len(wide)):
            scores = every_score(model, batch_of(index), penalty)
            assert scores[tuple(wide[index])] >= scores[tuple(first[index])] - 1e-9
            better += scores[tuple(wide[index])] > scores[tuple(first[index])] + 1e-9
    assert better


def test_a_beam_of_one_is_greedy():
    for seed in range(6):
        model = sharpened(seed)
        ys, lengths = model.encode(batch_of())
        memory, state = model.head.start(ys, lengths)
        limits = torch.full_like(lengths, 9)
        nothing = [Hypothesis([], -torch.inf)] * len(limits)
        with torch.no_grad():
            first = greedy(model.head.scores(memory, state), state, limits)
            one = beam_search(model.head.scores(memory, state), state, limits, nothing, 1, 0.7)
        assert [h.words for h in one] == [h.words for h in first] == model.head.write(ys, lengths, max_length=9)
        for a, b in zip(one, first, strict=True):
            assert a.log_probability == pytest.approx(b.log_probability, rel=1e-12)


def table(rows):
    """A step that follows a table: the state counts, rows[place] are probabilities of (unk, end, a, b)."""
    logs = torch.tensor(rows, dtype=torch.float64).log()
    return lambda state, words: (state + 1, logs[state[:, 0].clamp(max=len(rows) - 1)])


def test_greedy_takes_the_most_probable_and_never_the_unknown():
    step = table([[0.9, 0.02, 0.05, 0.03], [0.0, 0.3, 0.3001, 0.3999], [0.5, 0.3, 0.1, 0.1]])
    found = greedy(step, torch.zeros(2, 1, dtype=torch.long), torch.tensor([9, 1]))
    assert [h.words for h in found] == [[2, 3], [2]]  # the second is at its limit, and must end
    assert found[0].log_probability == pytest.approx(sum(map(torch.log, torch.tensor([0.05, 0.3999, 0.3]))).item())
    assert found[1].log_probability == pytest.approx(sum(map(torch.log, torch.tensor([0.05, 0.3]))).item())


def test_a_beam_drops_what_it_must_and_prefers_length_with_a_penalty():
    # "a" looks better at first; after "b" the end is certain.
    step = lambda state, words: (  # noqa: E731
        state,
        torch.tensor(
            [[1e-9, 1e-9, 0.55, 0.45], [1e-9, 0.5, 0.25, 0.25], [1e-9, 1.0, 1e-9, 1e-9]], dtype=torch.float64
        ).log()[(words - 1).clamp(min=0)],
    )
    limits = torch.tensor([5])
    state = torch.zeros(1, 1)
    first = greedy(step, state, limits)
    assert first[0].words == [2]
    wide = map_carry(lambda t: t.repeat_interleave(2, 0), state)
    assert beam_search(step, wide, limits, first, 2, 0.0)[0].words == [3]


def test_the_length_penalty_is_that_of_its_paper():
    assert length_penalty(7, 0.0) == 1.0 and length_penalty(1, 0.8) == 1.0
    assert length_penalty(7, 1.0) == pytest.approx(2.0) and length_penalty(7, 0.2) == pytest.approx(2**0.2)


def test_default_limits_follow_the_source():
    model = model_of().eval()
    torch.nn.init.zeros_(model.head.linear.weight)
    with torch.no_grad():
        model.head.linear.bias.copy_(torch.tensor([9.0, -9.0, 1.0, 0.0, 0.0]))  # unk, end, x, ...
    ys, lengths = model.encode(batch_of())
    assert [len(row) for row in model.head.write(ys, lengths)] == [2 * n + 10 for n in (5, 1, 3, 2)]
    assert {len(row) for row in model.head.write(ys, lengths, max_length=3, beam=2)} == {3}
