"""seqlm diagnose: what it writes and says, and that it changes nothing of a run."""

from __future__ import annotations

import hashlib
import json
import sys

import numpy as np
import pytest

from ..conftest import TINY, seqlm

SMALL = ["lags=9", "times=2", "rows=3", "context=8", "places=12"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diagnose")
    for name, words in {"lstm": [], "elman": ["model=elman"], "both": ["task=bilm", "model=bilm"]}.items():
        seqlm("train", *TINY, *words, "train.steps=8", f"run.name={name}", cwd=folder)
    tagger = ["task=tagging", "model=tagger", "data=taipei", "data.sentences=43", "model.hidden_size=8", "threads=1"]
    seqlm("train", *tagger, "train.batch_size=4", "train.steps=2", "run.name=tags", cwd=folder)
    return folder


def digests(run):
    return {
        path.relative_to(run): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in run.rglob("*")
        if path.is_file() and "diagnose" not in path.parts
    }


def test_pictures_and_numbers_in_the_folder_of_the_run(home):
    pytest.importorskip("matplotlib")
    run = home / "outputs" / "lstm"
    before = digests(run)
    done = seqlm("diagnose", "outputs/lstm", *SMALL, cwd=home)
    assert digests(run) == before
    found = json.loads((run / "diagnose" / "summary.json").read_text())
    assert {path.name for path in (run / "diagnose").glob("*.png")} == {
        "gradients.png", "spectra.png", "context.png", "gates.png", "units.png",
    }  # fmt: skip
    assert [(one["layer"], one["state"], len(one["median"])) for one in found["gradients"]] == [
        (layer, state, 10) for layer in (0, 1) for state in ("h", "c")
    ]
    assert len(found["gates"]) == 6 and found["context"]["context"] == [1, 2, 4, 8] and found["clipping"]["logged"]
    lines = done.stdout.splitlines()
    assert lines[0].split()[1:3] == ["lstm,", "step"] and any("gate, layer 1, output" in line for line in lines)
    again = json.loads(seqlm("diagnose", "outputs/lstm", *SMALL, "--json", "figures=false", cwd=home).stdout)
    assert again == found, "the same numbers each time"


def test_several_side_by_side(home):
    pytest.importorskip("matplotlib")
    seqlm("diagnose", "outputs/lstm", "outputs/elman", *SMALL, "--png", "both.png", "format=svg", cwd=home)
    assert (home / "both.png").read_bytes().startswith(b"\x89PNG")
    assert (home / "outputs" / "elman" / "diagnose" / "gradients.svg").read_text().startswith("<?xml")
    found = json.loads(seqlm("diagnose", "lstm", "elman", *SMALL, "--json", "figures=false", cwd=home).stdout)
    assert set(found) == {"lstm", "elman"} and found["elman"]["gates"] == [] and found["elman"]["gradients"][1]["bound"]


def test_a_model_that_reads_from_both_ends(home):
    found = json.loads(seqlm("diagnose", "both", *SMALL, "--json", "figures=false", cwd=home).stdout)
    assert [one["layer"] for one in found["gradients"]] == [0, 0, 1, 1], "of the one that reads from the beginning"


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "seqlm diagnose needs a run folder"), (["none"], "none does not exist"), (["tags"], "is no language model"),
     (["lstm", "lags=9000"], "lags=9000 with times=8 needs 9,009"), (["lstm", "context=1"], "context=1"),
     (["lstm", "lag=3"], "did you mean lags"), (["lstm", "--png", "x.png"], "--png FILE shows several runs"),
     (["lstm", "both", "--png", "x.foo"], "--png=x.foo must end in .png, .svg or .pdf"),
     (["lstm", "states=x.txt"], "states=x.txt must end in .npz"), (["lstm", "text=''"], "text='' holds no token"),
     (["lstm", "states=none/x.npz"], "there is no folder none"),
     (["lstm", "states=folder.npz"], "states=folder.npz is a folder"),
     (["lstm", "both", "states=x.npz"], "keeps the states of one run, not of 2"),
     (["demo", "rows=3"], "rows=3 figures=false does nothing for seqlm diagnose demo, which takes lags=..."),
     (["lstm", "--pdf"], "seqlm diagnose knows no --pdf"), (["lstm", "split=all"], "split=all")],
)  # fmt: skip
def test_refused(home, words, message):
    (home / "folder.npz").mkdir(exist_ok=True)
    done = seqlm("diagnose", *words, "figures=false", cwd=home, check=False)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) <= 3


def test_a_model_without_memory_and_a_damaged_older_checkpoint(home):
    seqlm("train", *TINY, "model=feed_forward", "train.steps=8", "run.name=window", cwd=home)
    older = sorted((home / "outputs" / "window" / "checkpoints").glob("step-*"))[-2]
    (older / "model.safetensors").write_bytes(b"")
    found = json.loads(seqlm("diagnose", "window", *SMALL, "--json", "figures=false", cwd=home).stdout)
    assert found["gradients"] == [] == found["gates"] and len(found["context"]["loss"]) == 4


def test_without_matplotlib(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = seqlm("diagnose", "lstm", *SMALL, cwd=home, check=False)
    assert done.returncode == 2 and "[plots]" in done.stderr and "figures=false leaves them out" in done.stderr
    assert seqlm("diagnose", "lstm", *SMALL, "figures=false", cwd=home).stdout


def test_units_on_a_text_and_their_states(home):
    words = json.loads((home / "outputs" / "lstm" / "tokenizer.json").read_text())["vocabulary"]
    chosen = f"{words[2]} {words[1]} {words[2]}"
    (home / "link.npz").symlink_to("s.npz")  # it stays, and the states are where it leads
    options = ["--json", "figures=false", f"text={chosen}", "states=link.npz"]
    found = json.loads(seqlm("diagnose", "lstm", *SMALL, *options, cwd=home).stdout)["units"]
    assert len(found["activations"]) == 24 and {len(one) for one in found["activations"].values()} == {
        len(found["pieces"])
    }
    assert (home / "link.npz").is_symlink()
    with np.load(home / "s.npz") as kept:
        assert kept["layer1.c"].shape == (len(found["pieces"]), 1, 12)
        name, values = next(iter(found["activations"].items()))
        layer, state, unit = name.replace(",", "").split()[1:]
        np.testing.assert_allclose(kept[f"layer{layer}.{state}"][:, 0, int(unit)], values, atol=1e-4)


def test_the_textbook_needs_no_run(home):
    pytest.importorskip("matplotlib")
    done = seqlm("diagnose", "demo", "lags=12", "--png", "demo.png", cwd=home)
    assert "W of 0.4, no f" in done.stdout and (home / "demo.png").stat().st_size > 10_000
    assert len(json.loads(seqlm("diagnose", "demo", "lags=12", "--json", cwd=home).stdout)["sent"][0]["norm"]) == 13
    (home / "outputs" / "demo").mkdir()
    assert "the run of this name is outputs/demo" in seqlm("diagnose", "demo", "lags=3", cwd=home).stderr
    (home / "outputs" / "demo").rmdir()
