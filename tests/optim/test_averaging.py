"""Averages of weights against slow arithmetic, NT-ASGD against torch's ASGD, and what they do to a run."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from seqlm.data.batching.streams import Chunk, Lengths, Streams
from seqlm.errors import ConfigError, Stopped
from seqlm.optim.averaging import Averaging, Exponential, Mean, NonMonotone, Triggered, is_nonmonotone
from seqlm.optim.schedules import Milestones, Moment, OneCycle
from seqlm.runs.finding import best_step, find
from seqlm.runs.folder import RunFolder
from seqlm.runs.load import load_run
from seqlm.training.gradient import gradient
from seqlm.training.launch import resume, train

from ..conftest import tiny
from ..training.test_resume import losses, mutate_state, stop_at, stops_change_nothing, weights


def walk(averaging, steps=12, seed=0):
    """A parameter on a random walk: its values and the averages after each step."""
    generator = np.random.default_rng(seed)
    parameter = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    values, averages = [], []
    for step in range(steps):
        with torch.no_grad():
            parameter += torch.from_numpy(generator.normal(size=3))
        averaging.update([parameter], Moment(step, 0, step / steps))
        values.append(parameter.detach().numpy().copy())
        averages.append(averaging.average[0].numpy().copy() if averaging.average else None)
    return np.array(values), averages


def test_mean_of_the_last_part():
    values, averages = walk(Mean(start=0.5))
    assert averages[5] is None
    for step in range(6, 12):
        np.testing.assert_allclose(averages[step], values[6 : step + 1].mean(0), atol=1e-12)


def test_exponential():
    values, averages = walk(Exponential(decay=0.7))
    expected = values[0]
    for step in range(1, 12):
        decay = min(0.7, (2 + step) / (11 + step))
        expected = decay * expected + (1 - decay) * values[step]
        np.testing.assert_allclose(averages[step], expected, atol=1e-12)


def test_nt_asgd_is_torchs_asgd():
    """The same steps and averages as torch.optim.ASGD(t0=0, lambd=0) from the moment it begins."""
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(4, dtype=torch.float64)) for _ in range(2))
    sgd = torch.optim.SGD([ours], lr=0.3)
    asgd = torch.optim.ASGD([theirs], lr=0.3, t0=0, lambd=0.0)
    averaging = NonMonotone(patience=0)
    averaging.observe([(1.0, 1.0), (2.0, 2.0)])
    for step in range(9):
        slope = torch.randn(4, dtype=torch.float64)
        for parameter, optimizer in ((ours, sgd), (theirs, asgd)):
            parameter.grad = slope.clone()
            optimizer.step()
        averaging.update([ours], Moment(step, 0, 0.0))
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(averaging.average[0], asgd.state[theirs]["ax"])


@pytest.mark.parametrize("n", [0, 1, 5])
def test_the_trigger_as_published(n):
    """if t > n and v > min(logs[:t - n]), tested before v is appended to the t values of logs."""
    generator = np.random.default_rng(n)
    for _ in range(50):
        series, logs, published = generator.normal(size=14).round(1).tolist(), [], None
        averaging, found = NonMonotone(patience=n), None
        for k, value in enumerate(series):
            if published is None and len(logs) > n and value > min(logs[: len(logs) - n]):
                published = k
            logs.append(value)
            averaging.observe([(one, one) for one in logs])  # what is monitored is the loss
            if found is None and averaging.begun:
                found = k
        assert found == published
    assert not is_nonmonotone([], n)


def test_triggered_by_patience_or_by_time():
    averaging = Triggered(patience=2, start=0.75)
    ranks = [(one, one) for one in (3.0, 2.0, 2.5, 1.9, 2.0, 1.95)]
    for count in range(1, 6):
        averaging.observe(ranks[:count])
        assert not averaging.begun
    averaging.observe(ranks)
    assert averaging.begun
    equal = Triggered(patience=2)
    equal.observe([(2.0, 0.5)] * 3)  # as good is not better
    assert equal.begun
    equal.observe([(1.0, 0.5)])  # begun is begun
    assert equal.begun
    values, averages = walk(Triggered(patience=9, start=0.75))
    assert averages[8] is None
    np.testing.assert_allclose(averages[11], values[9:].mean(0), atol=1e-12)


def test_applied_and_back():
    averaging, parameter = Mean(start=0.0), torch.nn.Parameter(torch.zeros(2))
    for step in range(3):
        parameter.data += 1
        averaging.update([parameter], Moment(step, 0, 0.0))
    with averaging.applied([parameter]):
        assert parameter.tolist() == [2.0, 2.0]
    assert parameter.tolist() == [3.0, 3.0]
    with Averaging().applied([parameter]):
        assert parameter.tolist() == [3.0, 3.0]


AVERAGED = [
    "averaging=nt_asgd", "averaging.patience=0", "train.eval_every=5", "checkpoint.every=4", "optim=sgd", "optim.lr=2",
    "schedule=constant", "train.bptt_std=2", "train.bptt_half_prob=0.2", "model.dropout.weight=0.3",
    "model.dropout.zoneout=0.1", "train.drop_state=0.1", "train.accumulate=2", "task.penalties.activation=1",
]  # fmt: skip


@pytest.mark.parametrize("steps", [(2, 25), (25, 1, 9), (31,)])
def test_runs_that_average_resume_to_the_bit(tmp_path, steps, monkeypatch):
    """NT-ASGD before, at and after its switch, drawn chunks, masks inside the recurrence, rows in parts."""
    stops_change_nothing(tmp_path, lambda name: tiny(tmp_path, *AVERAGED, name=name), steps, monkeypatch)
    began = 5 * next(k for k in range(1, 99) if is_nonmonotone(judged(tmp_path / "whole")[:k], 0))
    assert began < sum(steps), "no stop came after the switch"
    averages = [load_run(tmp_path / name, checkpoint="last", weights="average") for name in ("whole", "parts")]
    for one, other in zip(*(run.model.parameters() for run in averages), strict=True):
        assert torch.equal(one, other)
    raw = load_run(tmp_path / "whole", checkpoint="last", weights="raw")
    assert any(
        not torch.equal(one, other)
        for one, other in zip(raw.model.parameters(), averages[0].model.parameters(), strict=True)
    )


AVERAGING_MUTANTS = {
    "the average": lambda s: s["averaging"].update(
        average=[torch.zeros_like(mean) for mean in s["averaging"]["average"]]
    ),
    "its number of steps": lambda s: s["averaging"].update(steps=1),
    "that it has begun": lambda s: s["averaging"].update(begun=False, average=[], steps=0),
    "the losses that it begins by": lambda s: s["progress"].update(losses=[]),
}


@pytest.mark.parametrize("mutant", AVERAGING_MUTANTS)
def test_everything_that_averages_is_in_the_checkpoint(tmp_path, mutant, monkeypatch):
    """Without it the run goes on otherwise: the equality above is no accident."""
    before = mutant == "the losses that it begins by"  # what begins the average matters until it has begun
    words = [*AVERAGED, "averaging.patience=1"]
    train(tiny(tmp_path, *words, name="whole"), {})
    began = 5 * next(k for k in range(1, 99) if is_nonmonotone(judged(tmp_path / "whole")[:k], 1))
    stop_at(monkeypatch, began - 3 if before else began + 3)
    with pytest.raises(Stopped):
        train(tiny(tmp_path, *words, name="parts"), {})
    mutate_state(monkeypatch, AVERAGING_MUTANTS[mutant])
    resume(tmp_path / "parts", [])
    assert judged(tmp_path / "parts") != judged(tmp_path / "whole")


def judged(folder):
    """The loss of each evaluation."""
    return [value for _, _, tag, value in losses(folder) if tag == "valid/loss"]


def test_what_is_evaluated(tmp_path):
    """eval_weights decides what valid is scored with, best means, and load_run gives."""
    words = ["averaging=mean", "averaging.start=0", "train.steps=20", "train.eval_every=10", "checkpoint.keep_best=0"]
    for which in ("raw", "average"):
        train(tiny(tmp_path, *words, f"eval_weights={which}", name=which), {})
    assert weights(tmp_path / "raw") == weights(tmp_path / "average")
    assert losses(tmp_path / "raw")[-1] != losses(tmp_path / "average")[-1]
    assert load_run(tmp_path / "raw").weights == "raw" and load_run(tmp_path / "average").weights == "average"
    train(tiny(tmp_path, "train.steps=5", name="none"), {})
    with pytest.raises(ConfigError, match="weights=average does not exist"):
        load_run(tmp_path / "none", weights="average")
    assert load_run(tmp_path / "none").weights == "raw"


@pytest.mark.parametrize("steps", [(1,), (16, 9)])
def test_a_run_from_another_resumes_to_the_bit(tmp_path, steps, monkeypatch):
    """Evaluated at step 0 once, whatever stops it."""
    train(tiny(tmp_path, name="first"), {})
    begun = lambda name: tiny(tmp_path, f"init_from={tmp_path / 'first'}", name=name)  # noqa: E731
    stops_change_nothing(tmp_path, begun, steps, monkeypatch)
    assert losses(tmp_path / "parts")[0][0] == 0


def test_a_run_from_another(tmp_path):
    words = ["averaging=mean", "averaging.start=0", "train.steps=20", "train.eval_every=20"]
    first = train(tiny(tmp_path, *words, name="first"), {}).best
    config = tiny(tmp_path, f"init_from={tmp_path / 'first'}", "optim.lr=1e-12", "train.steps=1", name="second")
    assert train(config, {}).best == pytest.approx(first, abs=1e-6)
    away = tiny(tmp_path, f"init_from={tmp_path / 'first'}", "optim.lr=3", "schedule=constant", name="away")
    assert train(away, {}).best == pytest.approx(first, abs=1e-6), "what it began with is better than what came of it"
    told = RunFolder.open(tmp_path / "away")
    assert best_step(told.checkpoints) == 0
    assert [one["step"] for one in told.records() if "valid/loss" in one] == [0, 15, 30, 40]
    for one, other in zip(*(load_run(tmp_path / name).model.parameters() for name in ("first", "away")), strict=True):
        assert torch.equal(one, other)
    (told.checkpoints / "best").unlink()  # killed after saving step 0, before saying it is the best
    for later in set(told.checkpoints.glob("step-*")) - {told.checkpoints / "step-000000000"}:
        shutil.rmtree(later)
    resume(told.path, ["train.steps=1"])
    assert best_step(told.checkpoints) == 0
    with pytest.raises(ConfigError, match="reads char tokens, and this data has byte tokens"):
        train(tiny(tmp_path, f"init_from={tmp_path / 'first'}", "data/tokenizer=byte", name="third"), {})
    with pytest.raises(ConfigError, match="holds the weights of another model"):
        train(tiny(tmp_path, f"init_from={tmp_path / 'first'}", "model.hidden_size=9", name="fourth"), {})


def test_what_a_run_begins_with_is_no_evaluation_of_its_own(tmp_path):
    """train.nonmonotone compares evaluations of this training, as AWD's finetuning does."""
    train(tiny(tmp_path, name="first"), {})
    words = ["optim.lr=3", "schedule=constant", "train.nonmonotone=1", "train.eval_every=2", "checkpoint.keep_last=9"]
    train(tiny(tmp_path, f"init_from={tmp_path / 'first'}", *words, name="away"), {})
    told = RunFolder.open(tmp_path / "away")
    steps = [one["step"] for one in told.records() if "valid/loss" in one]
    assert best_step(told.checkpoints) == 0 and steps[:3] == [0, 2, 4], (
        "the second evaluation is compared with the first, not the start"
    )
    state = find(told.checkpoints, "last", print).load_state()
    assert len(state["progress"]["ranks"]) == len(steps) - 1


def test_stopping_when_no_longer_monotone(tmp_path):
    words = ["optim=sgd", "optim.lr=1e-9", "train.eval_every=2", "train.nonmonotone=1", "train.drop_state=0.5"]
    train(tiny(tmp_path, *words), {})
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    valid = [record["valid/loss"] for record in records if "valid/loss" in record]
    ranks = [(one, one) for one in valid]
    assert is_nonmonotone(ranks, 1) == (len(valid) < 20)
    assert not any(is_nonmonotone(ranks[:k], 1) for k in range(1, len(valid)))


def test_drawn_lengths():
    lengths = Lengths(70, 5.0, 0.05, seed=3)
    drawn = [length for epoch in range(40) for length in lengths.of_epoch(epoch, 46_479)[:-1]]
    short = [length for length in drawn if length < 50]
    assert len(short) / len(drawn) == pytest.approx(0.05, abs=0.005)
    assert np.mean([length for length in drawn if length >= 50]) == pytest.approx(69.5, abs=0.2)
    assert np.std([length for length in drawn if length >= 50]) == pytest.approx(5, abs=0.2)
    assert min(drawn) >= 5 and max(drawn) <= 90
    assert lengths.of_epoch(1, 500) == lengths.of_epoch(1, 500) != lengths.of_epoch(2, 500)
    for rows in (1, 5, 69, 70, 500):
        covered = lengths.of_epoch(0, rows)
        assert sum(covered) >= rows > sum(covered[:-1])
    assert Lengths(7).of_epoch(5, 15) == [7, 7, 7]


def test_drawn_chunks_score_every_token_once():
    tokens = np.arange(211, dtype=np.uint16)
    streams = Streams(tokens, 4, Lengths(9, 3.0, 0.3, seed=1), first=0)
    for epoch in range(3):
        streams.start_epoch(epoch)
        targets = torch.cat([streams[i].targets.flatten() for i in range(len(streams))])
        assert sorted(targets[targets >= 0].tolist()) == tokens.tolist()


def test_the_learning_rate_follows_the_chunk(tmp_path):
    words = ["train.bptt_std=2", "schedule=constant", "optim=sgd", "optim.lr=0.5", "train.log_every=1"]
    train(tiny(tmp_path, *words), {})
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [record["train/lr"] for record in records if "train/lr" in record]
    heights = Lengths(7, 2.0, 0.0, seed=1).of_epoch(0, 1000)[: len(rates)]
    assert rates == pytest.approx([0.5 * height / 7 for height in heights])


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_columns_in_parts_give_the_same_gradient(parts):
    from ..models.test_model import model_of

    torch.manual_seed(0)
    model = model_of("model.num_layers=2", "model.hidden_size=8").double()
    parameters = list(model.parameters())
    tokens, carry = torch.randint(model.vocab_size, (6, 5)), model.init_carry(5)

    def objective(chunk, carry):
        inputs, targets, _ = chunk
        carry, nats = model.nll(inputs, targets, carry)
        return carry, nats, inputs.numel() * model.read(inputs, carry).dropped.pow(2).mean()

    found = []
    for k in (1, parts):
        start = torch.utils._pytree.tree_map(lambda t: t + 0.1, carry)
        new, nats = gradient(objective, parameters, Chunk(tokens[:-1], tokens[1:], 0), start, 25.0, parts=k)
        found.append([nats, *torch.utils._pytree.tree_leaves(new), *(p.grad.clone() for p in parameters)])
    for whole, pieces in zip(*found, strict=True):
        torch.testing.assert_close(pieces, whole)


def test_new_schedules():
    steps = Milestones(at=[3, 5], divisor=10.0)
    assert [steps.factor(Moment(0, epoch, 0.0)) for epoch in range(7)] == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    cycle = OneCycle(rise=0.25, start=0.1, final=0.01)
    assert cycle.factor(Moment(0, 0, 0.0)) == pytest.approx(0.1)
    assert cycle.factor(Moment(0, 0, 0.25)) == pytest.approx(1.0)
    assert cycle.factor(Moment(0, 0, 1.0)) == pytest.approx(0.01)
    with pytest.raises(ValueError, match="at="):
        Milestones(at=[5, 3])
