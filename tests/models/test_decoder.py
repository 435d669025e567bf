"""The decoder against a slow loop written from its equations; padding, gradients, and every option."""

from __future__ import annotations

from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import torch
import yaml

from seqlm.cells import carry_tensors
from seqlm.config.build import build
from seqlm.config.yaml_files import cell_nodes, find_configs, resolve_layer_cells
from seqlm.data.batching.batches import IGNORE_INDEX
from seqlm.data.batching.bucketed import EncodedExamples
from seqlm.data.fields import END
from seqlm.data.tokenizers.examples import ExampleTokenizer
from seqlm.errors import ConfigError
from seqlm.layers import Attention, LockedDropout, make_dropout
from seqlm.models.decoder import shifted

from ..conftest import compose

PAIRS = [
    {"words": "a b c d e", "target": "x y"},
    {"words": "c", "target": "y z z x"},
    {"words": "e d a", "target": ""},
    {"words": "b b", "target": "z"},
]
SMALL = ["model.hidden_size=5", "model.head.hidden_size=5", "model.embedding_size=4", "model.head.embedding_size=3"]
CELLS = sorted(path.stem for path in (find_configs() / "model" / "cell").glob("*.yaml"))
VARIANTS = [
    ("none", False), ("dot", False), ("dot", True), ("general", False), ("general", True), ("additive", False),
    ("additive", True),
]  # fmt: skip
TOKENIZER = ExampleTokenizer().fit(PAIRS)


@cache
def composed():
    return compose("data=copy", "task=seq2seq", "model=seq2seq").model


def node_of(*words):
    """The model's node with `model.KEY=VALUE` words in it: composing takes a second each time."""
    node = deepcopy(composed())
    for word in (*SMALL, *words):
        *path, last = word.partition("=")[0].split(".")[1:]
        value, part = yaml.safe_load(word.partition("=")[2]), node
        for name in path:
            part = part[name]
        part[last] = value
    node["cell"] = cell_nodes()[node["cell"]] if isinstance(node["cell"], str) else node["cell"]
    resolve_layer_cells(node, [find_configs()])
    return node


def model_of(*words, seed=0):
    """A model in float64 whose parameters are large enough to matter."""
    torch.manual_seed(seed)
    model = build(node_of(*words), "model", sizes=TOKENIZER.sizes(), engine="scan").double()
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, -0.7, 0.7)
    return model


def variant(attention, feeding, *words, **options):
    size = ["model.head.hidden_size=10"] if attention == "dot" else []
    flags = [f"model.head.attention={attention}", f"model.head.input_feeding={str(feeding).lower()}"]
    return model_of(*flags, *size, *words, **options)


def batch_of(*indices):
    split = EncodedExamples.of(PAIRS, TOKENIZER)
    return split.batch(indices or range(len(PAIRS)), ("target",))


def array(tensor):
    return tensor.detach().numpy()


@pytest.mark.parametrize("score", ["dot", "general", "additive"])
def test_attention_is_the_average_of_its_equation(score):
    torch.manual_seed(0)
    attention = Attention(4, 4, score, 3 if score == "additive" else None).double()
    queries, memory, lengths = torch.randn(3, 2, 4).double(), torch.randn(5, 2, 4).double(), [5, 2]
    contexts, weights = attention(queries, attention.remember(memory, torch.tensor(lengths)))
    for t in range(3):
        for b, length in enumerate(lengths):
            h, scores = array(queries[t, b]), []
            for s in range(length):
                m = array(memory[s, b])
                if score == "dot":
                    scores.append(h @ m)
                elif score == "general":
                    scores.append(h @ (array(attention.key.weight) @ m))
                else:
                    hidden = np.tanh(array(attention.query.weight) @ h + array(attention.key.weight) @ m)
                    scores.append(array(attention.weight.weight)[0] @ hidden)
            a = np.exp(scores) / np.sum(np.exp(scores))
            np.testing.assert_allclose(array(weights[t, b]), [*a, *[0] * (5 - length)], atol=1e-12)
            np.testing.assert_allclose(array(contexts[t, b]), a @ array(memory[:length, b]), atol=1e-12)


@pytest.mark.parametrize(("attention", "feeding", "context"), [
    *((*one, "state") for one in VARIANTS), ("none", False, "input"), ("none", False, "both"),
    ("general", True, "both"),
])  # fmt: skip
@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_decoder_is_the_loop_of_its_equations(attention, feeding, context, bidirectional):
    """Nats and maps of an Elman decoder of two layers, step by step, one column at a time, in NumPy."""
    if attention == "dot" and not bidirectional:
        pytest.skip("the widths would differ")
    options = [f"model.head.context={context}", f"model.bidirectional={bidirectional}"]
    model = variant(attention, feeding, "model.head.cell=elman", "model.head.num_layers=2", *options).eval()
    batch, head = batch_of(), model.head
    ys, lengths = (part.detach() for part in model.encode(batch))
    p = {name: array(value) for name, value in head.state_dict().items()}
    expected = 0.0
    maps = head.attend(ys, lengths, [row[row >= 0].tolist() for row in batch["target"].t()])
    for b, (length, size) in enumerate(zip(lengths.tolist(), batch.lengths["target"].tolist(), strict=True)):
        memory = array(ys[:length, b])
        known = np.concatenate([memory[-1][:5], memory[0][5:]]) if bidirectional else memory[-1]
        width = len(p["stack.layers.0.cell.bias_hh"])
        start = np.zeros(2 * width)
        if context != "input":
            start = np.tanh(p["bridge.weight"] @ known + p["bridge.bias"])
        h, fed, words = [start[:width], start[width:]], np.zeros(head.linear.in_features), batch["target"][:size, b]
        read, say = [END, *words.tolist()], [*words.tolist(), END]
        for t, (word, goal) in enumerate(zip(read, say, strict=True)):
            x = p["embedding.weight"][word]
            x = np.concatenate([x, fed]) if feeding else x
            x = np.concatenate([x, known]) if context != "state" else x
            for layer in (0, 1):
                w = {name: p[f"stack.layers.{layer}.cell.{name}"] for name in
                     ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}  # fmt: skip
                x = h[layer] = np.tanh(w["weight_ih"] @ x + w["bias_ih"] + w["weight_hh"] @ h[layer] + w["bias_hh"])
            o = x
            if attention != "none":
                keys = memory if attention == "dot" else memory @ p["attention.key.weight"].T
                if attention == "additive":
                    scores = np.tanh(keys + p["attention.query.weight"] @ x) @ p["attention.weight.weight"][0]
                else:
                    scores = keys @ x
                a = np.exp(scores) / np.exp(scores).sum()
                np.testing.assert_allclose(array(maps[b][t]), a, atol=1e-12)
                o = fed = np.tanh(p["combine.weight"] @ np.concatenate([a @ memory, x]))
            logits = p["linear.weight"] @ o + p["linear.bias"]
            expected += np.log(np.exp(logits).sum()) - logits[goal]
    assert model.loss_sum(batch).item() == pytest.approx(expected, rel=1e-12)


def test_what_is_read_and_what_is_said():
    target = torch.tensor([[3, 4], [2, IGNORE_INDEX], [5, IGNORE_INDEX]])
    inputs, goals = shifted(target, torch.tensor([3, 1]))
    assert inputs.t().tolist() == [[END, 3, 2, 5], [END, 4, 0, 0]]
    assert goals.t().tolist() == [[3, 2, 5, END], [4, END, IGNORE_INDEX, IGNORE_INDEX]]
    assert batch_of().tokens == (goals_of := 2 + 4 + 0 + 1) + 4, goals_of


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("attention", "feeding"), [("none", False), ("general", True)])
def test_any_cell_and_padding_changes_nothing(cell, attention, feeding):
    """Each example alone and all in one batch: nats, gradients, what is written, greedily and with a beam, maps."""
    words = [f"model.cell={cell}", f"model.head.cell={cell}", "model.head.num_layers=2"]
    if cell == "feed_forward":
        with pytest.raises(ConfigError, match="context=state needs a state, .* use context=input"):
            variant(attention, feeding, *words)
        words.append("model.head.context=input")
    model = variant(attention, feeding, *words)
    whole = model.loss_sum(batch_of())
    grads = torch.autograd.grad(whole, model.parameters(), allow_unused=True)
    alone = [model.loss_sum(batch_of(index)) for index in range(len(PAIRS))]
    torch.testing.assert_close(whole, torch.stack(alone).sum(), rtol=0, atol=1e-11)
    parts = torch.autograd.grad(torch.stack(alone).sum(), model.parameters(), allow_unused=True)
    for (name, _), one, other in zip(model.named_parameters(), grads, parts, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
    model.eval()
    ys, lengths = model.encode(batch_of())
    for how in ({}, {"beam": 3, "length_penalty": 1.0}, {"max_length": 2}):
        written = model.head.write(ys, lengths, **how)
        assert written == [model.head.write(*model.encode(batch_of(index)), **how)[0] for index in range(len(PAIRS))]
    for index, seen in enumerate(model.head.attend(ys, lengths, [[2], [3, 4], [], [2, 2, 2]])):
        one = model.head.attend(*model.encode(batch_of(index)), [[[2], [3, 4], [], [2, 2, 2]][index]])[0]
        torch.testing.assert_close(seen, one, rtol=0, atol=1e-12)
        assert seen.shape[0] == [2, 3, 1, 4][index] and (
            attention == "none" or bool((seen.sum(1) - 1).abs().max() < 1e-12)
        )


def test_the_first_state_depends_on_all_of_the_source():
    """Both directions of the encoder reach every tensor of the carry: h and c of the LSTM."""
    model = variant("none", False)
    batch = batch_of(0)
    base = [tensor.detach() for tensor in carry_tensors(model.head.start(*model.encode(batch))[1].carry)]
    assert len(base) == 2
    for place in (0, 4):
        changed = batch_of(0)
        changed["words"][place] = 2
        other = carry_tensors(model.head.start(*model.encode(changed))[1].carry)
        assert all((a - b).abs().max() > 1e-4 for a, b in zip(base, other, strict=True)), place


@pytest.mark.parametrize(("attention", "feeding"), [("none", False), ("additive", False), ("general", True)])
def test_gradients_match_finite_differences(attention, feeding):
    model, batch = variant(attention, feeding), batch_of(0, 1)
    ys, lengths = model.encode(batch)
    names = [name for name, _ in model.head.named_parameters()]
    leaves = [value.detach().clone().requires_grad_() for value in model.head.parameters()]

    class Nats(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = model.head

        def forward(self, ys):
            return self.head.loss_sum(ys, lengths, batch)

    def run(ys, *values):
        given = {f"head.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(Nats(), given, (ys,))

    assert torch.autograd.gradcheck(run, (ys.detach().requires_grad_(), *leaves), atol=1e-6, fast_mode=True)


def test_steps_and_all_at_once_are_the_same():
    model = variant("additive", False, "model.head.num_layers=2").eval()
    batch = batch_of()
    ys, lengths = model.encode(batch)
    inputs, _ = shifted(batch["target"], batch.lengths["target"])
    memory, state = model.head.start(ys, lengths)
    write = model.head.bind(memory, state)
    for row, o, seen in zip(inputs, *model.head.read(ys, lengths, inputs), strict=True):
        state, mine, weights = write(state, row)
        torch.testing.assert_close(mine, o, rtol=0, atol=1e-12)
        torch.testing.assert_close(weights, seen, rtol=0, atol=1e-12)


OPTIONS = [
    "model.head.attention=additive", "model.head.attention=none model.head.input_feeding=false",
    "model.head.attention=dot model.head.hidden_size=10", "model.head.attention=additive model.head.attention_size=2",
    "model.head.context=input", "model.head.context=both",
    "model.head.input_feeding=false", "model.head.cell=gru", "model.head.hidden_size=6", "model.head.num_layers=2",
    "model.head.embedding_size=7", "model.head.embedding_size=5 model.head.tied=true", "model.bidirectional=false",
    *[f"model.head.dropout.{place}=0.5" for place in
      ("embedding", "input", "output", "weight", "state", "zoneout", "zoneout_memory")],
    "model.head.num_layers=2 model.head.dropout.hidden=0.5",
    "model.head.dropout.kind=standard model.head.dropout.input=0.5",
    "model.head.dropout.state=0.5 model.head.dropout.per_gate=true",
]  # fmt: skip


def test_every_option_changes_the_loss():
    losses = {}
    for option in ["", *OPTIONS]:
        model = model_of(*option.split())
        torch.manual_seed(1)
        losses[option] = model.train().loss_sum(batch_of()).item()
        dropped = "dropout" in option
        assert dropped == (model.eval().loss_sum(batch_of()).item() != losses[option]), option
    assert len(set(losses.values())) == len(losses)


def test_tied_weights_are_one_parameter_and_sizes_are_counted():
    model = model_of("model.head.tied=true", "model.head.embedding_size=5")
    assert model.head.linear.weight is model.head.embedding.weight
    untied = model_of("model.head.embedding_size=5")
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert count(untied) - count(model) == 5 * TOKENIZER.sizes()["target_size"]


@pytest.mark.parametrize(("words", "message"), [
    ("attention=none", "model.head.input_feeding=true does nothing with attention=none; use input_feeding=false"),
    ("attention=none model.head.input_feeding=false model.head.attention_size=3", "model.head.attention_size=3 does"),
    ("attention=dot", "model.head.attention=dot compares.*memory has 10 and the query 5.*use attention=general"),
    ("attention=general model.head.attention_size=3", "attention_size=3 does nothing with attention=general"),
    ("tied=true", "model.head.tied=true needs equal widths, but embedding_size=3 and outputs have 5"),
    ("dropout.input=1.5", "model.head.dropout.input=1.5 must be at least 0"),
    ("dropout.zoneout=-1", "model.head.dropout.zoneout=-1 must be at least 0"),
    ("num_layers=0", "model.head.num_layers=0 must be at least 1"),
    ("cell=gur", "model.head.cell=gur is unknown; allowed: elman, feed_forward, gru"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        model_of(*[word if word.startswith("model.") else f"model.head.{word}" for word in words.split()])


def test_a_model_without_targets_is_refused():
    with pytest.raises(ConfigError, match="needs targets, and this data has none"):
        build(composed(), "model", sizes={"vocab_size": 5}, engine="auto")


def test_the_engine_of_a_run_is_that_of_the_decoder():
    for engine, feeding, expected in (("scan", "false", "scan"), ("auto", "false", "native"), ("auto", "true", "scan")):
        model = build(node_of(f"model.head.input_feeding={feeding}"), "model", sizes=TOKENIZER.sizes(), engine=engine)
        assert model.head.stack.layers[0].plan.engine == expected


# ---- scheduled sampling


def test_without_sampling_nothing_is_drawn_and_with_it_words_are():
    model, batch = model_of(), batch_of()
    state = torch.get_rng_state()
    plain = model.loss_sum(batch).item()
    assert (torch.get_rng_state() == state).all()
    ys, lengths = model.encode(batch)
    sampled = {model.head.loss_sum(ys, lengths, batch, 0.5).item() for _ in range(4)}
    assert len(sampled) > 1 and plain not in sampled


@pytest.mark.parametrize("feeding", [False, True])
def test_sampled_words_replace_all_but_the_first(feeding, monkeypatch):
    model, batch = variant("general", feeding).eval(), batch_of()
    monkeypatch.setattr(model.head, "_draw", lambda o: torch.full((len(o),), 3))
    ys, lengths = model.encode(batch)
    inputs, _ = shifted(batch["target"], batch.lengths["target"])
    replaced = torch.full_like(inputs, 3)
    replaced[0] = END
    found, _ = model.head.read(ys, lengths, inputs, 1 - 1e-12)
    torch.testing.assert_close(found, model.head.read(ys, lengths, replaced)[0], rtol=0, atol=1e-12)


def test_words_are_drawn_from_the_distribution_of_the_decoder():
    model = model_of()
    torch.manual_seed(0)
    o = torch.randn(1, 5).double()
    drawn = torch.cat([model.head._draw(o.expand(1000, 5)) for _ in range(20)])
    shares = drawn.bincount(minlength=5) / len(drawn)
    torch.testing.assert_close(shares, model.head.linear(o)[0].softmax(0).float(), atol=0.015, rtol=0)


# ---- dropout, step by step


def test_bound_dropout_is_that_of_a_chunk():
    torch.manual_seed(0)
    x = torch.ones(6, 40)
    locked, standard = LockedDropout(0.5).bind(), make_dropout("standard", 0.5).bind()
    assert (locked(x) == locked(x)).all() and set(locked(x).unique().tolist()) == {0.0, 2.0}
    assert (locked(x)[0] != locked(x)[1]).any() and (standard(x) != standard(x)).any()
    assert (LockedDropout(0.5).bind()(x) != locked(x)).any()
    evaluated = LockedDropout(0.5).eval().bind()
    assert (evaluated(x) == x).all()
