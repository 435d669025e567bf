"""Tiny runs of every task, in settings that put all that can change the next step into a checkpoint."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .jobs import Action
from .runner import Case

TRAINING = (
    "model.hidden_size=8", "optim.lr=0.01", "train.batch_size=4", "train.bptt=7", "train.eval_batch_size=3",
    "train.steps=24", "train.eval_every=6", "train.log_every=3", "checkpoint.every=4", "sample.tokens=4", "threads=1",
    "engine=scan",
)  # fmt: skip
LETTERS = ("data=markov", "data.tokens=600", "data.symbols=5")
COPIES = ("data=copy", "data.symbols=4", "data.min_length=2", "data.max_length=4", "data.sizes=[40,8,8]")
TASKS = {
    "lm": (*LETTERS, "model.num_layers=1"),
    "tagging": ("task=tagging", "model=tagger", "data=taipei", "data.sentences=40"),
    "classification": ("task=classification", "model=classifier", "data=labelled", "data.path={data}/labelled"),
    "joint": ("task=joint", "model=joint", "data=atis", "data.path={data}/joint"),
    "seq2seq": ("task=seq2seq", "model=seq2seq", *COPIES),
    "conditional": (
        "task=conditional", "model=conditional", "data=labelled", "data.path={data}/labelled",
        "data.rename={words: target}",
    ),
    "cloze": ("task=cloze", "model=cloze", *LETTERS),
    "bilm": ("task=bilm", "model=bilm", *LETTERS),
    "regression": ("task=regression", "model=regressor", "data=adding", "data.length=6", "data.sizes=[40,8,8]"),
}  # fmt: skip
STREAMS = ("lm", "bilm")  # tasks that read contiguous streams of a text
DROPOUT = tuple(f"model.dropout.{place}=0.2" for place in ("embedding", "input", "output"))
SETTINGS = {
    "plain": ("schedule=constant",),
    "dropout": (*DROPOUT, "schedule=plateau"),
    "averaging": ("averaging=nt_asgd", "averaging.patience=1", "optim=sgd", "optim.lr=0.5"),
    "accumulation": ("train.accumulate=2", "averaging=ema", *DROPOUT),
    "random chunks": ("train.bptt_std=2", "train.bptt_half_prob=0.3", "model.dropout.output=0.2"),
    "bf16": ("precision=bf16", "engine=fused", "optim=adamw", "schedule=one_cycle"),
    "retention": (
        "optim=sgd", "optim.lr=0.5", "optim.momentum=0.9", "checkpoint.keep_last=1", "checkpoint.keep_best=2",
        "checkpoint.every=2", "train.l2=0.001", "model.dropout.state=0.2",
    ),
}  # fmt: skip
CLOCKS = ("seconds", "train/tokens_per_s")  # what a metric record holds that no two runs share


def write_data(folder: Path) -> None:
    """Small files of the kinds that need some: a label for each text, and tags with a label."""
    draw = random.Random(0)
    cities, ways = ("rome", "oslo", "lima"), ("from", "to")
    for split, count in (("train", 40), ("valid", 8), ("test", 8)):
        rows = []
        for _ in range(count):
            asked = draw.choice(("fare", "flight"))
            words = [(asked, "O"), *(pair for way in ways for pair in ((way, "O"), (draw.choice(cities), f"B-{way}")))]
            rows.append((*(" ".join(column) for column in zip(*words, strict=True)), asked))
        (folder / "joint" / split).mkdir(parents=True)
        for name, column in zip(("seq.in", "seq.out", "label"), zip(*rows, strict=True), strict=True):
            (folder / "joint" / split / name).write_text("\n".join(column) + "\n", encoding="utf-8")
        (folder / "labelled").mkdir(exist_ok=True)
        lines = "".join(f"{label}\t{words}\n" for words, _, label in rows)
        (folder / "labelled" / f"{split}.tsv").write_text(lines, encoding="utf-8")


def words_of(case: Case, task: str, setting: str = "plain", *more: str) -> list[str]:
    """The words of `seqlm train` for a task in a setting, without a place."""
    data = case.once("data", write_data)
    own = SETTINGS[setting]
    if setting == "random chunks" and task not in STREAMS:
        own = ("averaging=mean", "averaging.start=0.3", *DROPOUT)  # whole sequences have no chunks
    if task == "regression":  # numbers have no embedding
        own = tuple(word for word in own if "dropout.embedding" not in word)
    if setting == "retention" and task == "cloze":
        own = tuple(word for word in own if "dropout.state" not in word)
    # The last word of a key decides, as it would be refused twice.
    keyed = {word.split("=", 1)[0]: word for word in (*TRAINING, *TASKS[task], *own, *more)}
    return [word.replace("{data}", str(data)) for word in keyed.values()]


def training(case: Case, words: Sequence[str], root: Path | None = None, name: str = "run") -> Action:
    """`seqlm train WORDS` as an action of a job; composed once for all cases, since that takes longer than to train."""
    key = hashlib.sha256(json.dumps(list(words)).encode()).hexdigest()[:16]

    def compose(folder: Path) -> None:
        from seqlm.config.compose import compose_words

        (folder / "config").write_bytes(pickle.dumps(compose_words(words)))

    stored = (case.once(f"config-{key}", compose) / "config").read_bytes()

    def act() -> None:
        from seqlm import cli
        from seqlm.commands import train as verb
        from seqlm.training.launch import train

        config, choices = pickle.loads(stored)
        run = replace(config.run, root=str(root or case.folder), name=name)
        # Errors end as in the command.
        verb.main = lambda _: train(replace(config, run=run), choices, words)  # type: ignore[assignment]
        sys.argv = ["seqlm", "train"]
        cli.main()

    return act


def outcome(run: Path) -> dict[str, Any]:
    """All of a run that must not depend on what happened to it: weights, metrics, samples, pointers; no clock."""
    metrics, weights = [], {}
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        metrics.append({key: value for key, value in record.items() if key not in CLOCKS})
    for pointer in ("last", "best"):
        name = (run / "checkpoints" / pointer).read_text(encoding="utf-8").strip()
        data = (run / "checkpoints" / name / "model.safetensors").read_bytes()
        weights[pointer] = f"{name} {hashlib.sha256(data).hexdigest()}"
    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    facts = {key: info.get(key) for key in ("status", "best_step", "metrics", "steps", "tokens")}
    samples = {
        path.name: path.read_text(encoding="utf-8", errors="replace") for path in sorted((run / "samples").glob("*"))
    }
    return {"metrics": metrics, "weights": weights, "facts": facts, "samples": samples}


def trained(case: Case, task: str, setting: str = "plain") -> tuple[list[str], Path]:
    """The words of an undisturbed run, and its folder with `outcome.json`; one for all cases."""
    words = words_of(case, task, setting)

    def make(folder: Path) -> None:
        done = case.run(training(case, words, folder), folder=folder)
        if done.code:
            raise AssertionError(f"{' '.join(words)}: {done.tail(30)}")
        found = {"outcome": outcome(folder / "run"), "seconds": done.seconds}
        (folder / "outcome.json").write_text(json.dumps(found), encoding="utf-8")

    return words, case.once(f"whole-{task}-{setting}", make)


def difference(one: Any, other: Any, where: str = "") -> str:
    """The first place where two outcomes differ; empty if none does."""
    if type(one) is not type(other) or not isinstance(one, (dict, list)):
        return "" if one == other else f"{where}: {one!r} -> {other!r}"[:400]
    if len(one) != len(other):
        return f"{where}: {len(one)} -> {len(other)}: {str(one)[-300:]} -> {str(other)[-300:]}"
    keys = one if isinstance(one, dict) else range(len(one))
    if isinstance(one, dict) and one.keys() != other.keys():
        return f"{where}: {list(one)} -> {list(other)}"
    return next((found for key in keys if (found := difference(one[key], other[key], f"{where} {key}".strip()))), "")


def train_or_resume(case: Case, words: Sequence[str], run: Path) -> Action | Sequence[object]:
    """The action that brings a run further: it is started if it does not exist yet."""
    return ["resume", run] if (run / "run.json").is_file() else training(case, words, run.parent, run.name)


def litter(run: Path) -> list[str]:
    """Hidden files and folders other than the lock, which no run should hold."""
    return sorted(str(path.relative_to(run)) for path in run.rglob(".*") if path.name != ".lock")
