"""Data parallel: N ranks that share out the rows of a batch train what one process with all of them does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seqlm.errors import ConfigError
from seqlm.runs import finding
from seqlm.training.assemble import assemble_session
from seqlm.training.distributed import Ranks
from seqlm.training.shares import check_model

from ..conftest import compose, tiny
from ..ranks import together
from .rank_training import (
    DOUBLE,
    Counting,
    Everywhere,
    clocks_apart,
    count_sent,
    forget_generators,
    graphed,
    nan_on_rank_1,
    other_weights,
    play,
    stop_rank_1,
    train,
    train_each,
)


def losses(result):
    """Every number that was logged but the speed: (step, name, value)."""
    return [
        (step, name, value)
        for step, values in result["records"]
        for name, value in values.items()
        if not name.endswith("tokens_per_s")
    ]


def state_of(folder):
    return finding.find(folder / "checkpoints", "last", print).load_state()


def assert_alike(results, alone, bound, name=""):
    """All ranks have the same bits, and are as near to a single process as rounding allows."""
    first = results[0]
    for other in results[1:]:
        assert losses(other) == losses(first)
        assert all(torch.equal(one, other["weights"][name]) for name, one in first["weights"].items())
    found, expected = losses(first), losses(alone)
    assert [key[:2] for key in found] == [key[:2] for key in expected] and len(found) > 20
    worst = max(abs(a[2] - b[2]) / max(1.0, abs(b[2])) for a, b in zip(found, expected, strict=True))
    assert worst < bound and not alone["ended"] and not first["ended"], (name, worst)
    return worst


STEPS = ["train.log_every=1", "train.steps=9", "train.eval_every=4", "engine=scan"]  # no kernel is compiled
RANDOM_CHUNKS = ["train.bptt_std=2", "train.bptt_half_prob=0.3"]
PENALTIES = ["task.penalties.activation=2", "task.penalties.temporal=1"]
ASGD = [
    "optim=sgd",
    "optim.lr=200",
    "averaging=nt_asgd",
    "averaging.patience=0",
    "train.eval_every=2",
    "train.steps=13",
    "eval_weights=average",
]  # so fast that an evaluation is worse, and the average begins
TEXTS = {
    "lm": [],
    "lm, parts, nt-asgd, drawn lengths": ["train.accumulate=2", *ASGD, *RANDOM_CHUNKS, *PENALTIES,
                                          "train.clip_norm=0.1"],
    "lm, tied, summed, l2": ["model.tied=true", "train.loss_unit=sum", "optim.lr=0.001", "train.l2=0.01"],
    "lm, large gradients": ["model.hidden_size=80", "model.num_layers=1"],
    "lm, one row to score": ["train.eval_batch_size=1", "data.tokens=1500"],
    "bilm": ["task=bilm", "model=bilm"],
    "cloze": ["task=cloze", "model=cloze"],
}  # fmt: skip
SEQUENCES = ["data.sizes=[45,9,9]", "train.batch_size=6", "train.eval_batch_size=5", "model.hidden_size=8"]
REQUESTS = ["data=taipei", "data.sentences=43", *SEQUENCES[1:]]  # the last batch of an epoch has one
EXAMPLES = {
    "tagging": ["task=tagging", "model=tagger", *REQUESTS],
    "tagging, weighted, parts": ["task=tagging", "model=tagger", *REQUESTS, "task.class_weights=balanced",
                                 "train.accumulate=2"],
    "seq2seq": ["task=seq2seq", "model=seq2seq", "data=copy", *SEQUENCES],
    "conditional": ["task=conditional", "model=conditional", "data=copy", *SEQUENCES, "model.empty=0"],
}  # fmt: skip


def configs(folder, cases, kind):
    common = ["data=markov", "data.tokens=4000", "data.symbols=5", "model.hidden_size=12", "model.num_layers=2",
              "optim.lr=0.01", "train.batch_size=4", "train.bptt=7", "train.eval_batch_size=3", "sample.tokens=10",
              "threads=1", f"run.root={folder}"]  # fmt: skip
    places = [f"run.name={kind}-{index}" for index in range(len(cases))]
    text = [word for word in common if not word.startswith(("data.", "model."))]
    return [
        compose(*(common if "lm" in name or "cloze" in name else text), *STEPS, *words, place)
        for (name, words), place in zip(cases.items(), places, strict=True)
    ]


@pytest.mark.parametrize("cases", [TEXTS, EXAMPLES], ids=["texts", "examples"])
def test_two_ranks_train_as_one_process(tmp_path, processes, cases):
    """In float64, where only the order of sums differs; both ranks have the same bits."""
    alone = together(processes, 1, tmp_path, train_each, configs(tmp_path, cases, "alone"), DOUBLE)[0]
    both = together(processes, 2, tmp_path, train_each, configs(tmp_path, cases, "both"), DOUBLE)
    for index, (name, one, *pair) in enumerate(zip(cases, alone, *both, strict=True)):
        assert_alike(pair, one, 1e-10, name)
        assert bool(one["average"]) == bool(pair[0]["average"]) == ("nt-asgd" in name)
        saved = [state_of(tmp_path / f"{kind}-{index}") for kind in ("alone", "both")]
        for expected, found in zip(*(state["carry"] for state in saved), strict=True):  # of all rows, in their order
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
        assert "random_of_others" not in saved[0] and len(saved[1]["random_of_others"]) == 1


DROPOUT = [f"model.dropout.{place}=0.2" for place in ("embedding", "input", "hidden", "output")]


def small(folder, *words, name):
    return tiny(folder, *STEPS, "checkpoint.every=2", "checkpoint.keep_last=9", "train.log_every=1", *words, name=name)


def test_a_resume_of_all_ranks_is_equality(tmp_path, processes):
    """With everything that draws or remembers: masks, dropped states, drawn lengths, an average, an optimizer."""
    words = [*DROPOUT, "train.drop_state=0.2", "train.bptt_std=2", "averaging=ema"]
    config = small(tmp_path, *words, name="run")
    whole = {"config": config}
    parts = {"config": config, "start": "4"}
    mutant = {"config": config, "start": "4", "hooks": forget_generators}
    for rank in together(processes, 2, tmp_path, play, [whole, parts, mutant]):
        first, resumed, other = rank
        begun = losses(resumed)[0]
        assert begun[0] == 5 and losses(resumed) == [one for one in losses(first) if one[0] > 4 or one == begun]
        for name, weight in first["weights"].items():
            assert torch.equal(resumed["weights"][name], weight)
        for name in ("carry", "average"):
            assert all(torch.equal(*pair) for pair in zip(first[name], resumed[name], strict=True)) and first[name]
        assert torch.equal(first["random"], resumed["random"])
        assert losses(other) != losses(resumed)


def test_every_rank_draws_masks_of_its_own(tmp_path, processes):
    """Rank 0 those of a training in one process: its first loss is the same for the same rows."""
    one, another = together(processes, 2, tmp_path, train, small(tmp_path, *DROPOUT, "train.steps=1", name="run"))
    assert not torch.equal(one["random"], another["random"])
    assert losses(one) == losses(another)


def test_the_number_of_ranks_may_change(tmp_path, processes):
    """The rows are shared out anew: without masks nothing else differs."""
    config = small(tmp_path, name="run")
    alone = together(processes, 1, tmp_path, train, config, None, None, (), DOUBLE)[0]
    four = together(processes, 4, tmp_path, play, [{"config": config, "start": "4", "precision": DOUBLE}])
    again = together(processes, 1, tmp_path, train, config, "6", None, (), DOUBLE)[0]
    expected = {one[:2]: one[2] for one in losses(alone)}
    for result in (*(rank[0] for rank in four), again):
        found = losses(result)
        assert len(found) > 10 and all(abs(value - expected[step, name]) < 1e-10 for step, name, value in found)


def test_ranks_decide_alike(tmp_path, processes):
    """Where signals, clocks, callbacks or numbers of one rank are not those of the other, nobody waits for ever."""

    def case(name, *words, hooks=None, callbacks=()):
        return {"config": small(tmp_path, *words, name=name), "hooks": hooks, "callbacks": callbacks}

    plays = {
        "signal": case("signal", hooks=stop_rank_1),
        "clock": case("clock", "train.minutes=30", "checkpoint.every=null", hooks=clocks_apart),
        "weights": case("weights", hooks=other_weights),
        "skip": case("skip", "train.on_nonfinite=skip", hooks=nan_on_rank_1),
        "stop": case("stop", hooks=nan_on_rank_1),
        "back": case("back", "train.on_nonfinite=rollback", hooks=nan_on_rank_1),
        "callback": case("callback", callbacks=[Counting(), Everywhere()]),
    }
    results = together(processes, 2, tmp_path, play, list(plays.values()))
    for name, one, another in zip(plays, *results, strict=True):
        assert one["ended"] == another["ended"] and one["steps"] == another["steps"], name
        assert one["progress"].step == another["progress"].step and losses(one) == losses(another), name
    found = dict(zip(plays, results[0], strict=True))
    assert found["signal"]["ended"].startswith("Stopped: stopped at step 3") and found["signal"]["steps"] == [0, 2, 3]
    assert found["clock"]["progress"].step == 3 and not found["clock"]["ended"] and found["clock"]["steps"] == [3]
    assert "rank 1 has other weights than rank 0" in found["weights"]["ended"] and found["weights"]["steps"] == [0, 2]
    assert found["skip"]["progress"].skipped == 1 and found["skip"]["progress"].step == 9
    assert found["stop"]["ended"].startswith("NonFiniteError: the loss is not finite at step 4")
    assert found["back"]["progress"].rollbacks == 1 and found["back"]["progress"].step == 9
    assert found["callback"]["progress"].step == 4
    assert [rank[-1]["seen"] for rank in results] == [[4, 4], [0, 4]]


def test_large_gradients_are_sent_while_backward_runs(tmp_path, processes):
    """Not in the first of two parts, nor beside the replay of a graph; the numbers are the same."""
    words = ["model.hidden_size=80", "model.num_layers=1", "train.steps=4"]
    plays = [
        {"config": small(tmp_path, *words, name="eager"), "hooks": count_sent},
        {"config": small(tmp_path, *words, "train.accumulate=2", name="parts"), "hooks": count_sent},
        {"config": small(tmp_path, *words, name="graph"), "hooks": graphed},
    ]
    for eager, parts, graph in together(processes, 2, tmp_path, play, plays):
        assert [result["seen"][0] for result in (eager, parts, graph)] == [2, 2, 0]  # weight_ih and weight_hh
        assert losses(graph) == losses(eager) and len(losses(parts)) == len(losses(eager))
        assert all(abs(a[2] - b[2]) < 1e-5 for a, b in zip(losses(parts), losses(eager), strict=True))


@pytest.mark.parametrize(("size", "count", "sizes"), [(30, 4, "28 or 32"), (3, 4, "4 or 8"), (33, 2, "32 or 34")])
def test_rows_that_ranks_cannot_share_evenly_are_refused(tmp_path, size, count, sizes):
    config = tiny(tmp_path, f"train.batch_size={size}")
    with pytest.raises(ConfigError, match=f"train.batch_size={size} cannot be .* use train.batch_size={sizes}"):
        assemble_session(config, ranks=Ranks(0, count))


@pytest.mark.parametrize(
    ("module", "said"),
    [(nn.BatchNorm1d(3), "0 is a BatchNorm1d: its statistics"), (nn.Embedding(3, 3, sparse=True), "sparse gradients")],
)
def test_modules_that_look_at_other_rows_are_refused(module, said):
    check_model(nn.Sequential(module), Ranks())
    with pytest.raises(ConfigError, match=said):
        check_model(nn.Sequential(module), Ranks(0, 2))
