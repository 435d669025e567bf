"""Schedules, the loop's own rules, and what a step computes."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import seqlm.training.assemble
import seqlm.training.loop
from seqlm.config.build import build
from seqlm.data.batching.batches import IGNORE_INDEX
from seqlm.data.batching.streams import Streams
from seqlm.errors import ConfigError, NonFiniteError, RunExists
from seqlm.optim.schedules import Constant, DivideOnPlateau, HoldThenDecay, Moment, WarmupCosine
from seqlm.runs.folder import RunFolder
from seqlm.runs.load import load_run
from seqlm.tasks.lm import LanguageModeling
from seqlm.training.assemble import assemble_session
from seqlm.training.launch import train

from ..conftest import compose, tiny
from .test_resume import weights


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def of(tag, folder):
    return {record["step"]: record[tag] for record in records(folder) if tag in record}


# ---- schedules


def test_hold_then_decay_is_zarembas():
    small = HoldThenDecay(hold_epochs=5, decay=2)
    assert [small.factor(Moment(0, epoch, 0)) for epoch in range(8)] == [1, 1, 1, 1, 1, 1 / 2, 1 / 4, 1 / 8]
    assert Constant().factor(Moment(5, 5, 0.5)) == 1


def test_plateau_divides_after_evaluations_without_gain():
    schedule, factors = DivideOnPlateau(divisor=4, patience=2), []
    for loss in (3.0, 2.0, 2.0, 2.5, 1.0, 1.5, 1.2, 1.1):
        schedule.observe((loss, loss))
        factors.append(schedule.factor(Moment(0, 0, 0)))
    assert factors == [1, 1, 1, 1 / 4, 1 / 4, 1 / 4, 1 / 16, 1 / 16]
    copy = DivideOnPlateau(divisor=4, patience=2)
    copy.load_state_dict(schedule.state_dict())
    copy.observe((1.05, 1.05)), schedule.observe((1.05, 1.05))
    assert copy.factor(Moment(0, 0, 0)) == schedule.factor(Moment(0, 0, 0)) == 1 / 64


def test_cosine_warms_up_and_ends_at_final():
    schedule = WarmupCosine(warmup_steps=10, final=0.1)
    assert schedule.factor(Moment(0, 0, 0)) == pytest.approx(0.1)
    assert schedule.factor(Moment(9, 0, 0)) == pytest.approx(1)
    assert schedule.factor(Moment(50, 0, 0.5)) == pytest.approx(0.55)
    assert schedule.factor(Moment(100, 0, 1.0)) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            {"_target_": "seqlm.optim.schedules.HoldThenDecay", "hold_epochs": -1, "decay": 2.0},
            "schedule.hold_epochs=-1 must be",
        ),
        (
            {"_target_": "seqlm.optim.schedules.DivideOnPlateau", "divisor": 1.0},
            "schedule.divisor=1.0 must be greater than 1",
        ),
        ({"_target_": "seqlm.optim.schedules.WarmupCosine", "final": 2.0}, "schedule.final=2.0 must be from 0 to 1"),
    ],
)
def test_impossible_schedules_are_refused(node, message):
    with pytest.raises(ConfigError, match=message):
        build(node, "schedule")


# ---- what a run computes


def by_hand(config, steps, clip, unit, l2):
    """The plain training loop of the textbooks, on the same model and data: logged losses by step."""
    session = assemble_session(config)
    model, losses = session.model, {}
    model.train()
    carry, nats, tokens = None, 0.0, 0
    for step in range(1, steps + 1):
        index = (step - 1) % len(session.train)
        if index == 0:
            carry = model.init_carry(config.train.batch_size)
        inputs, targets, count = session.train[index]
        model.zero_grad()
        carry, logits = model(inputs, carry)
        carry = seqlm.detach(carry)
        sums = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
        loss = sums / (count if unit == "mean" else config.train.batch_size)
        (loss + l2 / 2 * sum(parameter.square().sum() for parameter in model.parameters())).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= config.optim["lr"] * parameter.grad
        nats, tokens = nats + sums.item(), tokens + count
        if step % config.train.log_every == 0:
            losses[step], nats, tokens = nats / tokens, 0.0, 0
    return losses


@pytest.mark.parametrize(
    ("unit", "clip", "lr", "l2"),
    [("mean", 0.1, 2.0, 0.0), ("sum", 1.0, 0.1, 0.0), ("mean", None, 1.0, 0.0), ("sum", 1.0, 0.1, 0.2)],
)
def test_a_run_is_the_loop_of_the_textbooks(tmp_path, unit, clip, lr, l2):
    overrides = [
        "data.tokens=500", "optim=sgd", f"optim.lr={lr}", "schedule=constant", f"train.loss_unit={unit}",
        f"train.clip_norm={'null' if clip is None else clip}", "model.dropout.hidden=0.3", "train.eval_every=1000",
        f"train.l2={l2}",
    ]  # fmt: skip
    expected = by_hand(tiny(tmp_path, *overrides), 40, clip, unit, l2)
    train(tiny(tmp_path, *overrides), {})
    measured = of("train/loss", tmp_path / "run")
    assert measured.keys() == expected.keys() and len(measured) == 13
    for step, loss in expected.items():
        assert measured[step] == pytest.approx(loss, rel=1e-5), step


def test_sum_and_mean_are_one_recipe_in_two_units(tmp_path):
    """Zaremba's lr 1, clip 5 at T = 20 are lr 20, clip 0.25 in mean units (every chunk full)."""
    common = ["data.tokens=560", "optim=sgd", "schedule=constant", "train.steps=20", "train.eval_every=100"]
    train(tiny(tmp_path, *common, "train.loss_unit=sum", "optim.lr=0.5", "train.clip_norm=1.4", name="sum"), {})
    train(tiny(tmp_path, *common, "train.loss_unit=mean", "optim.lr=3.5", "train.clip_norm=0.2", name="mean"), {})
    summed, mean = of("train/loss", tmp_path / "sum"), of("train/loss", tmp_path / "mean")
    assert summed == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_l2_is_inside_the_clip(clip):
    """g = (1, 0) + 0.5 (3, 4), and only then scaled to norm 1; torch's weight decay would come after that."""
    ours, theirs = (torch.nn.Parameter(torch.tensor([3.0, 4.0])) for _ in range(2))
    theirs.grad, ours.grad = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0])
    unused = torch.nn.Parameter(torch.ones(2))
    norm = seqlm.training.loop.descend(torch.optim.SGD([ours, unused], lr=1.0), [ours, unused], clip, 0.5)
    assert norm == pytest.approx(math.hypot(2.5, 2.0))
    scale = 1.0 if clip is None else 1 / norm
    assert ours.tolist() == pytest.approx([3 - 2.5 * scale, 4 - 2.0 * scale]) and unused.tolist() == [1, 1]
    seqlm.training.loop.descend(torch.optim.SGD([theirs], lr=1.0, weight_decay=0.5), [theirs], clip)
    assert torch.allclose(ours, theirs) == (clip is None)


def test_limits_end_a_run(tmp_path):
    cases = {
        "steps": (["train.steps=5"], 5),
        "epochs": (["train.steps=null", "train.epochs=2", "data.tokens=300"], 22),
        "tokens": (["train.steps=null", "train.tokens=100"], 4),
        "first": (["train.steps=9", "train.tokens=50", "train.epochs=3"], 2),
    }
    for name, (overrides, steps) in cases.items():
        train(tiny(tmp_path, *overrides, name=name), {})
        info = RunFolder(tmp_path / name).info()
        assert (info["steps"], info["status"]) == (steps, "finished"), name
    train(tiny(tmp_path, "train.steps=null", "train.minutes=0.03", name="minutes"), {})
    assert 1.5 < RunFolder(tmp_path / "minutes").info()["seconds"] < 10
    train(tiny(tmp_path, "train.steps=null", "train.default_steps=7", name="default"), {})
    assert RunFolder(tmp_path / "default").info()["steps"] == 7


def test_tokens_are_counted_where_chunks_are_drawn(tmp_path):
    """An epoch of drawn chunks has more steps than another; how many are planned is an estimate."""
    words = ["train.bptt_std=5", "train.bptt_half_prob=0.05", "train.bptt=70", "train.steps=null"]
    words += ["data.tokens=20000", "train.batch_size=20", "train.tokens=150000", "train.eval_every=null", "seed=2"]
    train(tiny(tmp_path, *words, "model.hidden_size=4"), {})
    assert 150_000 <= RunFolder(tmp_path / "run").info()["tokens"] < 152_500


def test_early_stopping_counts_evaluations_without_gain(tmp_path):
    train(tiny(tmp_path, "optim.lr=0", "train.patience=3", "train.steps=400", "train.eval_every=5"), {})
    losses = of("valid/loss", tmp_path / "run")
    assert list(losses) == [5, 10, 15, 20] and len(set(losses.values())) == 1
    assert RunFolder(tmp_path / "run").info()["best_step"] == 5


def test_evaluation_at_the_end_of_each_epoch_by_default(tmp_path):
    train(tiny(tmp_path, "train.eval_every=null", "data.tokens=300", "train.steps=25"), {})
    assert list(of("valid/loss", tmp_path / "run")) == [11, 22, 25]


def test_the_schedule_reaches_the_optimizer(tmp_path):
    train(tiny(tmp_path, "optim.lr=0.01", "schedule.warmup_steps=0", "schedule.final=0", "train.log_every=1"), {})
    rates = of("train/lr", tmp_path / "run")
    for step, rate in rates.items():
        assert rate == pytest.approx(0.01 * (1 + math.cos(math.pi * (step - 1) / 40)) / 2)


@pytest.mark.parametrize("how", ["weight", "lr"])
def test_no_step_is_taken_with_a_gradient_that_is_not_finite(tmp_path, how, monkeypatch):
    config = tiny(tmp_path, "train.steps=30", "optim=sgd", "optim.lr=0.1")
    original, calls = seqlm.training.assemble.build_model, []

    def poisoned(*arguments):
        model = original(*arguments)

        def poison(gradient):
            calls.append(model.decoder.weight.detach().clone())
            return gradient * float("nan") if len(calls) == 6 else gradient

        model.stack.layers[0].cell.weight_hh.register_hook(poison)
        return model

    monkeypatch.setattr(seqlm.training.assemble, "build_model", poisoned)
    with pytest.raises(
        NonFiniteError, match=r"the gradient of stack.layers.0.cell.weight_hh is not finite at step 5"
    ) as caught:
        train(config, {})
    assert caught.value.exit_code == 3 and "optim.lr" in str(caught.value)
    assert RunFolder(tmp_path / "run").info()["status"] == "diverged"
    for tensor in load_run(tmp_path / "run", checkpoint="last").model.parameters():
        assert tensor.isfinite().all()


def test_no_step_is_taken_with_an_infinite_loss_whose_gradient_is_finite(tmp_path, monkeypatch):
    original, losses, steps = LanguageModeling.objective, [], []

    def objective(self, model, chunk, carry):
        carry, summed, penalty = original(self, model, chunk, carry)
        losses.append(summed)
        return carry, summed + (float("inf") if len(losses) == 6 else 0.0), penalty

    monkeypatch.setattr(LanguageModeling, "objective", objective)
    descend = seqlm.training.loop.descend
    monkeypatch.setattr(seqlm.training.loop, "descend", lambda *arguments: steps.append(1) or descend(*arguments))
    with pytest.raises(NonFiniteError, match="the loss is not finite at step 5"):
        train(tiny(tmp_path), {})
    assert len(steps) == 5


def test_not_finite_before_any_checkpoint(tmp_path):
    words = ["optim=sgd", "optim.lr=1e38", "train.clip_norm=null", "checkpoint.every=null"]
    with pytest.raises(NonFiniteError, match="There is no checkpoint yet"):
        train(tiny(tmp_path, *words), {})


def test_training_chunks_of_ptb_size_are_all_used():
    streams = Streams(np.zeros(929_589, dtype=np.uint16), 20, 20, first=1)
    assert len(streams) == 2324 and sum(streams[i].tokens for i in (0, 2323)) == 400 + 389


def made(root, name):
    with RunFolder.create(root, name, "markov-lstm", lambda run: run.update(status="running")) as run:
        assert run.status() == "running" and run.path.is_dir()
        return run.name


def test_names_of_runs_never_collide(tmp_path):
    with ThreadPoolExecutor(8) as several:  # of those that start at once, each gets a number
        names = set(several.map(lambda _: made(tmp_path, None), range(50)))
    assert names == {"markov-lstm", *(f"markov-lstm.{number}" for number in range(2, 51))}
    (tmp_path / "x").mkdir()
    made(tmp_path, "x")  # an empty folder is nobody's
    with pytest.raises(ConfigError, match="run.name=x:.*exists; choose another name, or resume=auto"):
        made(tmp_path, "x")
    with pytest.raises(ConfigError, match=r"run.name=../y leaves run.root"):
        made(tmp_path, "../y")
    with pytest.raises(ConfigError, match=r"run.name=/.*y leaves run.root"):
        made(tmp_path, str(tmp_path / "y"))
    made(tmp_path, "group/y")
    assert not list(tmp_path.rglob(".[!l]*")), "something hidden was left behind"


@pytest.mark.parametrize("name", [None, "x"])
def test_a_root_that_is_no_folder_ends_at_once(tmp_path, name):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"run.root=.*file.* cannot be made"):
            made(root, name)


def test_of_two_that_start_at_once_one_is_told(tmp_path, monkeypatch):
    """The other takes the name after we have looked."""
    rename = Path.rename

    def late(self, target):
        (target / "run.json").parent.mkdir()
        (target / "run.json").write_text("{}")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    with pytest.raises(RunExists, match="run.name=x: .* exists"):
        made(tmp_path, "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_nothing_is_written_when_something_is_wrong(tmp_path):
    for wrong in ("model.tied=true", "model.dropout.hidden=1.5", "optim.lr=-1", "device=nope", "train.bptt=2000"):
        with pytest.raises(ConfigError):
            train(tiny(tmp_path, wrong, "model.embedding_size=5"), {})
    assert list(tmp_path.iterdir()) == []


def test_every_mistake_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        compose("++train.stepz=3", "train.log_every=0", "precision=fp8", "train.clip_norm=-1", "++deterministic=1")
    lines = str(caught.value).splitlines()
    assert lines == [
        "precision=fp8 is unknown; allowed: float32, tf32, bf16",
        "deterministic=1 should be true or false",
        "train.clip_norm=-1 must be greater than 0",
        "train.log_every=0 must be at least 1",
        "train.stepz is not a key of this configuration; did you mean train.steps?",
    ]


OPTIONS = [
    "train.bptt=5", "train.batch_size=3", "train.bptt_std=2", "train.bptt_half_prob=0.5",
    "train.drop_state=0.5", "train.loss_unit=sum", "train.clip_norm=0.01", "train.l2=0.1",
    "task.penalties.activation=1", "task.penalties.temporal=1", "optim.weight_decay=0.5", "optim.betas=[0.0,0.9]",
    "optim.eps=0.1", "schedule=cosine", "schedule=one_cycle", "model.init_range=0.3", "model.dropout.state=0.5",
    "model.dropout.weight=0.5", "model.dropout.zoneout=0.5", "model.dropout.zoneout_memory=0.5",
    "model.dropout.input=0.5", "model.dropout.hidden=0.5", "model.dropout.output=0.5", "model.dropout.embedding=0.5",
    "model.cell.input_gate=coupled", "seed=2", "model.num_layers=3", "model.num_layers=3 model.skip_sum=true",
    "model.num_layers=3 model.residual=true",
]  # fmt: skip


def test_every_option_changes_what_is_trained(tmp_path):
    """One short run with each: no two have the same weights."""
    found = {}
    for index, option in enumerate(["", *OPTIONS]):
        words = ["train.steps=6", "train.eval_every=6", "schedule=constant", *option.split()]
        train(tiny(tmp_path, *words, name=f"run{index}"), {})
        found.setdefault(weights(tmp_path / f"run{index}"), []).append(option)
    assert [options for options in found.values() if len(options) > 1] == []


def test_the_vocabulary_may_be_of_all_splits(tmp_path):
    """Words of valid and test that train lacks: unknown, or words that nothing is known of."""
    for split, text in (("train", "a b a b\n" * 40), ("valid", "a c\n" * 20), ("test", "d d\n")):
        (tmp_path / f"{split}.txt").write_text(text)
    words = ["data=text", "data/tokenizer=word", f"data.path={tmp_path}", f"run.root={tmp_path}", "train.steps=2",
             "train.batch_size=2", "train.bptt=4", "train.eval_batch_size=2", "sample.tokens=0"]  # fmt: skip
    sizes = {}
    for source in ("train", "all"):
        train(compose(*words, f"data.vocab_from={source}", f"run.name={source}"), {})
        told = RunFolder.open(tmp_path / source).info()
        sizes[source] = len(load_run(tmp_path / source).tokenizer), told["metrics"]["valid/loss"]
    assert sizes["all"][0] == sizes["train"][0] + 2 and sizes["all"][1] != sizes["train"][1]
