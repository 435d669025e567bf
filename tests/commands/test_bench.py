"""seqlm bench: the real command on small shapes, and its arithmetic."""

from __future__ import annotations

import json
import os

import pytest
import torch

import seqlm.bench.neighbour as seqlm_bench_neighbour
import seqlm.bench.ranks as seqlm_bench_ranks
import seqlm.bench.reading as seqlm_bench_reading
from seqlm.bench.growth import slope
from seqlm.bench.steps import STEPS, Recipe, plain_model, plain_step, seqlm_model, seqlm_step
from seqlm.bench.timing import peak_bytes, take_turns
from seqlm.engines.native import has_bf16_lstm

from ..conftest import seqlm

SMALL = Recipe(4, [4], bptt=3, batch=2, vocabulary=9)


def test_every_cell_and_engine_is_measured(tmp_path, monkeypatch):
    monkeypatch.setitem(STEPS, "char_512", STEPS["char_512"]._replace(embedding=16, sizes=[16], bptt=8, batch=4))
    shown = seqlm(
        "bench", "shapes=[6x3x8x8]", "steps=[char_512]", "engines=[fused]", "seconds=0.01", "threads=1",
        "--json", "b.json", "--png", "b.png", cwd=tmp_path,
    ).stdout  # fmt: skip
    record = json.loads((tmp_path / "b.json").read_text())
    cells = {(row["cell"], row["engine"]) for row in record["layers"]}
    assert {(cell, "fused") for cell in ("elman", "gru", "lstm", "peephole_lstm", "layer_norm_lstm")} < cells
    assert {(name, "torch") for name in ("RNN", "GRU", "LSTM")} < cells
    for row in record["layers"]:
        theirs = next(one for one in record["layers"] if (one["cell"], one["engine"]) == (row["torch"], "torch"))
        half = 0.0005  # all three are rounded to a thousandth
        least, most = ((theirs["both_ms"] + way * half) / (row["both_ms"] - way * half) for way in (-1, 1))
        assert least - half <= row["times_torch"] <= most + half
        assert 0 < row["forward_ms"] < row["both_ms"] and row["peak_mb"] >= 0
    assert {row["engine"] for row in record["steps"]} == (
        {"plain", "fused", "fused bf16"} | ({"plain bf16"} if has_bf16_lstm() else set())
    )
    assert all(row["tokens_per_s"] > 0 for row in record["steps"])
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    assert "x torch" in shown and "whole step of char_512" in shown


def test_other_levels(tmp_path, monkeypatch):
    monkeypatch.setattr("seqlm.bench.products.REPEATED", [(20, 200, 300)])
    monkeypatch.setattr("seqlm.bench.products.AT_ONCE", [(200, 90, 130)])
    monkeypatch.setattr("seqlm.bench.reading.TOKENS", 40)
    monkeypatch.setattr("seqlm.bench.reading.SAMPLED", 3)
    monkeypatch.setitem(seqlm_bench_reading.MODELS, "zaremba_medium", SMALL)
    sizes = {"hidden size": (4, 8), "batch size": (2, 4), "vocabulary": (9, 20)}
    monkeypatch.setattr("seqlm.bench.growth.SIZES", sizes)
    monkeypatch.setattr("seqlm.bench.growth.BASE", SMALL)
    tiny = ["data=markov", "data.tokens=400", "model.hidden_size=4", "train.batch_size=2"]
    monkeypatch.setattr("seqlm.bench.safety.MODELS", {"tiny": tiny})
    shown = seqlm(
        "bench", "product", "reading", "encoding", "growth", "safety", "seconds=0.01", "threads=1",
        "--json", "b.json", "--png", "b.png", cwd=tmp_path,
    ).stdout  # fmt: skip
    record = json.loads((tmp_path / "b.json").read_text())
    assert {row["type"] for row in record["products"]} == {"float32", "bfloat16"}
    assert all(row["gflops"]["torch"] > 0 for row in record["products"])
    contestants = {(row["what"], row["contestant"]) for row in record["reading"]}
    assert contestants == {
        ("evaluation", "plain"),
        ("evaluation", "float32"),
        ("evaluation", "bf16"),
        ("sampling", "float32"),
    }
    assert [(row["tokenizer"], row["mb"]) for row in record["encoding"]] == [("word", 1), ("char", 1)]
    assert [row["size"] for row in record["growth"]] == list(sizes)
    saving, opening, logging = record["safety"]
    assert logging["record_ms"] > 0 and 0 < logging["share"] < 1 and logging["every"] == 20
    assert saving["save_ms"] > 0 and saving["every"] == 500 and 0 < saving["share"] < 1
    assert opening["gb"] == 0.001 and opening["seconds_per_gb"] > 0
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG") and "exponent" in shown
    assert os.environ["SEQLM_CACHE"]


def test_the_slope_of_a_line():
    assert slope([0, 1, 2], [1, 3, 5]) == 2 and slope([0, 1, 2], [1, 0, 1]) == 0


def test_tune_prints_what_is_chosen(tmp_path, monkeypatch):
    monkeypatch.setitem(STEPS, "char_512", SMALL)
    monkeypatch.delenv("SEQLM_TUNE")
    monkeypatch.setenv("SEQLM_CACHE", str(tmp_path))
    shown = seqlm("bench", "tune", "steps=[char_512]", "threads=1", cwd=tmp_path).stdout
    assert "training by LSTMCell of 4x2x4x4, float32, 1 threads" in shown and "bfloat16" in shown
    (file,) = (tmp_path / "choices").glob("*.json")
    questions = json.loads(file.read_text())["answers"]
    assert all(question in shown for question in questions)


def test_beside_busy_processes(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(seqlm_bench_neighbour, "_child", lambda spin, seconds: asked.append(spin) or (100.0, 50.0))
    monkeypatch.setattr(seqlm_bench_neighbour, "BUSY", "pass")
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    shown = seqlm("bench", "neighbour", "--json", "b.json", cwd=tmp_path).stdout
    assert asked == ["7"] * 3 + [None] * 3 + ["7"] * 3 + [None] * 3 + ["7"] * 3 + [None] * 3
    rows = json.loads((tmp_path / "b.json").read_text())["neighbour"]
    assert [row["busy"] for row in rows] == [0, 1, 2] * 2 and rows[5]["of_idle"] == {"training": 1.0, "evaluation": 1.0}
    assert "not set" in shown
    assert seqlm_bench_neighbour.speeds(0.01)[0] > 0


def test_by_ranks(tmp_path, monkeypatch, processes):
    monkeypatch.setattr(seqlm_bench_ranks, "RECIPES", {"small": SMALL})
    monkeypatch.setattr(seqlm_bench_ranks, "START", "forkserver")  # in which OpenMP must not have threads
    groups = {label: (count, 1) for label, (count, _) in seqlm_bench_ranks.GROUPS.items()}
    monkeypatch.setattr(seqlm_bench_ranks, "GROUPS", groups)
    shown = seqlm("bench", "ranks", "seconds=0.1", "--json", "b.json", cwd=tmp_path).stdout
    one, two, half = json.loads((tmp_path / "b.json").read_text())["ranks"]
    assert [row["processes"] for row in (one, two, half)] == list(seqlm_bench_ranks.GROUPS)
    assert one["times_first"] == 1.0 and one["waiting"] == half["waiting"] == 0.0 < two["waiting"] < 1.0
    assert "2 ranks, 1 thread each" in shown


def test_a_word_that_is_no_level(tmp_path):
    done = seqlm("bench", "fast", cwd=tmp_path, check=False)
    assert done.returncode == 2 and "levels=fast is unknown; allowed: layer, step, product" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shapes=[3x4]"], "shapes=3x4 should be steps x batch x input x hidden"),
        (["cells=[lstmm]"], "cells=lstmm is unknown; did you mean lstm, min_lstm? allowed: elman"),
        (["engines=[cudnn]"], "engines=cudnn is unknown; allowed: auto, scan"),
        (["levels=[model]"], "levels=model is unknown; allowed: layer, step, product"),
        (["shape=[3x4x5x6]"], "shape"),
        (["--json"], "--json needs a file: --json FILE"),
        (["seconds=0"], "seconds=0"),
    ],
)
def test_wrong_words_are_told_in_a_line(words, message, tmp_path):
    done = seqlm("bench", *words, cwd=tmp_path, check=False, process=words == ["--json"])
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_medians_of_turns():
    numbers = iter([3.0, 1.0, 2.0, 9.0, 5.0])
    assert take_turns({"one": lambda: (0.5, next(numbers))}, 0)["one"] == (0.5, 3.0)


def test_peak_memory_counts_what_is_alive_at_once():
    def run():
        one = torch.ones(1000)
        two = one + 1
        del one
        three = two * 2
        assert three.numel()
        return 0.0, 0.0

    assert peak_bytes(run, torch.device("cpu")) == 8000


@pytest.mark.parametrize("name", STEPS)
def test_a_whole_step_is_the_same_as_by_hand(name):
    """The model, its penalties, the clip and the step, with the same weights and nothing dropped; so is the carry."""
    recipe = STEPS[name]
    width = {size: 4 + place for place, size in enumerate(sorted({recipe.embedding, *recipe.sizes}))}
    recipe = recipe._replace(
        embedding=width[recipe.embedding], sizes=[width[size] for size in recipe.sizes], vocabulary=11, dropout={}
    )
    torch.manual_seed(0)
    plain, ours = plain_model(recipe), seqlm_model(recipe, "scan")
    for one, other in zip(plain.parameters(), ours.parameters(), strict=True):
        torch.nn.init.uniform_(one, -0.5, 0.5)
        other.data.copy_(one)
    device = torch.device("cpu")
    steps = plain_step(recipe, plain, device, "float32"), seqlm_step(recipe, ours, device, "float32")
    for _ in range(2):
        tokens = torch.randint(11, (recipe.bptt + 1, recipe.batch))
        before = [one.detach().clone() for one in plain.parameters()]
        for step in steps:
            step(tokens)
        for old, one, other in zip(before, plain.parameters(), ours.parameters(), strict=True):
            assert not torch.equal(old, one)
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


def awd(**dropout):
    torch.manual_seed(0)
    model = plain_model(STEPS["awd_ptb"]._replace(embedding=4, sizes=[6, 6, 4], vocabulary=11, dropout=dropout))
    return model, model.start(3), torch.randint(11, (5, 3)), torch.randint(11, (5, 3))


@pytest.mark.parametrize("place", ["embedding", "input", "hidden", "output"])
def test_the_awd_model_by_hand_reads_nothing_through_what_is_dropped(place):
    model, start, one, other = awd(**{place: 1.0})
    assert torch.equal(model(one, start)[0], model(other, start)[0])
    model.eval()
    assert not torch.equal(model(one, start)[0], model(other, start)[0])


def test_the_awd_model_by_hand_drops_recurrent_weights():
    model, start, tokens, _ = awd(weight=1.0)
    found = model(tokens, start)[0]
    model.eval()
    assert not torch.allclose(found, model(tokens, start)[0])
    for rnn in model.rnns:
        torch.nn.init.zeros_(rnn.weight_hh_l0)
    torch.testing.assert_close(found, model(tokens, start)[0])


def test_the_awd_model_by_hand_has_one_mask_for_all_steps():
    model, start, tokens, _ = awd(output=0.5)
    _, _, dropped, raw = model(tokens, start)
    mask = (dropped / raw).round(decimals=4)
    assert set(mask.unique().tolist()) == {0.0, 2.0} and torch.equal(mask, mask[:1].expand_as(mask))
