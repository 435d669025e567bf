"""Stacks, both directions, dropout by place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seqlm import Bidirectional, ElmanCell, GRUCell, JordanCell, LockedDropout, LSTMCell, Recurrent, Stack
from seqlm.cells import LayerNormLSTMCell, PeepholeLSTMCell, QRNNCell, RHNCell, carry_tensors, map_carry
from seqlm.engines import ENGINES
from seqlm.layers import WordEmbedding, make_dropout
from seqlm.layers.dropout import dropout_mask


def stack(**options):
    cells = [LSTMCell(5, 6), JordanCell(6, 9, output_size=6), GRUCell(6, 6, reset="before"), ElmanCell(6, 6)]
    return Stack([Recurrent(cell) for cell in cells], **options)


def test_layers_may_have_different_cells_and_sizes():
    model = stack()
    carry, ys = model(torch.randn(4, 2, 5), model.init_carry(2))
    assert ys.shape == (4, 2, 6) and len(carry) == 4 and model.causal
    assert [layer.plan.engine for layer in model.layers] == ["native", "deferred", "deferred", "fused"]


def test_stacks_and_directions_nest():
    pair = Bidirectional(Recurrent(ElmanCell(5, 3)), Recurrent(GRUCell(5, 4), reverse=True))
    model = Stack([pair, Stack([Recurrent(LSTMCell(7, 2))])])
    carry, ys = model(torch.randn(4, 2, 5), model.init_carry(2))
    assert ys.shape == (4, 2, 2) and not model.causal
    model(torch.randn(4, 2, 5), carry)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("kind", "reference"), [(ElmanCell, nn.RNN), (GRUCell, nn.GRU), (LSTMCell, nn.LSTM)])
def test_the_carry_of_padded_sequences_is_that_of_packed_ones(kind, reference, engine):
    """Two layers in both directions, as torch's: outputs, last carry and gradients; padding may hold anything."""
    torch.manual_seed(0)
    lengths = torch.tensor([4, 7, 1, 3])
    theirs = reference(5, 3, num_layers=2, bidirectional=True).double()
    pairs = [[Recurrent(kind(size, 3).double(), reverse, engine) for reverse in (False, True)] for size in (5, 6)]
    ours = Stack([Bidirectional(*pair) for pair in pairs])
    for depth, pair in enumerate(pairs):
        for layer, suffix in zip(pair, ("", "_reverse"), strict=True):
            for name, parameter in layer.cell.named_parameters():
                parameter.data.copy_(getattr(theirs, f"{name}_l{depth}{suffix}").data)
    padding = (torch.arange(7).unsqueeze(1) >= lengths).unsqueeze(-1)
    xs = torch.randn(7, 4, 5, dtype=torch.float64)
    last, ys = ours(xs.masked_fill(padding, torch.nan), ours.init_carry(4), lengths)
    packed = nn.utils.rnn.pack_padded_sequence(xs, lengths, enforce_sorted=False)
    their_ys, their_last = theirs(packed)
    their_ys = nn.utils.rnn.pad_packed_sequence(their_ys)[0]
    their_last = their_last if isinstance(their_last, tuple) else (their_last,)
    our_last = [torch.stack(parts) for parts in zip(*(half for pair in last for half in pair), strict=True)]
    totals = []
    for results in ([ys.masked_fill(padding, 0), *our_last], [their_ys, *their_last]):
        totals.append(sum((result.sin() * (1 + i)).sum() for i, result in enumerate(results)))
    for mine, other in zip([ys.masked_fill(padding, 0), *our_last], [their_ys, *their_last], strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)
    for total in totals:
        total.backward()
    for depth, pair in enumerate(pairs):
        for layer, suffix in zip(pair, ("", "_reverse"), strict=True):
            for name, parameter in layer.cell.named_parameters():
                grad = getattr(theirs, f"{name}_l{depth}{suffix}").grad
                torch.testing.assert_close(parameter.grad, grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("kind", [ElmanCell, LSTMCell, PeepholeLSTMCell, LayerNormLSTMCell, QRNNCell, RHNCell])
@pytest.mark.parametrize("engine", ENGINES)
def test_an_empty_sequence_gives_back_its_carry(kind, engine, grad, loop_body):
    """With its gradient, and in both bodies of the fused loop; the other rows end at steps of their own."""
    torch.manual_seed(0)
    cell = kind(5, 6).double()
    if ENGINES[engine].refusal(cell):
        pytest.skip("not served")
    carry = map_carry(lambda t: torch.randn_like(t).requires_grad_(), cell.init_carry(3))
    xs = torch.randn(4, 3, 5, dtype=torch.float64)
    results = []
    for name in ("scan", engine):
        with torch.set_grad_enabled(grad):
            last, _ = Recurrent(cell, engine=name)(xs, carry, torch.tensor([2, 0, 4]))
        tensors = carry_tensors(last)
        for tensor, start in zip(tensors, carry_tensors(carry), strict=True):
            assert torch.equal(tensor[1], start[1])
        total = sum((tensor**2).sum() for tensor in tensors)
        sources = [*carry_tensors(carry), *cell.parameters()]
        found = torch.autograd.grad(total, sources, allow_unused=True) if grad else ()
        if grad:
            for gradient, start in zip(found, carry_tensors(carry), strict=False):
                torch.testing.assert_close(gradient[1], 2 * start[1], rtol=0, atol=1e-12)
        results.append([*tensors, *(g for g in found if g is not None)])
    for reference, other in zip(*results, strict=True):
        torch.testing.assert_close(other, reference, rtol=0, atol=1e-12)


def test_residual_adds_input_to_output():
    torch.manual_seed(0)
    plain, residual = stack(), stack(residual=True)
    residual.load_state_dict(plain.state_dict())
    xs = torch.randn(4, 2, 5)
    carry, below = plain.init_carry(2), xs
    for index, layer in enumerate(plain.layers):
        _, ys = layer(below, carry[index])
        below = ys + below if index else ys
    torch.testing.assert_close(residual(xs, carry)[1], below)
    assert not torch.allclose(plain(xs, carry)[1], below)


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"layers.1 reads 7 features but 6 arrive"):
        Stack([Recurrent(ElmanCell(5, 6)), Recurrent(ElmanCell(7, 6))])
    with pytest.raises(ValueError, match=r"residual=true.*layers.1.*6 and 8"):
        Stack([Recurrent(ElmanCell(5, 6)), Recurrent(ElmanCell(6, 8))], residual=True)
    layer = Recurrent(ElmanCell(5, 6))
    with pytest.raises(ValueError, match="module of its own"):
        Bidirectional(layer, layer)
    with pytest.raises(ValueError, match="backward must run backward"):
        Bidirectional(layer, Recurrent(ElmanCell(5, 6)))


def test_locked_dropout_has_one_mask_per_sequence():
    torch.manual_seed(0)
    dropped = LockedDropout(0.4)(torch.ones(50, 20, 30))
    assert (dropped == dropped[:1]).all()
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.6], rel=1e-4)
    assert 0.5 < (dropped[0] != 0).float().mean() < 0.7
    assert (dropped[0, 0] != dropped[0, 1]).any()  # rows have masks of their own


@pytest.mark.parametrize("p", [0.1, 0.35, 0.5, 0.9])
def test_masks_are_fair_and_independent(p):
    torch.manual_seed(0)
    mask = dropout_mask((400, 1003), p, torch.ones(1))
    kept = (mask > 0).double()
    assert mask.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=1e-4)
    error = 5 * (p * (1 - p) / kept.numel()) ** 0.5
    assert abs(kept.mean() - (1 - p)) < error + 2**-16
    centred = (kept - kept.mean()).flatten()
    for lag in (1, 2, 3, 4, 5, 8):  # four decisions share a draw: they must not know of each other
        assert abs((centred[lag:] * centred[:-lag]).mean()) < 5 * p * (1 - p) / kept.numel() ** 0.5, lag
    for place in range(4):
        assert abs(kept.flatten()[place::4].mean() - (1 - p)) < 2 * error + 2**-16, place


def test_a_probability_next_to_one_leaves_something():
    assert dropout_mask((10,), 0.9999999, torch.ones(1)).isfinite().all()


def test_standard_dropout_has_a_mask_for_every_step():
    torch.manual_seed(0)
    dropped = make_dropout("standard", 0.4)(torch.ones(50, 20, 30))
    assert (dropped != dropped[:1]).any()


def test_word_dropout_drops_a_type_everywhere():
    torch.manual_seed(0)
    embedding = WordEmbedding(40, 6, dropout=0.5)
    nn.init.ones_(embedding.weight)
    tokens = torch.arange(40).repeat(5, 2)
    vectors = embedding(tokens)
    by_type = vectors.view(5, 2, 40, 6)
    assert (by_type == by_type[:1, :1]).all()
    assert set(vectors.unique().tolist()) == {0.0, 2.0}
    vectors.sum().backward()
    kept = by_type[0, 0, :, 0] != 0
    assert (embedding.weight.grad[~kept] == 0).all() and (embedding.weight.grad[kept] == 20).all()


@pytest.mark.parametrize(
    "module", [LockedDropout(0.5), make_dropout("standard", 0.5), WordEmbedding(9, 3, dropout=0.5)]
)
def test_dropout_is_the_identity_in_eval_mode(module):
    module.eval()
    xs = torch.arange(6).view(3, 2) if isinstance(module, WordEmbedding) else torch.randn(3, 2, 4)
    expected = module.weight[xs] if isinstance(module, WordEmbedding) else xs
    state = torch.get_rng_state()
    torch.testing.assert_close(module(xs), expected, rtol=0, atol=0)
    assert (torch.get_rng_state() == state).all()


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.3])
def test_impossible_probabilities_are_refused(p):
    with pytest.raises(ValueError, match=f"p={p} must be at least 0 and less than 1"):
        LockedDropout(p)


def test_dropout_stands_between_layers_only():
    class Count(nn.Module):
        calls = 0

        def forward(self, xs):
            self.calls += 1
            return xs

    counter = Count()
    model = stack(dropout=counter)
    model(torch.randn(4, 2, 5), model.init_carry(2))
    assert counter.calls == 3
