"""Figures and tables of the tutorial, all of them from records.

python scripts/tutorial.py measure [NAME ...]   train what it shows (an hour and a half), into results/tutorial.json
python scripts/tutorial.py draw                 the figures of docs/tutorial/, and the tables in its pages
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from marked import shows

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

RECORD = ROOT / "results" / "tutorial.json"
PAGES = ROOT / "docs" / "tutorial"
START, END = "<!-- table: made by scripts/tutorial.py -->", "<!-- end of table -->"

WORDS = [
    "data=ptb", "model.hidden_size=200", "model.embedding_size=200", "train.batch_size=20", "train.bptt=35",
    "train.epochs=12", "train.eval_every=null", "optim=sgd", "optim.lr=20", "train.clip_norm=0.25",
    "train.loss_unit=mean", "schedule=cosine", "sample.tokens=0", "precision=bf16", "threads=1",
]  # fmt: skip
DROPOUT = ["model.dropout.input=0.3", "model.dropout.output=0.3"]
BETWEEN = "model.dropout.hidden=0.3"  # layers
IMPROVEMENTS = {
    "one layer": ["model.num_layers=1"],
    "two layers": ["model.num_layers=2"],
    "one layer, dropout": ["model.num_layers=1", *DROPOUT],
    "two layers, dropout": ["model.num_layers=2", *DROPOUT, BETWEEN],
    "two layers, dropout, tied": ["model.num_layers=2", *DROPOUT, BETWEEN, "model.tied=true"],
}
CELLS = ("elman", "lstm", "gru")


def measure_improvements(folder: Path) -> list[dict[str, Any]]:
    """Perplexities of the models, best checkpoint on valid."""
    import seqlm

    found = []
    for number, (name, words) in enumerate(IMPROVEMENTS.items()):
        run = seqlm.train(*WORDS, *words, {"run.root": str(folder), "run.name": f"improvement-{number}"})
        scores = {split: seqlm.evaluate(run, split)["ppl"] for split in ("valid", "test")}
        parameters = sum(parameter.numel() for parameter in run.model.parameters())
        found.append({"name": name, "words": words, "parameters": parameters, **scores})
    return found


def measure_cells(folder: Path) -> dict[str, Any]:
    """Diagnoses of three cells of one size, trained on the same text."""
    import seqlm
    from seqlm.config.values import verb_config
    from seqlm.config.verb_schema import DiagnoseConfig
    from seqlm.diagnose.diagnosis import diagnose

    options = verb_config("diagnose", DiagnoseConfig, ["context=64"])
    found = {}
    for cell in CELLS:
        words = [f"model={cell}", "model.hidden_size=96", "train.steps=1500", "threads=1"]
        found[cell] = diagnose(seqlm.train(*words, {"run.root": str(folder), "run.name": cell}), options)
        del found[cell]["units"]
    return found


def measure_textbook(_: Path) -> dict[str, Any]:
    """The gradient of ones, for the picture of `seqlm diagnose demo`."""
    from seqlm.diagnose.textbook import textbook

    return textbook(50)


MEASURED = {"improvements": measure_improvements, "cells": measure_cells, "textbook": measure_textbook}


def measure(names: list[str]) -> None:
    """Bring the named parts of the record up to date, all of them if none is named."""
    import torch

    from seqlm.device import hardware

    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    for name in names or list(MEASURED):
        with tempfile.TemporaryDirectory() as folder:
            record[name] = MEASURED[name](Path(folder))
        record |= {"hardware": hardware(torch.device("cpu")), "torch": torch.__version__}
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def table(record: dict[str, Any]) -> str:
    """The improvements, as Markdown."""
    lines = ["| model | parameters | valid ppl | test ppl |", "|---|---:|---:|---:|"]
    for row in record["improvements"]:
        lines.append(f"| {row['name']} | {row['parameters']:,} | {row['valid']:.1f} | {row['test']:.1f} |")
    about = f"One seed; {record['hardware']}, torch {record['torch']}, `results/tutorial.json`."
    return "\n".join([*lines, "", about])


def draw() -> None:
    """Figures and tables, from the record alone."""
    from seqlm.diagnose.figures import draw_side_by_side, draw_textbook

    record = json.loads(RECORD.read_text(encoding="utf-8"))
    draw_textbook(record["textbook"], PAGES / "textbook.png")
    draw_side_by_side(record["cells"], PAGES / "cells.png")
    shows(PAGES / "language.md", START, END, f"{table(record)}\n", write=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"] and set(sys.argv[2:]) <= set(MEASURED):
        measure(sys.argv[2:])
    elif sys.argv[1:] == ["draw"]:
        draw()
    else:
        sys.exit(str(__doc__))
