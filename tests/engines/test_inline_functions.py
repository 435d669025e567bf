"""exp and tanh of the kernels in float32: how exact they are, their ends, and that vectors change no bit."""

import ctypes

import pytest
import torch

from seqlm.engines import compiled, prelude

pytestmark = pytest.mark.skipif(compiled.compiler() is None, reason="there is no C compiler")

LOOP = """
void run(const real *x, real *out, long count) {
    #pragma omp simd
    for (long i = 0; i < count; i++) out[i] = FUNCTION(x[i]);
}
"""
NAN, INF = float("nan"), float("inf")


def values(name: str, x: torch.Tensor) -> torch.Tensor:
    run = compiled.library(prelude.header(torch.float32, ()) + LOOP.replace("FUNCTION", name.upper())).run
    out = torch.empty_like(x)
    run(ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(out.data_ptr()), ctypes.c_long(len(x)))
    return out


@pytest.mark.parametrize(("name", "low", "high"), [("exp", -87.0, 88.7), ("exp", -1.0, 1.0), ("tanh", -10.0, 10.0)])
def test_they_err_by_two_units_of_the_last_digit_at_most(name, low, high):
    x = torch.cat([torch.linspace(low, high, 200_001), torch.linspace(-1e-6, 1e-6, 1001)])
    exact = getattr(torch, name)(x.double())
    unit = torch.exp2(exact.abs().clamp(min=2.0**-126).log2().floor() - 23)
    assert ((values(name, x).double() - exact).abs() / unit).max() <= 2


def test_the_ends():
    assert values("exp", torch.tensor([0.0, -0.0, 89.5, INF, -105.0, -INF])).tolist() == [1, 1, INF, INF, 0, 0]
    assert 0 < values("exp", torch.tensor([-95.0])).item() < 2.0**-126  # smaller than the smallest normal number
    assert values("tanh", torch.tensor([0.0, 1e-30, 20.0, INF, -20.0, -INF])).tolist() == [
        0.0, pytest.approx(1e-30), 1, 1, -1, -1,
    ]  # fmt: skip
    assert values("exp", torch.tensor([NAN])).isnan() and values("tanh", torch.tensor([NAN])).isnan()


@pytest.mark.parametrize("name", ["exp", "tanh"])
def test_a_value_does_not_depend_on_its_place(name):
    x = torch.linspace(-9, 9, 45)
    whole = values(name, x)
    for start in range(45):
        assert torch.equal(values(name, x[start:]), whole[start:])
