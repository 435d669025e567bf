"""Linear cross-entropy in chunks equals the two operations of torch it replaces."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from seqlm.layers import linear_cross_entropy, softmax


def case(rows=9, width=5, vocabulary=7, dtype=torch.float64, bias=True):
    torch.manual_seed(0)
    xs = torch.randn(rows, width, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, width, dtype=dtype, requires_grad=True)
    offset = torch.randn(vocabulary, dtype=dtype, requires_grad=True) if bias else None
    targets = torch.randint(vocabulary, (rows,))
    return xs, weight, offset, targets


@pytest.fixture(params=["one chunk", "many chunks"])
def chunks(request, monkeypatch):
    if request.param == "many chunks":
        monkeypatch.setattr(softmax, "CHUNK_BYTES", 7 * 8 * 2)  # two rows of seven logits


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ignored", [(), (0, 4), tuple(range(9))])
def test_equals_linear_and_cross_entropy(bias, ignored, chunks):
    xs, weight, offset, targets = case(bias=bias)
    targets[list(ignored)] = -1
    sources = [tensor for tensor in (xs, weight, offset) if tensor is not None]
    ours = linear_cross_entropy(xs, weight, offset, targets, ignore_index=-1)
    theirs = F.cross_entropy(F.linear(xs, weight, offset), targets, ignore_index=-1, reduction="sum")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for factor in (1.0, 0.3):  # backward may come twice, with another gradient
        pairs = zip(
            torch.autograd.grad(ours, sources, torch.tensor(factor), retain_graph=True),
            torch.autograd.grad(theirs, sources, torch.tensor(factor), retain_graph=True),
            strict=True,
        )
        for one, two in pairs:
            torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(linear_cross_entropy(xs, weight, offset, targets, ignore_index=-1), ours)


def test_gradients_match_finite_differences(chunks):
    xs, weight, offset, targets = case()
    assert torch.autograd.gradcheck(lambda *parts: linear_cross_entropy(*parts, targets), (xs, weight, offset))


def test_extreme_logits_stay_finite():
    xs = torch.tensor([[1e4, -1e4]], requires_grad=True)
    weight = torch.eye(2).requires_grad_()
    loss = linear_cross_entropy(xs, weight, None, torch.tensor([1]))
    assert loss.item() == pytest.approx(2e4)
    loss.backward()
    assert xs.grad.isfinite().all()


def test_a_target_outside_the_vocabulary_is_an_error():
    xs, weight, offset, targets = case()
    for wrong in (7, -3):
        with pytest.raises(IndexError, match="leave the vocabulary of 7"):
            linear_cross_entropy(xs, weight, offset, targets.index_fill(0, torch.tensor([2]), wrong), ignore_index=-1)


def test_reduced_precision_adds_up_in_float32(chunks):
    xs, weight, offset, targets = case(dtype=torch.float32)
    exact = linear_cross_entropy(xs, weight, offset, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(xs, weight, offset, targets)
    assert loss.dtype == torch.float32 and abs(loss - exact) / exact < 0.02
    loss.backward()
    assert weight.grad.dtype == torch.float32 and xs.grad.dtype == torch.float32


def test_memory_is_bounded():
    """33,278 words and 5,600 tokens, in proportion: less than 200 MB beyond weights and gradients."""
    from seqlm.bench.timing import peak_bytes

    xs = torch.randn(5600, 8, requires_grad=True)
    weight = torch.randn(33278, 8, requires_grad=True)
    targets = torch.randint(33278, (5600,))

    def run():
        linear_cross_entropy(xs, weight, None, targets).backward()
        return 0.0, 0.0

    assert peak_bytes(run, torch.device("cpu")) < 200e6
