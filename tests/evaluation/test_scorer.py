"""Means of probabilities and of weights, against explicit loops in NumPy, and from the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from seqlm import GRUCell, LanguageModel, LSTMCell, Recurrent, Stack, load_run
from seqlm.cells import RecurrentDropout
from seqlm.commands.eval import evaluate_run as main
from seqlm.commands.sample import main as sample
from seqlm.data.batching.streams import Streams
from seqlm.errors import ConfigError
from seqlm.evaluation.adaptive import adaptive_evaluate
from seqlm.evaluation.cache import Cache
from seqlm.evaluation.evaluate import evaluate
from seqlm.evaluation.scorer import Scorer
from seqlm.layers import LockedDropout, Mixture, scale_dropout, softmax
from seqlm.tasks.lm import LanguageModeling
from seqlm.training.launch import train

from ..conftest import tiny

V, TOKENS, BPTT = 11, 44, 5


def language_model(seed=0, cell=LSTMCell, size=6, width=6, recurrent=1.0, **options):
    """A model in float64 with large weights; dropout everywhere if there are options."""
    torch.manual_seed(seed)
    cells = [cell(width, size), cell(size, size)]
    if options:
        for one in cells:
            one.regularise(RecurrentDropout(weight=0.4 * recurrent, state=0.3 * recurrent, zoneout=0.2 * recurrent))
    dropout = LockedDropout(0.3 * recurrent if options else 0.0)
    stack = Stack([Recurrent(one, engine="scan") for one in cells], dropout=dropout)
    made = LanguageModel(V, stack, **options).double()
    for parameter in made.parameters():
        torch.nn.init.uniform_(parameter, -0.8, 0.8)
    return made


def models(scale=1.0):
    """Options of models, with every probability of dropout times `scale`."""
    dropout = {"embedding": 0.3 * scale, "input": 0.2 * scale, "output": 0.4 * scale}
    return {
        "tied": {"dropout": {**dropout, "embedding_tied": True}, "tied": True},
        "standard": {"dropout": {**dropout, "kind": "standard"}},
        "mixture": {"dropout": dropout, "output": partial(Mixture, num_softmaxes=3, latent_dropout=0.4 * scale)},
    }


MODELS = models()


def streams(batch_size=1, bptt=BPTT):
    tokens = np.random.default_rng(1).integers(0, V, TOKENS).astype(np.uint16)
    return Streams(tokens, batch_size, bptt, first=0)


def probabilities(model, text, temperature=1.0):
    """p of every word at every place, from beginning to end (N, V), and the words themselves (N)."""
    carry, found, words = model.init_carry(text.batch_size), [], []
    with torch.no_grad():
        for index in range(len(text)):
            inputs, targets, _ = text[index]
            carry, logits = model(inputs, carry)
            scores = np.exp(logits.numpy() / temperature)
            kept = targets.numpy() >= 0
            found.append((scores / scores.sum(-1, keepdims=True))[kept])
            words.append(targets.numpy()[kept])
    return np.concatenate(found), np.concatenate(words)


def nats_of(distributions, words, mean):
    if mean == "arithmetic":
        p = np.mean(distributions, axis=0)
    else:
        p = np.exp(np.mean(np.log(distributions), axis=0))
        p /= p.sum(-1, keepdims=True)
    return -np.log(p[np.arange(len(words)), words]).sum()


def seeds(count, seed):
    return torch.randint(2**63 - 1, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_monte_carlo_dropout_by_hand(monkeypatch, kind, mean, batch_size):
    """The whole text in train mode, once for each seed; then the mean of the distributions."""
    monkeypatch.setattr(softmax, "CHUNK_BYTES", 2 * 4 * V * batch_size)  # two steps of logits, or one
    model, text = language_model(**MODELS[kind]), streams(batch_size)
    temperature = 1.0 if kind == "mixture" else 1.3  # a mixture's logits are divided before they are mixed
    distributions = []
    for seed in seeds(4, 7):
        torch.manual_seed(seed)
        found, words = probabilities(model, text, temperature)
        distributions.append(found)
    assert not np.allclose(distributions[0], distributions[1])
    scorer = Scorer([model], samples=4, seed=7, mean=mean, temperature=temperature)
    score = adaptive_evaluate(scorer, text)
    assert score.tokens == TOKENS == len(words)
    assert score.loss_sum == pytest.approx(nats_of(distributions, words, mean), rel=1e-11)


def test_monte_carlo_dropout_disturbs_nothing():
    model, text = language_model(**MODELS["tied"]), streams()
    for training in (True, False):
        model.train(training)
        torch.manual_seed(3)
        before = torch.get_rng_state()
        score = adaptive_evaluate(Scorer([model], samples=3), text)
        assert torch.equal(torch.get_rng_state(), before) and model.training is training
        torch.rand(5)
        assert adaptive_evaluate(Scorer([model], samples=3), text) == score
    assert adaptive_evaluate(Scorer([model], samples=3, seed=2), text) != score
    assert adaptive_evaluate(Scorer([model], samples=4), text) != score
    with pytest.raises(ConfigError, match="monte_carlo.samples=3 does nothing: a model of this run has no dropout"):
        adaptive_evaluate(Scorer([language_model()], samples=3), text)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
@pytest.mark.parametrize("samples", [None, 2])
def test_an_ensemble_by_hand(mean, samples):
    """Models that share nothing but the vocabulary, each with a carry and masks of its own."""
    mixture = {**MODELS["mixture"], "output": partial(Mixture, num_softmaxes=2, latent_dropout=0.4)}
    models, text = [language_model(5, **MODELS["tied"]), language_model(6, GRUCell, 4, 3, **mixture)], streams()
    distributions = []
    for index, seed in enumerate(seeds(2 * (samples or 1), 1)):
        model = models[index // (samples or 1)].train(samples is not None)
        torch.manual_seed(seed)
        found, words = probabilities(model, text)
        distributions.append(found)
    score = adaptive_evaluate(Scorer(models, samples=samples, mean=mean), text)
    assert score.loss_sum == pytest.approx(nats_of(distributions, words, mean), rel=1e-11)
    alone = nats_of(distributions[:1], words, mean)
    assert abs(score.loss_sum - alone) > 1e-2


@pytest.mark.parametrize("kind", MODELS)
def test_dropout_can_be_weakened(kind):
    """Half of every probability: the masks of a model that was made with them."""
    options = MODELS[kind]
    model, weaker = language_model(**options), language_model(recurrent=0.5, **models(0.5)[kind])
    scale_dropout(model, 0.5)
    scores = [adaptive_evaluate(Scorer([one], samples=2), streams()) for one in (model, weaker)]
    assert scores[0] == scores[1] != adaptive_evaluate(Scorer([language_model(**options)], samples=2), streams())


def test_an_ensemble_with_a_cache_by_hand():
    """The cache mixes with the mean of the probabilities, and remembers the first model's states."""
    models, text, cache = (
        [language_model(5).eval(), language_model(6, GRUCell, 4).eval()],
        streams(),
        Cache(9, 0.7, 0.3),
    )
    found = [probabilities(model, text) for model in models]
    p, words = np.mean([one for one, _ in found], axis=0), found[0][1]
    carry, states = models[0].init_carry(1), []
    with torch.no_grad():
        for index in range(len(text)):
            reading = models[0].read(text[index].inputs, carry)
            carry = reading.carry
            states += list(reading.top[:, 0].numpy())
    nats = -np.log(p[0, words[0]])
    for t in range(1, TOKENS):
        before = range(max(0, t - 9), t)
        weights = np.exp([0.7 * states[t] @ states[i] for i in before])
        cached = weights[[words[i] == words[t] for i in before]].sum() / weights.sum()
        nats -= np.log(0.7 * p[t, words[t]] + 0.3 * cached)
    assert adaptive_evaluate(Scorer(models), text, cache=cache).loss_sum == pytest.approx(nats, rel=1e-11)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs of one vocabulary and one of another, with a few checkpoints each."""
    root = tmp_path_factory.mktemp("runs")
    keep = ["train.steps=60", "checkpoint.every=10", "checkpoint.keep_last=4"]
    dropped = ["model.dropout.hidden=0.4", "model.dropout.output=0.3"]
    train(tiny(root, *keep, *dropped, "averaging=ema", "eval_weights=raw", name="first"), {})
    train(tiny(root, "train.steps=60", "model=gru", "model.hidden_size=9", "seed=2", name="second"), {})
    train(tiny(root, "train.steps=60", "model.num_layers=1", "seed=3", dropped[1], name="third"), {})
    train(tiny(root, "train.steps=2", "train.eval_every=2", "data.symbols=6", name="other"), {})
    late = ["averaging=mean", "averaging.start=0.5", "checkpoint.keep_last=9"]
    train(tiny(root, *late, "train.steps=30", "checkpoint.every=5", name="late"), {})
    return root


def result_of(capsys, run, *words):
    capsys.readouterr()
    main(str(run), words, True)
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("weights", ["raw", "average"])
def test_the_mean_of_checkpoints_by_hand(runs, weights):
    folder = runs / "first" / "checkpoints"
    newest = sorted(folder.glob("step-*"))[-3:]
    loaded = load_run(runs / "first", average_last=3, weights=weights)
    assert loaded.steps == [int(path.name[5:]) for path in newest] and loaded.checkpoint.path == newest[-1]
    named = dict(loaded.model.named_parameters())
    if weights == "raw":
        stored = [load_file(path / "model.safetensors") for path in newest]
    else:
        states = [torch.load(path / "state.pt", weights_only=True)["averaging"]["average"] for path in newest]
        stored = [dict(zip(named, (mean.numpy() for mean in state), strict=True)) for state in states]
    for name in stored[0]:
        mean = np.mean([one[name].astype(np.float64) for one in stored], axis=0)
        np.testing.assert_allclose(named[name].detach().numpy(), mean, rtol=1e-7)
        assert not np.allclose(named[name].detach().numpy(), stored[-1][name], rtol=1e-4)
    assert load_run(runs / "first", average_last=1).checkpoint == load_run(runs / "first", checkpoint="last").checkpoint


def test_what_cannot_be_averaged(runs):
    second = f"ensemble=[{runs / 'second'}]"
    for words, message in [
        (
            ["average_last=9"],
            r"average_last=9 needs more than the \d whole checkpoints \(.*60\) in .*; use average_last=\d",
        ),
        (["average_last=9"], "or train with checkpoint.keep_last=9 or with checkpoint.keep_every=STEPS"),
        (["average_last=2", "checkpoint=last"], "checkpoint=last and average_last=2 both choose"),
        ([f"ensemble=[{runs / 'first'}]"], "first is in it twice"),
        ([f"ensemble=[{runs / 'second'},{runs}/third/../second]"], "second is in it twice"),
        ([f"ensemble=[{runs / 'other'}]"], r"other has another vocabulary \(\d+ tokens\) than .*first"),
        ([f"ensemble=[{runs / 'none'}]"], "none does not exist"),
        (
            [second, "dynamic.lr=0.1"],
            r"dynamic.lr=0.1 adapts one model that is read once; leave it out, or ensemble=\[",
        ),
        (["monte_carlo.samples=3", "dynamic.lr=0.1"], "leave it out, or monte_carlo.samples=3"),
        (["mean=geometric"], "mean=geometric does nothing without ensemble="),
        (["monte_carlo.multiplier=0.5"], "monte_carlo.multiplier=0.5 does nothing without monte_carlo.samples="),
        (["monte_carlo.seed=7"], "monte_carlo.seed=7 does nothing without monte_carlo.samples="),
        (["dynamic.decay=0.1", "dynamic.bptt=9"], "decay=0.1 dynamic.bptt=9 does nothing without dynamic.lr="),
        (["cache.share=0.3"], "cache.share=0.3 does nothing without cache.size="),
        (["search_tokens=500"], "search_tokens=500 does nothing without dynamic.search="),
        (["monte_carlo.samples=0"], "monte_carlo.samples=0 must be at least 1"),
        (["monte_carlo.multiplier=2"], "monte_carlo.multiplier=2 must be at most 1"),
        (["cache.size=9", "protocol=awd"], "protocol=awd reads batches, cache.size=9 one stream"),
        *(
            (["dynamic.lr=0.1", "dynamic.rule=sgd", word], f"{word} does nothing with dynamic.rule=sgd")
            for word in ("dynamic.norm=sums", "dynamic.epsilon=0.5", "dynamic.train_batch_size=7")
        ),
    ]:
        with pytest.raises(ConfigError, match=message):
            main(str(runs / "first"), words, True)
    with pytest.raises(ConfigError, match="only the newest 3 of 6 checkpoints hold an average of the weights; use"):
        main(str(runs / "late"), ["average_last=6"], True)
    assert load_run(runs / "late", average_last=3).weights == "average"
    assert load_run(runs / "late", average_last=6, weights="raw").weights == "raw"


def test_from_the_command_line(runs, capsys):
    first, second, third = (runs / name for name in ("first", "second", "third"))
    options = {
        "plain": [],
        "average_last": ["average_last=3"],
        "more": ["average_last=2"],
        "average_raw": ["average_last=3", "weights=average"],
        "ensemble": [f"ensemble=[{second}]"],
        "three": [f"ensemble=[{second},{third}]"],
        "others_last": [f"ensemble=[{third}]", "checkpoint=last"],
        "geometric": [f"ensemble=[{second}]", "mean=geometric"],
        "monte_carlo": ["monte_carlo.samples=3"],
        "samples": ["monte_carlo.samples=4"],
        "seed": ["monte_carlo.samples=3", "monte_carlo.seed=2"],
        "power": ["monte_carlo.samples=3", "mean=geometric"],
        "masks": ["monte_carlo.samples=3", "bptt=11"],
        "weaker": ["monte_carlo.samples=3", "monte_carlo.multiplier=0.5"],
        "columns": ["monte_carlo.samples=3", "batch_size=4"],
        "warm": ["monte_carlo.samples=3", "temperature=1.2"],
        "cache": ["monte_carlo.samples=3", "cache.size=20"],
        "both": [f"ensemble=[{third}]", "monte_carlo.samples=2"],
        "all": [f"ensemble=[{third}]", "monte_carlo.samples=2", "average_last=1", "cache.size=20", "temperature=1.2"],
    }
    results = {name: result_of(capsys, first, *words) for name, words in options.items()}
    losses = {name: result["loss"] for name, result in results.items()}
    assert len(set(losses.values())) == len(losses), "an option does nothing"
    assert {result["tokens"] for result in results.values()} == {results["plain"]["tokens"]}
    assert not {"mean", "ensemble", "monte_carlo", "average_last", "adaptation"} & results["plain"].keys()

    whole = results["all"]
    assert whole["monte_carlo"] == {"samples": 2, "seed": 1, "multiplier": 1.0} and whole["mean"] == "arithmetic"
    assert whole["average_last"] == [60] and whole["adaptation"]["temperature"] == 1.2
    assert whole["ensemble"] == [{"run": "third", "checkpoint": 60, "weights": "raw"}]
    kept = first / "eval-valid-averaged-ensemble-monte_carlo-adapted.json"
    assert json.loads(kept.read_text()) == whole and str(runs) not in kept.read_text()
    assert json.loads((first / "eval-valid.json").read_text()) == results["plain"]

    main(str(first), options["all"], False)
    table = capsys.readouterr().out
    assert "with third (step 60); arithmetic mean" in table and "2 samples, seed 1" in table and "of steps 60" in table


def test_an_ensemble_of_runs_by_hand(runs, capsys):
    loaded = [load_run(runs / name, engine="scan") for name in ("first", "second", "third")]
    text = Streams(loaded[0].data["valid"].tokens, 1, 7, first=loaded[0].tokenizer.eos_id, clip=True)
    found = [probabilities(run.model.double(), text) for run in loaded]
    nats = nats_of([one for one, _ in found], found[0][1], "arithmetic")
    result = result_of(capsys, runs / "first", f"ensemble=[{runs / 'second'},{runs / 'third'}]")
    assert result["loss_sum"] == pytest.approx(nats, rel=1e-5)
    alone = evaluate(loaded[0].model, LanguageModeling(), text, torch.device("cpu"))
    assert result_of(capsys, runs / "first")["loss_sum"] == pytest.approx(alone.loss_sum, rel=1e-5)


def test_others_count_the_mean_too(runs, capsys):
    """A protocol reads its columns with whatever gives the probabilities."""
    seen = {}
    for words in ([], ["monte_carlo.samples=2"], [f"ensemble=[{runs / 'third'}]"], ["temperature=1.3"]):
        result = result_of(capsys, runs / "first", "protocol=awd", *words)
        seen[tuple(words)] = result["protocol"]["loss"]
        assert result["protocol"]["loss"] == pytest.approx(result["loss"], rel=0.1)
    assert len(set(seen.values())) == 4


def test_choices_are_made_with_the_mean(runs, capsys):
    words = ["temperature=null", "cache.size=20", "cache.search=true", "search_tokens=100", "monte_carlo.samples=2"]
    result = result_of(capsys, runs / "first", "split=test", *words)
    first = result_of(capsys, runs / "first", "monte_carlo.samples=2", "data.limit=100")
    assert result["search"]["trials"][0] == {"temperature": 1.0, "loss": pytest.approx(first["loss"], abs=1e-6)}
    assert result["search"]["chosen"].keys() == {"temperature", "flatness", "share"}


def test_text_from_averaged_weights(runs, capsys):
    texts = []
    for words in ([], ["average_last=3"], ["average_last=4"]):
        sample([str(runs / "first"), "tokens=200", *words])
        texts.append(capsys.readouterr().out)
    assert len(set(texts)) == 3


def test_ctrl_c_ends_it_quietly(runs):
    words = [str(runs / "first"), "temperature=null", "search_tokens=100"]
    command = [sys.executable, "-m", "seqlm", "eval", *words, "monte_carlo.samples=40", "dynamic.lr=null"]
    heard = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731  a background job ignores it
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, preexec_fn=heard) as process:
        assert process.stderr.readline().startswith("valid:")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 130 and not out and "Traceback" not in err
