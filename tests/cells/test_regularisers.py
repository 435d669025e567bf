"""Every regulariser with every cell and engine: gradients reach every parameter, and nothing happens in eval mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from seqlm import ElmanCell, GRUCell, JordanCell, LanguageModel, LSTMCell, Recurrent, Stack, scan
from seqlm.cells import (
    LayerNormGRUCell,
    LayerNormLSTMCell,
    MinGRUCell,
    MinLSTMCell,
    MogrifierLSTMCell,
    PeepholeLSTMCell,
    QRNNCell,
    RecurrentDropout,
    RHNCell,
    carry_tensors,
    drop_state,
    map_carry,
)
from seqlm.cells.dropout import dropout_mask, keep_mask
from seqlm.config.yaml_files import cell_nodes
from seqlm.data.batching.streams import Chunk
from seqlm.engines import ENGINES
from seqlm.errors import ConfigError
from seqlm.layers import linear_cross_entropy
from seqlm.tasks.lm import LanguageModeling

from ..models.test_model import model_of

T, B, E, H = 5, 3, 4, 6
MAKERS = {
    "elman": ElmanCell,
    "jordan": JordanCell,
    "gru": GRUCell,
    "gru one gate": lambda *sizes: GRUCell(*sizes, reset="none"),
    "gru before": lambda *sizes: GRUCell(*sizes, reset="before"),
    "lstm": LSTMCell,
    "capped": lambda *sizes: LSTMCell(*sizes, input_gate="capped"),
    "coupled": lambda *sizes: LSTMCell(*sizes, input_gate="coupled"),
    "peephole": PeepholeLSTMCell,
    "layer norm": LayerNormLSTMCell,
    "layer norm gru": LayerNormGRUCell,
    "mogrifier": MogrifierLSTMCell,
    "mogrifier low rank": lambda *sizes: MogrifierLSTMCell(*sizes, rounds=3, rank=2, input_gate="capped"),
    "rhn": lambda *sizes: RHNCell(*sizes, depth=3),
    "qrnn": QRNNCell,
    "qrnn window 1": lambda *sizes: QRNNCell(*sizes, window=1),
    "min gru": MinGRUCell,
    "min lstm": MinLSTMCell,
}
DROPS = {
    "weight": RecurrentDropout(weight=0.5),
    "state": RecurrentDropout(state=0.5),
    "per gate": RecurrentDropout(state=0.5, per_gate=True),
    "input": RecurrentDropout(per_gate=True, input=0.5),
    "zoneout": RecurrentDropout(zoneout=0.3),
    "memory": RecurrentDropout(zoneout_memory=0.3),
    "all": RecurrentDropout(weight=0.2, state=0.3, zoneout=0.2),
}


@pytest.fixture(params=MAKERS)
def cell(request):
    torch.manual_seed(0)
    made = MAKERS[request.param](E, H).double()
    for parameter in made.parameters():
        torch.nn.init.uniform_(parameter, -0.7, 0.7)
    return made


def regularised(cell, drop):
    try:
        cell.regularise(drop)
    except ValueError as error:
        pytest.skip(str(error))
    return cell


def chunk(cell, engine, xs, carry, seed=3, lengths=None):
    """Outputs and last carry, with masks from this seed."""
    torch.manual_seed(seed)
    last, ys = Recurrent(cell, engine=engine)(xs, carry, lengths)
    return [ys, *carry_tensors(last)]


def given(cell):
    torch.manual_seed(1)
    carry = map_carry(lambda t: torch.rand_like(t) - 0.5, cell.init_carry(B))
    return torch.randn(T, B, E, dtype=torch.float64), carry


@pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS)
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "scan"])
def test_engines_draw_and_compute_alike(cell, engine, drop):
    cell = regularised(cell, drop)
    if why_not := ENGINES[engine].refusal(cell):
        pytest.skip(why_not)
    xs, carry = given(cell)
    for train in (True, False):
        cell.train(train)
        results = []
        for name in ("scan", engine):
            cell.zero_grad()
            outputs = chunk(cell, name, xs, carry)
            sum(output.sin().sum() for output in outputs).backward()
            results.append([*outputs, *(p.grad for p in cell.parameters())])
        for ours, reference in zip(*results, strict=True):
            torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS)
def test_masks_of_padded_sequences_are_those_of_whole_ones(cell, drop):
    """The carry after n steps under the masks of the chunk; outputs before an end keep their bits on every engine."""
    cell = regularised(cell, drop)
    xs, carry = given(cell)
    lengths = torch.tensor([T, 2, 3])
    ends = [chunk(cell, "scan", xs[:length], carry)[1:] for length in lengths] if not (drop.zones) else None
    for engine in ENGINES:
        if ENGINES[engine].refusal(cell):
            continue
        ys, *whole = chunk(cell, engine, xs, carry)
        padded, *last = chunk(cell, engine, xs, carry, lengths=lengths)
        for row, length in enumerate(lengths):
            if engine != "native":
                assert torch.equal(padded[:length, row], ys[:length, row])
            for end, alone in zip(last, ends[row] if ends else [], strict=bool(ends)):
                torch.testing.assert_close(end[row], alone[row], rtol=0, atol=1e-12)
        for end, of_all in zip(last, whole, strict=True):
            torch.testing.assert_close(end[0], of_all[0], rtol=0, atol=1e-12)
        for end, reference in zip(last, chunk(cell, "scan", xs, carry, lengths=lengths)[1:], strict=True):
            torch.testing.assert_close(end, reference, rtol=0, atol=1e-12)


def finite_differences(module, loss, **tolerance):
    """The gradient of `loss` reaches every parameter, and is its slope along a random direction."""
    loss().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad.abs().max() > 0, name
        direction = torch.randn_like(parameter)
        with torch.no_grad():
            values = []
            for step in (1e-6, -2e-6):
                parameter += step * direction
                values.append(loss().item())
            parameter += 1e-6 * direction
        slope = (parameter.grad * direction).sum().item()
        assert slope == pytest.approx((values[0] - values[1]) / 2e-6, **tolerance), name


@pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS)
def test_gradients_match_finite_differences_under_the_masks(cell, drop):
    cell = regularised(cell, drop)
    xs, carry = given(cell)

    def loss():
        return sum(output.sin().sum() for output in chunk(cell, "scan", xs, carry))

    finite_differences(cell, loss, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS)
def test_it_changes_training_and_not_evaluation(cell, drop):
    xs, carry = given(cell)
    plain = chunk(cell, "scan", xs, carry)
    cell = regularised(cell, drop)
    assert not torch.equal(chunk(cell, "scan", xs, carry)[0], plain[0])
    assert not torch.equal(chunk(cell, "scan", xs, carry, 4)[0], chunk(cell, "scan", xs, carry)[0])
    evaluated = chunk(cell.eval(), "scan", xs, carry)
    if drop.zones:  # the mean of the mask, as published: the state moves less
        assert torch.equal(evaluated[0], chunk(cell, "scan", xs, carry, 4)[0])
        assert not torch.equal(evaluated[0], plain[0])
    else:
        assert torch.equal(evaluated[0], plain[0])


@pytest.mark.parametrize("name", MAKERS)
def test_steps_of_one_chunk_share_its_masks(name):
    """A decoder that is fed what it wrote reads a chunk step by step; weights are dropped once for all of them."""
    layer = Recurrent(regularised(MAKERS[name](E, H).double(), DROPS["weight"]))
    xs, carry = given(layer.cell)
    for train in (True, False):
        step = layer.train(train).bind(carry)
        outputs = [step(carry, xs[0])[1] for _ in range(3)]
        assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])
        assert torch.equal(layer.bind(carry)(carry, xs[0])[1], outputs[0]) is not train


def test_weight_drop_by_hand():
    """An LSTM in NumPy with the same mask on W_hh, every chunk another."""
    torch.manual_seed(0)
    cell = LSTMCell(E, H).double()
    cell.regularise(RecurrentDropout(weight=0.5))
    xs, carry = given(cell)
    found = chunk(cell, "fused", xs, carry)
    torch.manual_seed(3)
    mask = dropout_mask(cell.weight_hh.shape, 0.5, cell.weight_hh).numpy()
    assert set(np.unique(mask)) == {0.0, 2.0}
    w_ih, w_hh, b_ih, b_hh = (p.detach().numpy() for p in cell.parameters())
    h, c = (t.numpy() for t in carry)
    sigmoid = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    for t in range(T):
        i, f, g, o = np.split(xs[t].numpy() @ w_ih.T + b_ih + h @ (w_hh * mask).T + b_hh, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(found[0][t].detach().numpy(), h, atol=1e-12)


def masks_of_gates(gates):
    """Masks of the state and of the input that a chunk with seed 3 draws: 0 or 2, and 0 or 4."""
    torch.manual_seed(3)
    zero = torch.zeros((), dtype=torch.float64)
    state, entering = dropout_mask((gates, B, H), 0.5, zero).numpy(), dropout_mask((gates, B, E), 0.75, zero).numpy()
    assert set(state.ravel()) == {0.0, 2.0} and set(entering.ravel()) == {0.0, 4.0}
    assert len({mask.tobytes() for mask in entering}) == gates
    return state, entering


@pytest.mark.parametrize("engine", ["scan", "fused"])
def test_masks_of_each_gate_by_hand(engine):
    """Gal's LSTM in NumPy, gate by gate; the same masks at every step."""
    torch.manual_seed(0)
    cell = LSTMCell(E, H).double()
    cell.regularise(RecurrentDropout(state=0.5, per_gate=True, input=0.75))
    xs, carry = given(cell)
    found = chunk(cell, engine, xs, carry)[0].detach().numpy()
    state, entering = masks_of_gates(4)
    w_ih, w_hh, b_ih, b_hh = (np.split(p.detach().numpy(), 4) for p in cell.parameters())
    h, c = (t.numpy() for t in carry)
    sigmoid = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    for t in range(T):
        x = xs[t].numpy()
        i, f, g, o = ((x * entering[k]) @ w_ih[k].T + b_ih[k] + (h * state[k]) @ w_hh[k].T + b_hh[k] for k in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(found[t], h, atol=1e-12)


def test_masks_of_each_gate_of_a_highway_by_hand():
    """Masks of candidate and transform gate, on the input of the first layer and on the state of all."""
    torch.manual_seed(0)
    cell = RHNCell(E, H, depth=3).double()
    cell.regularise(RecurrentDropout(state=0.5, per_gate=True, input=0.75))
    xs, carry = given(cell)
    found = chunk(cell, "scan", xs, carry)[0].detach().numpy()
    state, entering = masks_of_gates(2)
    w_ih, w_hh, b_hh = (p.detach().numpy() for p in cell.parameters())
    rows = [slice(k * H, (k + 1) * H) for k in range(6)]
    s = carry.h.numpy()
    for t in range(T):
        for layer in range(3):
            a, b = ((s * state[k]) @ w_hh[rows[2 * layer + k]].T + b_hh[rows[2 * layer + k]] for k in range(2))
            if layer == 0:
                a, b = (part + (xs[t].numpy() * entering[k]) @ w_ih[rows[k]].T for k, part in enumerate((a, b)))
            gate = 1 / (1 + np.exp(-b))
            s = gate * np.tanh(a) + (1 - gate) * s
        np.testing.assert_allclose(found[t], s, atol=1e-12)


def test_where_a_model_draws_masks_of_gates():
    words = ["model.num_layers=2", "model.hidden_size=8", "model.dropout.input=0.4", "model.dropout.hidden=0.3"]
    gatewise = model_of(*words, "model.dropout.per_gate=true")
    assert gatewise.input_dropout.p == gatewise.stack.dropout.p == 0
    drops = [layer.cell.dropout for layer in gatewise.stack.layers]
    assert drops == [RecurrentDropout(per_gate=True, input=p) for p in (0.4, 0.3)]
    first = model_of(*words[:3], "model.dropout.per_gate=true")
    assert [layer.cell.dropout.per_gate for layer in first.stack.layers] == [True, False]
    words.append("model.dropout.state=0.2")
    for kind, gates in (("standard", "true"), ("locked", "false")):
        shared = model_of(*words, f"model.dropout.kind={kind}", f"model.dropout.per_gate={gates}")
        assert (shared.input_dropout.p, shared.stack.dropout.p) == (0.4, 0.3)
        assert {layer.cell.dropout for layer in shared.stack.layers} == {RecurrentDropout(0.0, 0.2, gates == "true")}


@pytest.mark.parametrize("engine", ["scan", "fused"])
@pytest.mark.parametrize("training", [True, False])
def test_everything_inside_a_recurrence_by_hand(engine, training):
    """Masks of weight and state for the chunk, of zoneout for each step: of h, then of c; in eval mode their means."""
    torch.manual_seed(0)
    cell = LSTMCell(E, H).double().train(training)
    cell.regularise(RecurrentDropout(weight=0.5, state=0.25, zoneout=0.2, zoneout_memory=0.7))
    xs, carry = given(cell)
    found = chunk(cell, engine, xs, carry)
    torch.manual_seed(3)
    weight, state, kept_h, kept_c = 1.0, 1.0, np.full((T, B, H), 0.2), np.full((T, B, H), 0.7)
    if training:
        weight = dropout_mask((4 * H, H), 0.5, xs).numpy()
        state = dropout_mask((B, H), 0.25, xs).numpy()
        kept_h, kept_c = (keep_mask((T, B, H), 1 - p, xs).numpy() for p in (0.2, 0.7))
        assert 0.1 < kept_h.mean() < 0.3 and 0.6 < kept_c.mean() < 0.8 and (kept_h[0] != kept_h[1]).any()
    w_ih, w_hh, b_ih, b_hh = (p.detach().numpy() for p in cell.parameters())
    h, c = (t.numpy() for t in carry)
    sigmoid = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    for t in range(T):
        a = xs[t].numpy() @ w_ih.T + b_ih + (h * state) @ (w_hh * weight).T + b_hh
        i, f, g, o = np.split(a, 4, axis=1)
        new = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = kept_h[t] * h + (1 - kept_h[t]) * sigmoid(o) * np.tanh(new)
        c = kept_c[t] * c + (1 - kept_c[t]) * new
        np.testing.assert_allclose(found[0][t].detach().numpy(), h, atol=1e-12)
    np.testing.assert_allclose(found[2].detach().numpy(), c, atol=1e-12)


@pytest.mark.parametrize("kind", ["free", "capped", "coupled"])
def test_input_gates_by_hand(kind):
    torch.manual_seed(0)
    cell = LSTMCell(E, H, input_gate=kind, forget_bias=2.0).double()
    xs, carry = given(cell)
    c, ys = carry.c.numpy(), scan(cell, xs[:1], carry)[0].c.detach().numpy()
    a = (xs[0] @ cell.weight_ih.T + cell.bias_ih + carry.h @ cell.weight_hh.T + cell.bias_hh).detach().numpy()
    blocks = np.split(a, len(a.T) // H, axis=1)
    f, g = blocks[-3], blocks[-2]
    forget = 1 / (1 + np.exp(-f))
    gate = 1 / (1 + np.exp(-blocks[0]))
    gate = {"free": gate, "capped": np.minimum(gate, 1 - forget), "coupled": 1 - forget}[kind]
    np.testing.assert_allclose(ys, forget * c + gate * np.tanh(g), atol=1e-12)
    bias = cell.bias_ih.detach().view(-1, H)
    assert bias[-3].min() > 1.5 and bias[-2].abs().max() < 0.5


def test_what_does_nothing_is_refused():
    with pytest.raises(ValueError, match="zoneout_memory=0.1 does nothing: .* GRUCell supports"):
        GRUCell(E, H).regularise(RecurrentDropout(zoneout_memory=0.1))
    with pytest.raises(ValueError, match="per_gate=true does nothing without state"):
        LSTMCell(E, H).regularise(RecurrentDropout(per_gate=True))
    with pytest.raises(ValueError, match=r"weight=1\.0 must be"):
        LSTMCell(E, H).regularise(RecurrentDropout(weight=1.0))
    with pytest.raises(ConfigError, match=r"layer 0: model.dropout.zoneout_memory=0.2 does nothing"):
        model_of("model=gru", "model.dropout.zoneout_memory=0.2")
    with pytest.raises(ValueError, match="input=0.5 needs per_gate=true"):
        LSTMCell(E, H).regularise(RecurrentDropout(input=0.5))
    with pytest.raises(ConfigError, match="model.dropout.per_gate=true does nothing without state, or input or hidden"):
        model_of("model.dropout.input=0.4", "model.dropout.kind=standard", "model.dropout.per_gate=true")
    with pytest.raises(ConfigError, match="layer 0: model.dropout.per_gate=true does nothing: .* QRNNCell supports"):
        model_of("model.dropout.input=0.4", "model/cell=qrnn", "model.dropout.per_gate=true")
    with pytest.raises(ConfigError, match="model.dropout.embedding_tied=true does nothing"):
        model_of("model.dropout.embedding_tied=true")
    for word in ("model.dropout.hidden=0.5", "model.residual=true", "model.skip_sum=true"):
        with pytest.raises(ConfigError, match=f"{word} does nothing with one layer"):
            model_of("model.num_layers=1", word)
    for option in ("rank=4", "round_bias=true"):
        with pytest.raises(ConfigError, match="rank and round_bias do nothing with rounds=0"):
            model_of("model/cell=mogrifier_lstm", "model.cell.rounds=0", f"model.cell.{option}")


@pytest.mark.parametrize("cell", cell_nodes())
def test_what_a_cell_cannot_drop_is_named_as_it_is_typed(cell):
    refused = 0
    for word in ("weight=0.5", "state=0.5", "per_gate=true", "zoneout=0.5", "zoneout_memory=0.5"):
        more = ["model.dropout.state=0.5"] if word.startswith("per_gate") else []
        try:
            model_of(f"model/cell={cell}", f"model.dropout.{word}", *more, engine="scan")
        except ConfigError as error:
            refused += 1
            assert str(error).startswith(("layer 0: model.dropout.", "model.dropout.")), error
            assert word in str(error) or "state=0.5" in str(error), error
    assert refused < 5 or cell == "feed_forward"


def test_embedding_masks_reach_tied_weights():
    torch.manual_seed(0)
    stack = Stack([Recurrent(LSTMCell(H, H))])
    model = LanguageModel(50, stack, tied=True, dropout={"embedding": 0.5, "embedding_tied": True})
    reading = model.read(torch.zeros(T, B, dtype=torch.int64), model.init_carry(B))
    assert set(reading.words.flatten().tolist()) == {0.0, 2.0}
    expected = F.linear(reading.features[0], model.decoder.weight * reading.words, model.decoder.bias)
    torch.manual_seed(9)
    _, logits = model(torch.ones(T, B, dtype=torch.int64), model.init_carry(B))
    torch.manual_seed(9)
    again = model.read(torch.ones(T, B, dtype=torch.int64), model.init_carry(B))
    dropped = again.words.flatten() == 0
    assert (logits[..., dropped] == model.decoder.bias[dropped]).all() and expected.shape == logits.shape
    targets = torch.randint(50, (T, B))
    nats = model.score(again, targets)
    close = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    torch.testing.assert_close(nats, close)
    assert model.eval().read(targets, model.init_carry(B)).words is None


def test_penalties_by_hand():
    """AR on the dropped outputs, TAR on those without dropout; in nats per token, added to training alone."""
    torch.manual_seed(0)
    model = LanguageModel(20, Stack([Recurrent(LSTMCell(H, H))]), dropout={"output": 0.5}).double()
    tokens = torch.randint(20, (T + 1, B))
    whole = Chunk(tokens[:-1], tokens[1:], T * B)
    torch.manual_seed(5)
    _, nats, penalty = LanguageModeling(penalties={"activation": 2.0, "temporal": 3.0}).objective(
        model, whole, model.init_carry(B)
    )
    torch.manual_seed(5)
    reading = model.read(whole.inputs, model.init_carry(B))
    top, dropped = (part.detach().numpy().astype(np.float32) for part in (reading.top, reading.dropped))
    by_hand = 2.0 * sum(v * v for v in dropped.flatten()) / dropped.size
    by_hand += 3.0 * sum(v * v for v in (top[1:] - top[:-1]).flatten()) / (top.size - top[0].size)
    assert penalty.item() / (T * B) == pytest.approx(by_hand, rel=1e-5)
    assert LanguageModeling().objective(model, whole, model.init_carry(B))[2] is None
    one = Chunk(tokens[:1], tokens[1:2], B)  # no change in a chunk of one step
    assert LanguageModeling(penalties={"temporal": 1.0}).objective(model, one, model.init_carry(B))[2] is None
    assert nats.item() == pytest.approx(
        linear_cross_entropy(
            reading.features[0].flatten(0, 1), model.decoder.weight, model.decoder.bias, whole.targets.flatten()
        ).item()
    )


def test_dropped_state():
    torch.manual_seed(0)
    carry = LSTMCell(E, H).init_carry(4000)
    carry = map_carry(lambda t: t + 1, carry)
    h, c = drop_state((carry,), 0.25)[0]
    kept = h.amin(1)
    assert torch.equal(kept, h.amax(1)) and torch.equal(h, c)
    assert kept.mean() == pytest.approx(0.75, abs=0.03) and set(kept.tolist()) == {0.0, 1.0}
    assert drop_state(carry, 0.0) is carry


def test_skip_sum():
    torch.manual_seed(0)
    layers = [Recurrent(LSTMCell(E, H)), Recurrent(GRUCell(H, H)), Recurrent(ElmanCell(H, H))]
    stack = Stack(layers, skip_sum=True)
    xs, total = torch.randn(T, B, E), torch.zeros(T, B, H)
    carry, ys = stack(xs, stack.init_carry(B))
    for layer in layers:
        xs = layer(xs, layer.init_carry(B))[1]
        total += xs
    torch.testing.assert_close(ys, total)
    with pytest.raises(ValueError, match="skip_sum=true adds the outputs of all layers"):
        Stack([Recurrent(LSTMCell(E, H)), Recurrent(GRUCell(H, H + 1))], skip_sum=True)


THREE = ("input", "hidden", "output")
PLACES = {
    "locked": ["model.dropout.kind=locked", *(f"model.dropout.{place}=0.4" for place in THREE)],
    "standard": ["model.dropout.kind=standard", *(f"model.dropout.{place}=0.4" for place in THREE)],
    "words": ["model.dropout.embedding=0.4"],
    "tied words": ["model.dropout.embedding=0.4", "model.tied=true"],
    "tied words, softmax too": ["model.dropout.embedding=0.4", "model.tied=true", "model.dropout.embedding_tied=true"],
    "mixture": [
        "model/output=mixture",
        "model.output.num_softmaxes=2",
        "model.output.latent_dropout=0.4",
        "model.embedding_size=5",
    ],
    "penalties": ["model.dropout.output=0.4"],
    "all": ["model.tied=true", *(f"model.dropout.{place}=0.3" for place in (*THREE, "embedding", "weight"))],
}
PENALTIES = {"activation": 2.0, "temporal": 1.0}


@pytest.mark.parametrize("name", PLACES)
def test_gradients_of_whole_models_match_finite_differences(name):
    """Masks outside the cells, and penalties: they reach every parameter, and the seed decides all of them."""
    torch.manual_seed(0)
    model = model_of("model.hidden_size=7", "model.num_layers=2", *PLACES[name], vocab=11).double()
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, -0.5, 0.5)
    task = LanguageModeling(penalties=PENALTIES if name in ("penalties", "all") else {})
    tokens = torch.randint(11, (T + 1, 8))
    tokens[:2] = torch.stack([torch.arange(8), torch.arange(3, 11)])  # every word is read

    def loss():
        torch.manual_seed(4)
        _, nats, penalty = task.objective(model, Chunk(tokens[:-1], tokens[1:], 8 * T), model.init_carry(8))
        return nats if penalty is None else nats + penalty

    finite_differences(model, loss, rel=1e-4, abs=1e-5)
    trained = loss().item()
    evaluated = [model.eval().nll(tokens[:-1], tokens[1:], model.init_carry(8))[1].item() for _ in range(2)]
    assert evaluated[0] == evaluated[1] != trained
