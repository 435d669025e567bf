"""The softmax and the nats of targets in one kernel: against torch in float64, at odd sizes, for any threads."""

import pytest
import torch

from seqlm.engines import compiled, cross_entropy
from seqlm.engines.cross_entropy import nats_and_slope

kernels = pytest.mark.skipif(compiled.compiler() is None, reason="there is no C compiler")
SIZES = [(1, 1), (3, 2), (9, 15), (2, 17), (40, 107), (5, 4097), (3, 9000)]


def case(rows, size, dtype):
    torch.manual_seed(size)
    return (5 * torch.randn(rows, size)).to(dtype), torch.randint(size, (rows, 2))[:, 0]


def exact(logits, targets):
    logs = logits.double().log_softmax(-1)
    at = targets.unsqueeze(1)
    return -logs.gather(1, at).squeeze(1), logs.exp().scatter_add(1, at, torch.full_like(at, -1, dtype=torch.float64))


@pytest.mark.parametrize("by", [pytest.param("kernel", marks=kernels), "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "size"), SIZES)
def test_it_is_log_softmax_and_its_gradient(rows, size, dtype, by, monkeypatch):
    monkeypatch.setenv("SEQLM_KERNELS", "1" if by == "kernel" else "0")
    logits, targets = case(rows, size, dtype)
    for gradient in (True, False):
        found = nats_and_slope(logits.clone(), targets, gradient)
        nats, slope = exact(logits, targets)
        assert found[0].dtype is torch.float32
        torch.testing.assert_close(found[0].double(), nats, rtol=1e-6, atol=1e-5)
        if gradient:  # an exponential of float32, rounded to the nearest number of its type
            assert found[1].dtype is dtype
            half_a_digit = torch.finfo(dtype).eps / 2
            torch.testing.assert_close(found[1].double(), slope, rtol=half_a_digit + 1e-5, atol=1e-6)


@kernels
def test_the_kernel_serves_what_is_trained(monkeypatch):
    monkeypatch.setattr(cross_entropy, "_by_torch", None)
    monkeypatch.delenv("SEQLM_KERNELS", raising=False)
    for dtype in (torch.float32, torch.bfloat16):
        nats_and_slope(*case(4, 5, dtype), True)
    monkeypatch.undo()
    nats, _ = nats_and_slope(*case(4, 5, torch.float64), True)
    assert nats.dtype is torch.float64


@kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_bit_depends_on_the_threads(dtype, monkeypatch):
    monkeypatch.setattr(cross_entropy, "LEAST_WORK", 1)
    logits, targets = case(13, 300, dtype)
    results = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(nats_and_slope(logits.clone(), targets, True))
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("by", [pytest.param("kernel", marks=kernels), "torch"])
def test_logits_that_are_no_numbers(by, monkeypatch):
    """NaN stays NaN, also of the target alone; a word with -inf has no probability, and a target with it no chance."""
    monkeypatch.setenv("SEQLM_KERNELS", "1" if by == "kernel" else "0")
    nan, inf = float("nan"), float("inf")
    logits = torch.tensor([[0.0, nan, 1.0], [0.0, -inf, 0.0], [0.0, -inf, 0.0], [1e4, -1e4, 0.0], [inf, 0.0, 0.0]])
    nats, slope = nats_and_slope(logits, torch.tensor([0, 0, 1, 1, 1]), True)
    assert nats[0].isnan() and nats[4].isnan() and slope[0].isnan().all()
    assert nats[1:4].tolist() == pytest.approx([0.6931472, inf, 2e4])
    torch.testing.assert_close(slope[1:4], torch.tensor([[-0.5, 0.0, 0.5], [0.5, -1.0, 0.5], [1.0, -1.0, 0.0]]))
