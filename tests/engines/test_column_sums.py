"""Sums over rows: against float64, at odd sizes, for any number of threads."""

import pytest
import torch

from seqlm.engines import column_sums as module
from seqlm.engines import compiled
from seqlm.engines.column_sums import column_sums

kernels = pytest.mark.skipif(compiled.compiler() is None, reason="there is no C compiler")


def matrix(rows, columns, dtype=torch.bfloat16):
    torch.manual_seed(rows)
    return torch.randn(rows, columns).to(dtype)


@pytest.mark.parametrize("allowed", [pytest.param("1", marks=kernels), "0"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (1, 1), (33, 127), (64, 128), (70, 300), (2000, 130)])
def test_the_sums_are_those_of_float64(rows, columns, dtype, allowed, monkeypatch):
    monkeypatch.setenv("SEQLM_KERNELS", allowed)
    given = matrix(rows, columns, dtype)
    found = column_sums(given)
    assert found.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    torch.testing.assert_close(found.double(), given.double().sum(0), rtol=1e-6, atol=1e-4)


@kernels
def test_small_numbers_are_not_lost_beside_a_large_sum():
    assert column_sums(torch.full((300_000, 1), 0.1).bfloat16()).item() == pytest.approx(
        300_000 * 0.10009765625, rel=1e-5
    )


@kernels
def test_no_bit_depends_on_the_threads(monkeypatch):
    monkeypatch.setattr(module, "LEAST_WORK", 1)
    results = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(column_sums(matrix(50, 1000)))
    assert all(torch.equal(results[0], other) for other in results[1:])


@kernels
def test_what_is_not_contiguous_is_added_up_too():
    given = matrix(40, 30).t()
    torch.testing.assert_close(column_sums(given), given.float().sum(0))
