"""Certificates: what was measured, beside what was published."""

from __future__ import annotations

import json

import pytest

import seqlm.certify
import seqlm.cli
from seqlm.certify import certify, file_name, published, summary
from seqlm.config import load_config, plain_dict
from seqlm.errors import SeqlmError
from seqlm.run import RunFolder
from seqlm.train import train

from .conftest import TINY, tiny
from .conftest import seqlm as command


def test_a_certificate(tmp_path, capsys):
    train(tiny(tmp_path, "train.steps=30", "data.tokens=8000"), {"experiment": "zaremba_small"})
    folder = tmp_path / "run"
    preset = plain_dict(load_config(folder / "config.yaml"))
    path = certify(folder, lambda _: preset, tmp_path / "made" / "here")
    written = json.loads(path.read_text())
    assert path.name == "zaremba_small.json" and str(tmp_path) not in path.read_text()
    assert written["published"] == {"unit": "ppl", "valid": 120.7, "test": 114.5}
    for split in ("valid", "test"):
        score = written["scores"][split]
        assert score == {k: v for k, v in json.loads((folder / f"eval-{split}.json").read_text()).items() if k != "run"}
        assert score["lens"]["lens"] == "zaremba" and score["batch_size"] == 1
    assert written["curve"][-1][0] == 30 and written["tokens_per_s"] > 0 and written["seed"] == 1
    assert {"torch", "hardware", "git", "seconds", "parameters"} <= written.keys()
    text = capsys.readouterr().out
    test = written["scores"]["test"]
    assert f"{test['ppl']:.3f}" in text and f"{test['ppl'] - 114.5:+.2f}" in text
    assert f"{test['lens']['ppl']:.3f}" in text


def test_each_seed_and_engine_has_a_record_of_its_own(tmp_path):
    for name, words in {"auto": [], "forced": ["engine=fused", "seed=7"]}.items():
        train(tiny(tmp_path, "train.steps=2", *words, name=name), {"experiment": "zaremba_small"})
    auto, forced = (RunFolder.open(tmp_path / name) for name in ("auto", "forced"))
    assert file_name(auto, {"seed": 1}) == "zaremba_small.json"
    assert file_name(auto, {"seed": 7}) == "zaremba_small-seed1.json"
    assert file_name(forced, {"seed": 7}) == "zaremba_small-fused.json"
    assert file_name(forced, {"seed": 1}) == "zaremba_small-fused-seed7.json"


@pytest.mark.parametrize(
    ("words", "name"), [([], ""), (["seed=2"], "-seed2"), (["seed=2", "engine=fused"], "-fused-seed2")]
)
def test_each_seed_and_engine_is_trained_as_a_run_of_its_own(monkeypatch, tmp_path, words, name):
    seen = []
    monkeypatch.setattr(seqlm.cli, "train", seen.append)
    monkeypatch.setattr(seqlm.certify, "certify", lambda folder, *_: seen.append(folder))
    seqlm.cli.certify(["experiment=zaremba_small", *words, f"run.root={tmp_path}"])
    assert seen[1] == tmp_path / f"certify-zaremba_small{name}"
    assert {"experiment=zaremba_small", *words, f"run.name={seen[1].name}"} <= set(seen[0])


def test_what_is_no_certificate(tmp_path):
    train(tiny(tmp_path, "train.steps=4"), {})
    folder = tmp_path / "run"
    preset = plain_dict(load_config(folder / "config.yaml"))
    with pytest.raises(SeqlmError, match=r"is not default as published here: train.window: 9 -> 7"):
        certify(folder, lambda _: {**preset, "train": {**preset["train"], "window": 9}}, tmp_path)
    with pytest.raises(SeqlmError, match="as published here"):  # an averaged recipe without the average
        certify(folder, lambda _: {**preset, "averaging": {"_target_": "seqlm.training.NonMonotone"}}, tmp_path)
    certify(folder, lambda _: {**preset, "seed": 5, "device": "cuda"}, tmp_path)
    RunFolder.open(folder).update(status="interrupted")
    with pytest.raises(SeqlmError, match="is interrupted, not finished"):
        certify(folder, lambda _: preset, tmp_path)


def test_published_numbers_come_from_the_headers():
    assert published("book_rnnlm") == {"unit": "ppl", "test": 136.0}
    assert published("awd_ptbchar") == {"unit": "bpc", "test": 1.175}
    assert published("default") == published("laptop") == {}
    scores = {split: {"bpc": 1.2, "ppl": 3.0} for split in ("valid", "test")}
    text = summary({"published": published("awd_ptbchar"), "scores": scores})
    assert "+0.03" in text or "+0.02" in text


def test_from_the_command_line(tmp_path):
    command("train", *TINY, "train.steps=4", "run.name=done", cwd=tmp_path)
    refused = command("certify", "outputs/done", cwd=tmp_path, check=False)
    assert refused.returncode == 1 and "is not default as published here" in refused.stderr
    for words, message in [
        ((), "needs a run's folder, or experiment=NAME"),
        (("outputs/done", "seed=3"), "takes no seed=3"),
        (("experiment=zaremba",), "experiment=zaremba is unknown"),
    ]:
        refused = command("certify", *words, cwd=tmp_path, check=False)
        assert refused.returncode == 2 and message in refused.stderr and "Traceback" not in refused.stderr
