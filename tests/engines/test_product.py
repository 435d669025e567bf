"""Every way to compute a product gives the same, up to rounding."""

from __future__ import annotations

import pytest
import torch

from seqlm.engines import product
from seqlm.engines.choice import measured
from seqlm.engines.product import affine, multiply, outer, repeated
from seqlm.engines.transpose import transposed

WAYS = ["torch", "mkl", "onednn"]
TYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """The way that is taken wherever there is it, and the questions that were asked."""
    asked = {}

    def choose(question, ways):
        asked[question] = list(ways)
        return request.param if request.param in ways else next(iter(ways))

    monkeypatch.setattr(measured, "choose", choose)
    return request.param, asked


def draw(*shape, dtype=torch.float32):
    return torch.randn(*shape).to(dtype)


def close(found, exact, dtype, summed=1):
    """Sums of bfloat16 factors are exact but for the rounding of the result: half a unit of 8 binary digits."""
    bound = 2.0**-8 if dtype is torch.bfloat16 else 1e-6
    assert (found.double() - exact).norm() <= bound * exact.norm()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("turned", [False, True])
def test_repeated(way, dtype, turned):
    name, asked = way
    torch.manual_seed(0)
    matrix = draw(300, 700).t() if turned else draw(700, 300)
    x, start = draw(21, 700), draw(21, 300)
    times = repeated(matrix, dtype, 35, 21)
    exact = x.to(dtype).double() @ matrix.to(dtype).double()
    out = torch.full((21, 300), torch.nan)
    times(x, None, out)
    close(out, exact, dtype)
    times(x, start, out)
    close(out - start, exact, dtype)
    out = start.clone()
    times(x, out, out)
    close(out - start, exact, dtype)
    narrow = torch.full((21, 300), torch.nan, dtype=dtype)
    times(x.to(dtype), None, narrow)
    close(narrow, exact, dtype)
    if product._has_onednn(dtype):
        (ways,) = asked.values()
        assert name in ways or (name, dtype) == ("mkl", torch.bfloat16)
    else:  # bfloat16, on a processor without units for it
        assert not asked


@pytest.mark.parametrize("dtype", TYPES)
def test_of_all_steps(way, dtype):
    name, asked = way
    torch.manual_seed(0)
    x, weight, bias, d = (draw(*shape, dtype=dtype) for shape in ((200, 90), (130, 90), (130,), (200, 130)))
    close(affine(x, weight, bias), x.double() @ weight.double().t() + bias.double(), dtype)
    close(affine(x, weight, None), x.double() @ weight.double().t(), dtype)
    close(multiply(d, weight), d.double() @ weight.double(), dtype)
    close(outer(d, x), d.double().t() @ x.double(), dtype)
    close(outer(d[::2], x[::2]), d[::2].double().t() @ x[::2].double(), dtype)
    if product._has_onednn(dtype):
        assert len(asked) == 4 and all(name in ways for ways in asked.values()) or name == "mkl"
    else:
        assert not asked


def test_a_small_product_asks_nothing(way):
    _, asked = way
    affine(draw(4, 5), draw(6, 5), None), multiply(draw(4, 6), draw(6, 5)), outer(draw(4, 6), draw(4, 5))
    repeated(draw(800, 800), torch.float32, 3, 20), repeated(draw(8, 8), torch.float32, 100, 20)
    affine(draw(200, 90).double(), draw(130, 90).double(), None)
    assert not asked


def test_without_onednn_it_is_torch_or_mkl(way, monkeypatch):
    monkeypatch.setattr(product, "_has_onednn", lambda dtype: False)
    _, asked = way
    repeated(draw(700, 300), torch.float32, 35, 21), affine(draw(200, 90), draw(130, 90), None)
    assert [ways for ways in asked.values()] == [["torch", "mkl"]]


@pytest.mark.parametrize("dtype", [*TYPES, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (16, 16), (200, 129), (129, 200), (640, 65), (1, 40_000)])
def test_transposed(dtype, shape, loop_body):
    matrix = draw(*shape, dtype=dtype)
    found = transposed(matrix)
    assert found.is_contiguous() and torch.equal(found, matrix.t())
    assert torch.equal(transposed(matrix[:, ::2]), matrix[:, ::2].t())
    assert transposed(matrix.t()).data_ptr() == matrix.data_ptr()
