"""What is shown of a run while it trains: how far it is, which evaluation is the best, and whether it diverges."""

from __future__ import annotations

import re
import time

import pytest

from seqlm.optim.schedules import Constant, Moment, OneCycle, WarmupCosine
from seqlm.runs.folder import RunFolder
from seqlm.training.assemble import assemble_session
from seqlm.training.console import Console
from seqlm.training.divergence import Divergence
from seqlm.training.launch import train
from seqlm.training.session import Progress

from .. import pseudo_terminal
from ..conftest import TINY, tiny
from ..pseudo_terminal import drawn, left_on_screen

VALUES = {"train/loss": 4.5, "train/lr": 0.00123, "train/grad_norm": 0.5, "train/tokens_per_s": 123_456.0}


class Told:
    """A console whose run is where we say."""

    def __init__(self):
        self.share = 0.0
        self.console = Console(lambda loss: f"ppl {loss * 20:.2f}", lambda: self.share)


@pytest.mark.parametrize("columns", [200, 80, 60, 40, 20])
def test_the_bar_fits_and_says_how_far_it_is(monkeypatch, screen, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    told = Told()
    told.console.start(999, 3300)
    told.console.step()
    told.share, now[0] = 0.25, 60.0
    told.console.training(1.25, VALUES, "ppl 88.12", 500)
    told.console._bar.refresh()
    (seen,) = left_on_screen(screen.getvalue())
    assert len(seen) < columns and "25%" in seen and "eta 3:00" in seen
    for text in {40: ("step 1,000/3,300",), 60: ("ppl 90.00",), 80: ("best ppl 88.12 @ 500", "██░")}.get(columns, ()):
        assert text in seen
    if columns == 200:
        for text in ("epoch 1.25", "loss 4.500", "lr 0.00123", "grad 0.50", "123,456 tok/s"):
            assert text in seen
    told.console.write("a line above")
    told.console.close()
    assert [line for line in left_on_screen(screen.getvalue()) if line] == ["a line above"]


@pytest.mark.parametrize(
    ("limits", "progress", "share"),
    [
        (["train.steps=400"], {"step": 100}, 0.25),
        (["train.steps=null", "train.minutes=2"], {"seconds": 30.0}, 0.25),
        (["train.steps=400", "train.minutes=2"], {"step": 100, "seconds": 90.0}, 0.75),
        (["train.steps=null", "train.tokens=4000", "data.tokens=4000"], {"step": 72}, 0.5),
        (["train.steps=null", "train.epochs=2"], {"step": 143}, 0.5),
    ],
    ids=["steps", "minutes", "the nearer", "tokens", "epochs"],
)
def test_every_limit_has_a_share(tmp_path, limits, progress, share):
    session = assemble_session(tiny(tmp_path, *limits))
    assert session.share(Progress(**progress)) == pytest.approx(share, abs=0.01)


def test_a_run_on_a_terminal(tmp_path):
    """A whole one, at 80 columns: no line of ours is wider, and no bar is left behind."""
    words = [*TINY, "run.name=shown", "train.steps=60", "train.eval_every=20", "sample.tokens=100"]
    text = pseudo_terminal.run("train", *words, cwd=tmp_path)
    ours = [line for line in drawn(text) if re.match(r"( *\d+%|step  )", line)]
    assert ours and all(len(line) < 80 for line in ours)
    assert any(re.search(r"\d+%.*step \d+/60 .*eta 0:0", line) for line in ours)
    assert "loading torch ..." in text and "reading the data ..." in text and "\x1b[1mrun" in text
    left = left_on_screen(text)
    assert not [line for line in left if re.search(r"\d+%|\.\.\.$", line) and "|" not in line]
    (shown,) = {len(line) for line in left if line.startswith("             | ")}
    assert shown <= 79
    plain = pseudo_terminal.run("eval", "outputs/shown", cwd=tmp_path, env={"NO_COLOR": "1"})
    assert "\x1b[3" not in plain and "perplexity" in plain


def test_files_get_no_colours_and_no_bar(tmp_path, capsys):
    train(tiny(tmp_path), {})
    out = capsys.readouterr()
    assert "\x1b" not in out.out and "\r" not in out.out and out.err == ""
    assert re.search(r"^step +\d+ +\d+%  epoch", out.out, re.M)


def test_the_best_is_told_by_the_metric_that_chooses(tmp_path, monkeypatch, capsys):
    """`exact` rises while the loss becomes worse: the later one is the best, and the last lines agree."""
    monkeypatch.setattr("seqlm.tasks.seq2seq.Seq2Seq.compute_metrics", metrics := Scripted())
    metrics.values = [
        {"loss": 1.0, "exact": 0.25, "accuracy": 0.8},
        {"loss": 1.5, "exact": 0.5, "accuracy": 0.8},
        {"loss": 0.5, "exact": 0.25, "accuracy": 0.9},
    ]
    words = ["data=dates", "data.sizes=[40,8,8]", "model=seq2seq", "task=seq2seq", "model.hidden_size=8"]
    train(dates(tmp_path, *words), {})
    out = capsys.readouterr().out
    told = [
        re.sub(r" +", " ", line.partition("  [")[0])
        for line in out.splitlines()
        if "valid exact" in re.sub(" +", " ", line)
    ]
    assert told[:3] == [
        "step 2 valid exact 0.2500, best so far loss 1.0000 accuracy 0.8000",
        "step 4 valid exact 0.5000, best so far loss 1.5000 accuracy 0.8000",
        "step 6 valid exact 0.2500, no improvement loss 0.5000 accuracy 0.9000",
    ]
    assert told[3] == "best valid exact 0.5000 loss 1.5000 accuracy 0.8000 at step 4"


class Scripted:
    """Metrics of one evaluation after the other."""

    def __get__(self, *_):
        return lambda *_: dict(self.values.pop(0))


def dates(folder, *words):
    from ..conftest import compose

    loop = ["train.steps=6", "train.eval_every=2", "train.log_every=2", "train.batch_size=8", "sample.tokens=0"]
    return compose(*words, *loop, "threads=1", f"run.root={folder}", "run.name=run")


# ---- divergence


def told(losses, warm=0):
    """The step, from 0, at which a loss is first said to diverge, and what is said."""
    watch = Divergence()
    for step, loss in enumerate(losses):
        watch.observe(loss, warming_up=step < warm)
        if watch.reason:
            return step, watch.reason
    return None


def test_a_loss_above_where_it_began_diverges():
    step, reason = told([9.2, 8.0, 7.5, 12.0, 14.0, 15.0])
    assert step == 4 and reason == "the training loss is 14, above the 9.2 that it began with"
    assert told([9.2, 12.0, 14.0, 8.0, 6.0, 5.0], warm=3) is None


def test_it_began_before_its_first_interval():
    watch = Divergence()
    watch.begin(2.3)
    watch.observe(200.0, warming_up=False)
    assert watch.reason == "the training loss is 200, above the 2.3 that it began with"


def test_a_loss_that_grows_tenfold_diverges():
    step, reason = told([9.0, *[0.2] * 40, *[4.0] * 9])
    assert step > 40 and "was 0.2" in reason


@pytest.mark.parametrize(
    "losses",
    [
        [9.2, *[6.0, 7.0] * 20],  # noise
        [0.17, *[0.165, 0.18, 0.16] * 20],  # nothing is learned
        [2.3, *[0.001] * 50, *[0.02] * 5],  # ten times as much of nothing
        [5.0, 5.6, 4.0, 3.0],  # one odd interval
        [-1.0, -1.5, -1.2, -1.6],  # of densities
    ],
)
def test_what_does_not_diverge(losses):
    assert told(losses) is None


def test_schedules_know_when_they_warm_up():
    assert WarmupCosine(warmup_steps=10).warming_up(Moment(9, 0, 0.5))
    assert not WarmupCosine(warmup_steps=10).warming_up(Moment(10, 0, 0.5))
    assert OneCycle(rise=0.3).warming_up(Moment(5, 0, 0.2)) and not OneCycle(rise=0.3).warming_up(Moment(5, 0, 0.3))
    assert not Constant().warming_up(Moment(0, 0, 0))


def test_a_diverging_run_is_warned_of_once_and_never_the_best(tmp_path, capsys):
    words = ["optim=sgd", "optim.lr=3000", "schedule=constant", "train.clip_norm=1", "train.log_every=1"]
    train(tiny(tmp_path, *words), {})
    out = capsys.readouterr().out
    assert out.count("warning: ") == 1 and "this run diverges; lower optim.lr or train.clip_norm" in out
    assert "best so far" not in out and "best valid" not in out
    assert "diverging" in out and "when the run diverged already" in out
    assert RunFolder(tmp_path / "run").info()["best_step"] > 0  # there are weights to look at nevertheless
