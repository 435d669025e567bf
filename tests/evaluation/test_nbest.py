"""The weight of a language model beside other scores: exact, and against trying many."""

from __future__ import annotations

import random

import pytest

from seqlm.evaluation.nbest import Hypothesis, Weighted, accuracy, choose, errors, search_weight


def group(*hypotheses):
    return [Hypothesis("text", score, wrong, log_p) for score, log_p, wrong in hypotheses]


def test_the_best_is_chosen():
    one = group((0.0, -9.0, 1), (-1.0, -8.0, 0), (-3.0, -7.5, 2))
    assert [choose(one, weight) for weight in (0.0, 0.9, 1.1, 3.9, 4.1)] == [0, 0, 1, 1, 2]
    assert errors([one, one], 1.1) == 0 and errors([one], 0.0) == 1


def test_a_weight_between_its_bounds():
    assert search_weight([group((0.0, -9.0, 1), (-1.0, -8.0, 0), (-3.0, -7.5, 2))]) == Weighted(2.5, 0)
    assert search_weight([group((0.0, -9.0, 0), (-1.0, -8.0, 1))]) == Weighted(0.0, 0), "none is needed"
    assert search_weight([group((0.0, -9.0, 1), (-1.0, -8.0, 0))]) == Weighted(1.5, 0), "beyond the last corner"
    assert search_weight([group((0.0, -9.0, 1), (0.0, -8.0, 0))]).errors == 0, "of equal scores"


@pytest.mark.parametrize("seed", range(5))
def test_no_other_weight_makes_fewer_errors(seed):
    draw = random.Random(seed)
    groups = [
        group(*((draw.gauss(0, 3), draw.gauss(-20 - wrong, 2), wrong) for wrong in draw.choices(range(4), k=7)))
        for _ in range(30)
    ]
    found = search_weight(groups)
    assert errors(groups, found.weight) == found.errors
    tried = [errors(groups, weight / 500) for weight in range(5000)]
    assert found.errors <= min(tried) < tried[0]


def test_errors_that_nobody_knows():
    with pytest.raises(ValueError, match="the errors of 'text' are not known"):
        search_weight([group((0.0, -1.0, None))])


def test_a_pair_of_equals_is_half_right():
    assert accuracy([1.0, -1.0, 0.0, 2.0]) == 0.625
