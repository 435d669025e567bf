"""Adapting while being tested, against slow and obvious computations, and from the command line."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from seqlm import LanguageModel, LSTMCell, Recurrent, Stack
from seqlm.cells import detach
from seqlm.commands.eval import evaluate_run as main
from seqlm.data.batching.streams import Streams
from seqlm.errors import ConfigError
from seqlm.evaluation.adaptive import adaptive_evaluate
from seqlm.evaluation.cache import Cache
from seqlm.evaluation.dynamic import DynamicWeights, gradient_statistics
from seqlm.evaluation.evaluate import evaluate
from seqlm.evaluation.scorer import Scorer
from seqlm.evaluation.tuning import Setting, best_share, climb, search
from seqlm.tasks.base import Score
from seqlm.tasks.lm import LanguageModeling
from seqlm.training.launch import train

from ..conftest import tiny

CPU, V = torch.device("cpu"), 11


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = LanguageModel(V, Stack([Recurrent(LSTMCell(6, 6))]), tied=True, dropout={"output": 0.5}).double()
    for parameter in made.parameters():
        torch.nn.init.uniform_(parameter, -0.8, 0.8)
    return made


def streams(steps=40, bptt=4, batch_size=1, seed=1, missing=0):
    tokens = np.random.default_rng(seed).integers(0, V, steps * batch_size - missing).astype(np.uint16)
    return Streams(tokens, batch_size, bptt, first=0)


def test_without_adaptation_it_is_plain_evaluation(model):
    for batch_size, missing in ((1, 0), (3, 2)):
        text = streams(batch_size=batch_size, missing=missing)
        plain = evaluate(model, LanguageModeling(), text, CPU)
        found = adaptive_evaluate(Scorer([model]), text)
        assert found.tokens == plain.tokens == 40 * batch_size - missing
        assert found.loss_sum == pytest.approx(plain.loss_sum, rel=1e-12)
    assert model.training
    with pytest.raises(ValueError, match="batch_size=2"):
        adaptive_evaluate(Scorer([model]), streams(batch_size=2), cache=Cache(5, 1.0, 0.1))


def test_temperature_by_hand(model):
    found = adaptive_evaluate(Scorer([model], temperature=1.7), streams())
    assert found == adaptive_evaluate(Scorer([model]).at(1.7), streams())
    expected, carry = 0.0, model.eval().init_carry(1)
    for index in range(len(streams())):
        inputs, targets, _ = streams()[index]
        carry, logits = model(inputs, carry)
        expected += F.cross_entropy(logits.flatten(0, 1) / 1.7, targets.flatten(), reduction="sum").item()
    assert found.loss_sum == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("size", "flatness", "share"), [(7, 0.5, 0.2), (100, 2.0, 0.4), (1, 0.0, 0.1)])
def test_cache_by_hand(model, size, flatness, share):
    """Every pair of positions in a Python loop."""
    cache = Cache(size=size, flatness=flatness, share=share)
    found = adaptive_evaluate(Scorer([model]), streams(), cache=cache)
    again = adaptive_evaluate(Scorer([model]), streams(bptt=9), cache=cache)
    states, words, logs, carry = [], [], [], model.eval().init_carry(1)
    with torch.no_grad():
        for index in range(len(streams())):
            inputs, targets, _ = streams()[index]
            reading = model.read(inputs, carry)
            carry = reading.carry
            states += list(reading.top[:, 0].numpy())
            words += targets[:, 0].tolist()
            logs += model.logits(reading)[:, 0].log_softmax(-1).gather(1, targets).flatten().tolist()
    nats = 0.0
    for t, word in enumerate(words):
        p = math.exp(logs[t])
        before = range(max(0, t - size), t)
        if before:
            weights = [math.exp(flatness * float(states[t] @ states[i])) for i in before]
            cached = sum(w for w, i in zip(weights, before, strict=True) if words[i] == word) / sum(weights)
            p = (1 - share) * p + share * cached
        nats -= math.log(p)
    assert found.loss_sum == pytest.approx(nats, rel=1e-12)
    assert again.loss_sum == pytest.approx(nats, rel=1e-12)


def test_what_is_no_cache_and_no_rule():
    for options, message in [
        ({"size": 0}, "size=0 must be at least 1"),
        ({"share": 1.0}, "share=1.0 must be at least 0 and less than 1"),
        ({"share": -0.1}, "share=-0.1 must be"),
        ({"flatness": -1.0}, "flatness=-1.0 must be at least 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            Cache(**{"size": 5, "flatness": 1.0, "share": 0.1, **options})
    with pytest.raises(ValueError, match="rule='rms' needs statistics"):
        DynamicWeights([], lr=0.1, decay=0.1)


@pytest.mark.parametrize("norm", ["tensors", "elements", "sums", None])
def test_dynamic_evaluation_by_hand(model, norm):
    """Krause's update in NumPy, weight by weight, beside a loop over chunks."""
    rule = "rms" if norm else "sgd"
    lr, decay, epsilon = (0.01, 0.3, 1e-3) if rule == "rms" else (0.5, 0.3, 1e-3)
    if norm == "sums":
        lr, decay, epsilon = 0.03, 0.9, 3e-3
    parameters = list(model.parameters())
    model.eval()

    def slope(chunk, carry):
        inputs, targets, _ = chunk
        reading = model.read(inputs, carry)
        loss = F.cross_entropy(model.logits(reading).flatten(0, 1), targets.flatten())
        gradients = torch.autograd.grad(loss, parameters)
        return loss.item(), [gradient.numpy() for gradient in gradients], detach(reading.carry)

    training, carry, squares = streams(48, 6, 3, seed=5), model.init_carry(3), [0.0] * len(parameters)
    for index in range(len(training)):
        _, gradients, carry = slope(training[index], carry)
        squares = [square + g**2 for square, g in zip(squares, gradients, strict=True)]
    if norm == "sums":
        rms = [np.sqrt(square) for square in squares]
        mean = np.sum([r.mean() for r in rms])
    else:
        rms = [np.sqrt(square / len(training)) for square in squares]
        whole = np.concatenate([r.ravel() for r in rms])
        mean = whole.mean() if norm == "elements" else np.mean([r.mean() for r in rms])
    trained = [parameter.detach().numpy().copy() for parameter in parameters]

    def gradients_of_training():
        carry = model.init_carry(3)
        for index in range(len(training)):
            _, gradients, carry = slope(training[index], carry)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = torch.from_numpy(gradient)
            yield

    statistics = gradient_statistics(parameters, gradients_of_training()) if rule == "rms" else None
    options = {"epsilon": epsilon, "rule": rule, "norm": norm or "tensors", "statistics": statistics}
    dynamic = DynamicWeights(parameters, lr=lr, decay=decay, **options)
    found = adaptive_evaluate(Scorer([model]), streams(), dynamic=dynamic)
    for parameter, value in zip(parameters, trained, strict=True):
        np.testing.assert_array_equal(parameter.detach().numpy(), value)  # as it was before

    nats, carry = 0.0, model.init_carry(1)
    for index in range(len(streams())):
        loss, gradients, carry = slope(streams()[index], carry)
        nats += loss * streams()[index].tokens
        for parameter, g, r, start in zip(parameters, gradients, rms, trained, strict=True):
            now = parameter.detach().numpy()
            if rule == "rms":
                now = now - lr * g / (r + epsilon) + decay * np.minimum(r / mean, 1 / decay) * (start - now)
            else:
                now = now - lr * g + decay * (start - now)
            parameter.data = torch.from_numpy(now)
    assert found.loss_sum == pytest.approx(nats, rel=1e-10)
    assert found.loss_sum != pytest.approx(evaluate(model, LanguageModeling(), streams(), CPU).loss_sum, rel=1e-3)


def test_search_walks_downhill():
    seen = []

    def loss(x):
        seen.append(x)
        return (math.log(x) - math.log(0.3)) ** 2

    assert climb(loss, 1.0, 2.0) == (0.25, False)
    assert seen == [1.0, 2.0, 0.5, 0.25, 0.125]
    assert climb(loss, 0.3, 2.0) == (0.3, False)
    seen.clear()
    assert climb(loss, 0.1, 2.0) == (0.4, False) and seen == [0.1, 0.2, 0.4, 0.8]  # and does not turn back
    assert climb(lambda x: 1.0, 3.0, 2.0) == (3.0, False)
    assert climb(lambda x: -x, 1.0, 2.0) == (2.0**8, True)
    assert climb(lambda x: x, 1.0, 2.0) == (2.0**-8, True)


def test_a_search_tries_nothing_twice_and_says_where_it_was_cut_short():
    tried = []

    def score(at, _):
        tried.append(at)
        return Score(loss_sum=-at.decay + (math.log(at.lr) - math.log(4e-4)) ** 2, tokens=1)

    setting, trials, open_ended = search(score, Setting(lr=1e-4, decay=1e-3), ["lr", "decay"], lambda _: None)
    assert setting.lr == 4e-4 and setting.decay == pytest.approx(1e-3 * 2**8) and open_ended == ["decay"]
    assert len(tried) == len(set(tried)) == len(trials) == 4 + 8


def test_best_share():
    half = torch.full((50,), math.log(0.5))
    never, always = torch.full((50,), -torch.inf), torch.zeros(50)
    assert best_share([(half, never)])[0] == 0.01
    share, loss = best_share([(half, always), (half, always)])
    assert share == 0.4 and loss == pytest.approx(-math.log(0.7))


def test_from_the_command_line(tmp_path, capsys):
    train(tiny(tmp_path, "train.steps=60"), {})
    capsys.readouterr()
    folder, results = tmp_path / "run", {}
    options = {
        "plain": [],
        "warm": ["temperature=1.3"],
        "dynamic": ["dynamic.lr=0.001"],
        "decayed": ["dynamic.lr=0.001", "dynamic.decay=0.1"],
        "steady": ["dynamic.lr=0.001", "dynamic.epsilon=0.1"],
        "chunks": ["dynamic.lr=0.001", "dynamic.bptt=9"],
        "sgd": ["dynamic.lr=0.001", "dynamic.rule=sgd"],
        "elements": ["dynamic.lr=0.001", "dynamic.decay=0.1", "dynamic.norm=elements"],
        "sums": ["dynamic.lr=0.001", "dynamic.decay=0.1", "dynamic.norm=sums"],
        "columns": ["dynamic.lr=0.001", "dynamic.train_batch_size=7"],
        "cache": ["cache.size=30"],
        "sharp": ["cache.size=30", "cache.flatness=3"],
        "shared": ["cache.size=30", "cache.share=0.3"],
        "smaller": ["cache.size=3"],
    }
    for name, words in options.items():
        main(str(folder), words, True)
        results[name] = json.loads(capsys.readouterr().out)
        assert results[name]["tokens"] == results["plain"]["tokens"]
    losses = [result["loss"] for result in results.values()]
    assert len(set(losses)) == len(losses), "an option does nothing"
    assert "adaptation" not in results["plain"]

    searching = ["dynamic.lr=0.001", "dynamic.search=true", "cache.size=20", "cache.search=true", "temperature=null"]
    main(str(folder), [*searching, "search_tokens=100"], True)
    found = json.loads(capsys.readouterr().out)
    kept = json.loads((folder / "eval-valid-adapted.json").read_text())
    assert kept == found and found["search"]["tokens"] == 100
    assert found["search"]["chosen"].items() <= found["adaptation"].items()
    assert {"temperature", "lr", "decay", "flatness", "share"} == set(found["search"]["chosen"])
    chosen = min(found["search"]["trials"], key=lambda trial: trial["loss"])
    assert found["adaptation"]["flatness"] == chosen.get("flatness", found["adaptation"]["flatness"])
    assert found["times_scored"] == len(options) + 1


def test_a_search_knows_where_to_begin_and_test_is_counted(tmp_path, capsys):
    """`seqlm eval RUN split=test dynamic.search=true`, as one types it."""
    train(tiny(tmp_path, "train.steps=4"), {})
    words = ["split=test", "dynamic.search=true", "cache.search=true", "search_tokens=100"]
    main(str(tmp_path / "run"), words, False)
    told = " ".join(capsys.readouterr().out.split())
    assert re.search(r"chosen on valid from \d+ trials on 100 tokens; test was then scored once", told)
    assert "split test, batch_size 1 bptt 7 tokens" in told
    found = json.loads((tmp_path / "run" / "eval-test-adapted.json").read_text())
    first = [trial for trial in found["search"]["trials"] if "lr" in trial][0]
    assert first["lr"] == 5e-5 and found["adaptation"]["cache"] == 2000 and found["times_scored"] == 1
    (tmp_path / "run" / "eval-test-old.json").write_text("{}")  # of a version that did not count
    for times in (2, 3):
        main(str(tmp_path / "run"), ["split=test"], False)
        assert f"split test, batch_size 1; scored {times} times by now" in " ".join(capsys.readouterr().out.split())
    main(str(tmp_path / "run"), ["split=valid"], False)
    assert "by now" not in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "eval-valid.json").read_text())["times_scored"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cache.size=5", "batch_size=2"], "batch_size=2: a model adapts to one stream"),
        (["dynamic.search=true", "dynamic.rule=sgd"], "dynamic.search=true needs dynamic.lr=.*dynamic.rule=sgd"),
        (["dynamic.search=true", "dynamic.decay=0"], "dynamic.decay=0 cannot be searched from"),
        (["dynamic.search=true", "dynamic.norm=sums"], "dynamic.search=true needs dynamic.lr=.*dynamic.norm=sums"),
        (["dynamic.rule=adam"], "dynamic.rule=adam is unknown; allowed: rms, sgd"),
        (["dynamic.lr=-1"], "dynamic.lr=-1 must be greater than 0"),
        (["temperature=0"], "temperature=0 must be greater than 0"),
    ],
)
def test_mistakes(tmp_path, words, message):
    train(tiny(tmp_path, "train.steps=2", "train.eval_every=2"), {})
    with pytest.raises(ConfigError, match=message):
        main(str(tmp_path / "run"), words, True)
