"""seqlm reproduce: measured beside published, and the record of it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

import pytest

import seqlm.commands.reproduce
import seqlm.evaluation.reproduction
from seqlm.commands.compare import compare
from seqlm.commands.eval import evaluate_run as evaluate
from seqlm.commands.reproduce import reproduce
from seqlm.config.build import build
from seqlm.config.comparison import comparable_config
from seqlm.config.compose import experiment
from seqlm.config.values import load_config
from seqlm.errors import ConfigError, SeqlmError
from seqlm.evaluation.reproduction import (
    check,
    file_name,
    finished,
    published_of,
    record,
    summary,
)
from seqlm.runs.folder import RunFolder
from seqlm.training.launch import train

from ..conftest import TINY, compose, tiny
from ..conftest import seqlm as command


def test_a_record(tmp_path, capsys):
    train(tiny(tmp_path, "train.steps=30", "data.tokens=8000"), {"experiment": "zaremba_small"})
    folder = tmp_path / "run"
    preset = asdict(load_config(folder / "config.yaml")) | {"published": published_of("zaremba_small")}
    path = reproduce(folder, lambda _: preset, tmp_path / "made" / "here")
    written = json.loads(path.read_text())
    assert path.name == "zaremba_small.json" and str(tmp_path) not in path.read_text()
    assert written["published"] == {"unit": "ppl", "valid": 120.7, "test": 114.5}
    for split in ("valid", "test"):
        score = written["scores"][split]
        assert score == {k: v for k, v in json.loads((folder / f"eval-{split}.json").read_text()).items() if k != "run"}
        assert score["protocol"]["name"] == "zaremba" and score["batch_size"] == 1
        measured = {" ppl": score["ppl"], " ppl, as they count": score["protocol"]["ppl"]}
        for what, ppl in measured.items():
            assert written["difference"][split + what] == pytest.approx(ppl - written["published"][split], abs=1e-4)
    assert len(written["difference"]) == 4
    assert written["curve"][-1][0] == 30 and written["tokens_per_s"] > 0 and written["seed"] == 1
    assert {"torch", "hardware", "git", "seconds", "parameters"} <= written.keys()
    text = capsys.readouterr().out
    test = written["scores"]["test"]
    assert f"{test['ppl']:.3f}" in text and f"{test['ppl'] - 114.5:+.2f}" in text
    assert f"{test['protocol']['ppl']:.3f}" in text


def test_each_seed_and_engine_has_a_record_of_its_own(tmp_path):
    for name, words in {"auto": [], "forced": ["engine=fused", "seed=7"]}.items():
        train(tiny(tmp_path, "train.steps=2", *words, name=name), {"experiment": "zaremba_small"})
    auto, forced = (RunFolder.open(tmp_path / name) for name in ("auto", "forced"))
    assert file_name(auto, {"seed": 1}) == "zaremba_small.json"
    assert file_name(auto, {"seed": 7}) == "zaremba_small-seed1.json"
    assert file_name(forced, {"seed": 7}) == "zaremba_small-fused.json"
    assert file_name(forced, {"seed": 1}) == "zaremba_small-fused-seed7.json"
    config = auto.config.read_text()
    auto.config.write_text(config.replace("precision: float32", "precision: bf16"))
    assert file_name(auto, {"seed": 1, "precision": "float32"}) == "zaremba_small-bf16.json"
    assert file_name(auto, {"seed": 1, "precision": "bf16"}) == "zaremba_small.json"


@pytest.mark.parametrize(
    ("words", "name"),
    [([], ""), (["seed=2"], "-seed2"), (["seed=2", "engine=fused"], "-fused-seed2"), (["precision=bf16"], "-bf16")],
)
def test_each_seed_and_engine_is_trained_as_a_run_of_its_own(monkeypatch, tmp_path, words, name):
    seen = []
    monkeypatch.setattr(seqlm.commands.reproduce, "train", seen.append)
    monkeypatch.setattr(seqlm.commands.reproduce, "reproduce", lambda folder, *_: seen.append(folder))
    seqlm.commands.reproduce.main(["experiment=zaremba_small", *words, f"run.root={tmp_path}"])
    assert seen[1] == tmp_path / f"reproduce-zaremba_small{name}"
    assert {"experiment=zaremba_small", *words, f"run.name={seen[1].name}"} <= set(seen[0])


@pytest.mark.parametrize("trained", [False, True])
def test_another_setting_is_refused_before_it_is_trained(monkeypatch, tmp_path, trained):
    monkeypatch.setattr(seqlm.commands.reproduce, "train", lambda words: pytest.fail("trained"))
    monkeypatch.setattr(seqlm.commands.reproduce, "finished", lambda folder: trained)
    monkeypatch.setattr(seqlm.commands.reproduce, "reproduce", lambda *_: pytest.fail("reproduced"))
    words = ["experiment=zaremba_small", "model.hidden_size=9", "seed=7", "data.path=x", f"run.root={tmp_path}"]
    with pytest.raises(
        ConfigError, match="experiment=zaremba_small as it is, but the words change model.hidden_size: "
    ):
        seqlm.commands.reproduce.main(words)


def test_a_folder_for_records_is_made_before_test_is_scored(tmp_path):
    train(tiny(tmp_path, "train.steps=4"), {})
    (tmp_path / "file").touch()
    run = RunFolder.open(tmp_path / "run")
    with pytest.raises(ConfigError, match="out=.*file cannot be made"):
        reproduce(run.path, lambda _: asdict(load_config(run.config)), tmp_path / "file")
    assert run.times_scored("test") == 0


def test_what_is_no_record(tmp_path):
    train(tiny(tmp_path, "train.steps=4"), {})
    folder = tmp_path / "run"
    preset = asdict(load_config(folder / "config.yaml"))
    with pytest.raises(SeqlmError, match=r"is not default as published here: train.bptt: 9 -> 7"):
        reproduce(folder, lambda _: {**preset, "train": {**preset["train"], "bptt": 9}}, tmp_path)
    with pytest.raises(SeqlmError, match="as published here"):  # an averaged recipe without the average
        reproduce(
            folder, lambda _: {**preset, "averaging": {"_target_": "seqlm.optim.averaging.NonMonotone"}}, tmp_path
        )
    reproduce(folder, lambda _: {**preset, "seed": 5, "device": "cuda"}, tmp_path)
    RunFolder.open(folder).update(status="interrupted")
    with pytest.raises(SeqlmError, match="is interrupted, not finished"):
        reproduce(folder, lambda _: preset, tmp_path)


def test_what_may_differ(tmp_path):
    """Seed, device, engine, and what is shown or kept; nothing that trains."""
    train(tiny(tmp_path, "train.steps=4", "engine=scan"), {"experiment": "awd_ptb"})
    run = RunFolder.open(tmp_path / "run")
    preset = asdict(load_config(run.config))
    harmless: dict = {"seed": 7, "engine": "auto", "device": "cuda", "threads": 3, "resume": "auto"}
    harmless |= {"sample": {"tokens": 1}, "checkpoint": {"every": 2}, "trust": ["mine."], "run": {"name": "other"}}
    harmless |= {"train": {**preset["train"], "log_every": 99, "default_steps": 9}}  # of no effect beside steps
    harmless |= {"data": {**preset["data"], "path": "elsewhere", "test": "there"}}
    check(run, {**preset, **harmless})
    for key, value in {"model": "hidden_size", "train": "steps", "data": "tokens", "optim": "lr"}.items():
        with pytest.raises(SeqlmError, match=f"is not awd_ptb as published here: {key}.{value}: 1 -> "):
            check(run, {**preset, key: {**preset[key], value: 1}})
    with pytest.raises(SeqlmError, match="is not awd_ptb as published here: init_from: True -> False"):
        check(run, {**preset, "init_from": "RUN"})
    assert file_name(run, preset) == "awd_ptb-scan.json" and finished(run.path)
    run.update(status="interrupted")
    assert not finished(run.path) and not finished(tmp_path)
    where = {"path": "a", "train": "b", "valid": "c", "test": "d"}
    assert comparable_config({"data": {**where, "limit": 3}, "device": "cpu", "run": {}, "seed": 1}) == {
        "data": {"limit": 3},
        "init_from": False,
        "seed": 1,
    }


def test_the_default_length_is_part_of_the_setting(tmp_path):
    for steps in (4, 5):
        train(tiny(tmp_path, "train.steps=null", f"train.default_steps={steps}", name=f"{steps}"), {})
    four, five = (RunFolder.open(tmp_path / f"{steps}") for steps in (4, 5))
    with pytest.raises(SeqlmError, match="is not default as published here: train.default_steps: 5 -> 4"):
        check(four, asdict(load_config(five.config)))
    assert len(compare([four, five])) == 2


def test_options_that_came_later_are_as_they_were_before(tmp_path):
    """At the default of their part a run without them is what it says; at another value, or another part, it is not."""
    train(tiny(tmp_path, "train.steps=4"), {"experiment": "zaremba_small"})
    run = RunFolder.open(tmp_path / "run")
    preset = asdict(load_config(run.config))
    lines = run.config.read_text().splitlines(keepends=True)
    run.config.write_text("".join(line for line in lines if "skip_sum" not in line and "forget_bias" not in line))
    assert "skip_sum" not in load_config(run.config).model
    check(run, preset)
    for changed in ({"skip_sum": True}, {"cell": {**preset["model"]["cell"], "forget_bias": 1.0}}):
        with pytest.raises(SeqlmError, match=f"as published here: model.{next(iter(changed))}"):
            check(run, {**preset, "model": {**preset["model"], **changed}})


def test_scores_are_of_the_best_checkpoint_read_as_one_stream(tmp_path, capsys):
    train(tiny(tmp_path, "train.steps=30", "train.eval_every=10", "checkpoint.keep_last=9"), {})
    folder = tmp_path / "run"
    run, preset = RunFolder.open(folder), asdict(load_config(folder / "config.yaml"))
    best = run.info()["best_step"]
    other = next(step for step in (10, 20, 30) if step != best)

    def score(*words):
        for split in ("valid", "test"):
            evaluate(str(folder), [f"split={split}", *words], True)

    for words in (["batch_size=2"], [f"checkpoint={other}"]):
        score(*words)
        with pytest.raises(SeqlmError, match="has no score of its best checkpoint; run: seqlm eval .* split=valid"):
            record(run, preset)
    score()
    score("temperature=1.1", f"checkpoint={other}")
    assert record(run, preset)["scores"].keys() == {"valid", "test"}
    score("temperature=1.1")
    evaluate(str(folder), ["split=test", "average_last=2"], True)  # another model
    written = record(run, preset)
    assert written["scores"].keys() == {"valid", "test", "valid_adapted", "test_adapted"}
    assert all("run" not in one and one["checkpoint"] == best for one in written["scores"].values())
    assert written["scores"]["test_adapted"]["adaptation"] == {"temperature": 1.1}
    info, valid = run.info(), [one for one in run.records() if "valid/ppl" in one]
    assert written["curve_columns"] == ["step", "seconds", "valid_loss", "valid_ppl", "valid_bpc"]
    assert written["curve"] == [
        [one[key] for key in ("step", "seconds", "valid/loss", "valid/ppl", "valid/bpc")] for one in valid
    ]
    assert (
        written["task"] == "lm"
        and len(valid) == 3
        and written["resumed"] == info.get("resumed")
        and written["experiment"] == "default"
    )
    assert written["tokens_per_s"] == round(info["tokens"] / info["seconds"], 1)


def test_an_experiment_says_how_its_recipe_counts():
    names = ["awd_wt2", "mos_ptb", "zaremba_large", "wlm_650_tied", "melis_24m", "mogrifier_ptb", "gal_large", "laptop"]
    protocols = ["awd", "awd", "zaremba", "wlm", "lamb", "lamb", "zaremba", None]
    assert [published_of(name).get("protocol") for name in names] == protocols


def test_published_and_measured_side_by_side():
    figures = {"unit": "ppl", "valid": 82.0, "test": 78.4}
    score = {"ppl": 79.0, "bpc": 1.5, "protocol": {"ppl": 77.4}}
    written = {"scores": {"valid": score, "test": score}, "reported": ["ppl"]}
    lines = summary({"published": figures, **written}).splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["-3.00", "-4.60", "+0.60", "-1.00"]
    lines = summary({"published": {"unit": "bpc", "test": 1.6}, **written}).splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["-", "-", "-", "-", "-", "-0.10"]


SLOTS = ["task=tagging", "model=tagger", "data=taipei", "data.sentences=100", "model.hidden_size=8", "threads=1"]
COPY = ["task=seq2seq", "model=seq2seq", "data=copy", "data.symbols=4", "data.min_length=2", "data.max_length=3",
        "data.sizes=[30,4,4]", "model.hidden_size=8", "threads=1"]  # fmt: skip


def other(folder, words, *more, experiment, steps=6):
    """A short run of another task, and the preset that it is."""
    limits = [f"train.steps={steps}", "train.eval_every=2", "train.batch_size=5"]
    train(compose(*words, *limits, *more, f"run.root={folder}", "run.name=run"), {"experiment": experiment})
    run = RunFolder.open(folder / "run")
    return run, asdict(load_config(run.config))


def test_a_record_of_another_task(tmp_path, monkeypatch, capsys):
    """The metrics of tagging, in percent beside what was published; no table that `seqlm eval` shows."""
    run, preset = other(
        tmp_path, SLOTS, "seed=2", "optim.lr=0.01", "schedule=constant", experiment="atis_elman", steps=60
    )
    figures = {"unit": "f1", "test": 94.8, "source": "a paper"}
    elsewhere = {
        "published": figures,
        "data": {**preset["data"], "path": "elsewhere"},
        "threads": 8,
        "run": {"root": "x"},
        "seed": 1,
    }
    path = reproduce(run.path, lambda _: {**preset, **elsewhere}, tmp_path)
    written = json.loads(path.read_text())
    assert path.name == "atis_elman-seed2.json" and str(tmp_path) not in path.read_text()
    assert (written["task"], written["reported"], written["seed"]) == ("tagging", ["f1"], 2)
    assert written["published"] == {"unit": "f1", "test": 94.8}
    for split in ("valid", "test"):
        kept = run.eval_result(split)
        assert kept.pop("report") and kept.pop("run") == "run" and written["scores"][split] == kept
        assert kept["examples"] == 10 and kept["split"] == split
    names = ["loss", "precision", "recall", "f1", "accuracy"]
    assert written["curve_columns"] == ["step", "seconds", *(f"valid_{name}" for name in names)]
    valid = [one for one in run.records() if "valid/f1" in one]
    assert written["curve"] == [[one["step"], one["seconds"], *(one[f"valid/{n}"] for n in names)] for one in valid]
    assert len(valid) == 30 and written["parameters"] == run.info()["parameters"]
    assert written["tokens_per_s"] == round(written["tokens"] / written["seconds"], 1) > 0
    assert written["config"]["task.monitor"] == "f1" and written["config"]["data.sentences"] == 100
    told, test = capsys.readouterr().out, 100 * written["scores"]["test"]["f1"]
    assert 0 < test < 100 and re.search(rf"test f1 +94.80 +{test:.3f} +{re.escape(f'{test - 94.8:+.2f}')}", told)
    assert re.search(rf"valid f1 +- +{100 * written['scores']['valid']['f1']:.3f} +-", told)


def test_what_is_no_record_of_another_task(tmp_path):
    run, preset = other(tmp_path, COPY, experiment="reverse")
    score = {split: [str(run.path), [f"split={split}"], True] for split in ("valid", "test")}
    for more in (["task.beam=2"], ["checkpoint=4"] if run.info()["best_step"] != 4 else ["checkpoint=6"]):
        for folder, words, as_json in score.values():
            evaluate(folder, [*words, *more], as_json)
        with pytest.raises(SeqlmError, match="has no score of its best checkpoint; run: seqlm eval .* split=valid"):
            record(run, preset)
    evaluate(*score["valid"])
    with pytest.raises(SeqlmError, match="has no score of its best checkpoint; run: seqlm eval .* split=test"):
        record(run, preset)
    evaluate(*score["test"])
    evaluate(str(run.path), ["split=test", "task.max_length=1"], True)  # another way to write
    written = record(run, preset)
    assert written["scores"].keys() == {"valid", "test"} and "task" not in written["scores"]["test"]
    assert written["reported"] == ["exact"] and written["published"] == {}
    changed = {**preset, "task": {**preset["task"], "beam": 3}, "data": {**preset["data"], "symbols": 5}}
    with pytest.raises(SeqlmError, match="is not reverse as published here: data.symbols: 5 -> 4; task.beam: 3 -> 1"):
        record(run, changed)
    for status in ("running", "failed"):
        run.update(status=status)
        with pytest.raises(SeqlmError, match=f"is {status}, not finished"):
            record(run, preset)


def test_an_interrupted_run_may_be_recorded_without_test(tmp_path):
    run, preset = other(tmp_path, COPY, experiment="reverse")
    run.update(status="interrupted")
    with pytest.raises(SeqlmError, match="has no score of its best checkpoint; run: seqlm eval .* split=valid"):
        record(run, preset)
    evaluate(str(run.path), ["split=valid"], True)
    written = record(run, preset)
    assert written["scores"].keys() == {"valid"} and written["status"] == "interrupted"
    assert written["reported"] == ["exact"] and len(written["curve"]) > 1
    run.update(status="finished")
    with pytest.raises(SeqlmError, match="has no score of its best checkpoint; run: seqlm eval .* split=test"):
        record(run, preset)


@pytest.mark.parametrize(("words", "reported"), [
    (["task=tagging", "task.monitor=accuracy"], ["accuracy"]),
    (["task=classification"], ["accuracy"]),
    (["task=classification", "task.monitor=macro_f1"], ["macro_f1", "accuracy"]),
    (["task=joint"], ["frame", "f1", "accuracy"]),
    (["task=seq2seq", "task.monitor=accuracy"], ["accuracy", "exact"]),
    (["task=seq2seq", "task.bleu=true"], ["exact", "bleu", "chrf"]),
    (["task=seq2seq", "task.monitor=loss"], ["exact"]),
    (["task=tagging", "task.monitor=loss"], ["loss"]),
    (["task=lm"], ["ppl"]),
])  # fmt: skip
def test_a_task_says_what_it_is_told_by(words, reported):
    task = build(compose(*words).task, "task")
    metrics = {
        "tagging": {"loss", "precision", "recall", "f1", "accuracy"},
        "classification": {"loss", "accuracy", "macro_f1"},
        "joint": {"loss", "f1", "accuracy", "frame"},
        "seq2seq": {"loss", "exact", "accuracy"} | ({"bleu", "chrf"} if "task.bleu=true" in words else set()),
        "lm": {"loss", "ppl", "bpc"},
    }[words[0].removeprefix("task=")]
    assert task.headlines(metrics) == reported


def test_a_metric_is_published_in_its_unit():
    scores = {"exact": 0.5, "bleu": 27.3}
    text = summary({
        "task": "seq2seq", "reported": ["exact", "bleu"], "published": {"unit": "bleu", "test": 27.0},
        "scores": {"valid": scores, "test": scores},
    })  # fmt: skip
    assert [line.split() for line in text.splitlines()[3:]] == [
        ["test", "exact", "-", "50.000", "-"],
        ["test", "bleu", "27.00", "27.300", "+0.30"],
    ]


def test_published_figures_are_data_of_the_experiments():
    assert published_of("book_rnnlm").items() >= {"unit": "ppl", "test": 136, "about": True}.items()
    assert published_of("awd_ptbchar").items() >= {"unit": "bpc", "test": 1.175}.items()
    assert published_of("wlm_200") == {"protocol": "wlm"} and published_of("default") == published_of("laptop") == {}
    for name in ("atis_joint", "awd_ptb_finetune", "wlm_650", "melis_10m", "awd_enwik8"):  # made from others
        assert experiment(name, ["data.path=x", "init_from=run"])["published"] == published_of(name)
    with pytest.raises(ConfigError, match="published.tset is unknown; did you mean published.test"):
        compose("+published.tset=3")


def test_from_the_command_line(tmp_path):
    command("train", *TINY, "train.steps=4", "run.name=done", cwd=tmp_path)
    refused = command("reproduce", "outputs/done", cwd=tmp_path, check=False)
    assert refused.returncode == 1 and "is not default as published here" in refused.stderr
    for words, message in [
        ((), "needs a run's folder, or experiment=NAME"),
        (("outputs/done", "seed=3"), "takes no seed=3"),
        (("experiment=zaremba",), "experiment=zaremba is unknown"),
    ]:
        refused = command("reproduce", *words, cwd=tmp_path, check=False)
        assert refused.returncode == 2 and message in refused.stderr and "Traceback" not in refused.stderr


def test_the_old_word_works_and_says_so(tmp_path):
    done = command("certify", cwd=tmp_path, check=False)
    assert done.returncode == 2 and done.stderr.startswith("seqlm: certify is called reproduce now\n")
    assert "seqlm reproduce needs a run's folder" in done.stderr
