"""Records of finished runs, and the README's table made from them.

    python scripts/results.py record RUN      write results/<experiment>[-<engine>].json from a run scored by seqlm eval
    python scripts/results.py table           rewrite the table in README.md
    python scripts/results.py table --check   fail if README.md does not show what results/ says

A record holds no path and no text: what was measured, with which code, on which hardware.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from seqlm import certify
from seqlm.cli import preset
from seqlm.errors import SeqlmError
from seqlm.run import RunFolder
from seqlm.schema import ENGINES

ROOT = Path(__file__).resolve().parents[1]
RESULTS, EXPERIMENTS, README = ROOT / "results", ROOT / "configs" / "experiment", ROOT / "README.md"
START, END = "<!-- results: made by scripts/results.py -->", "<!-- end of results -->"


def record(folder: str) -> Path:
    """Write the record of a run; both splits must have been scored with `seqlm eval RUN split=... batch_size=1`."""
    run = RunFolder.open(folder)
    path = RESULTS / certify.file_name(run)
    written = certify.record(run, preset(certify.experiment_of(run)))
    path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return path


def table() -> str:
    """The results as a Markdown table: every experiment in language modelling, run or not."""
    lines = [
        "| `seqlm train ...` | parameters | published test | measured test | valid | length | time | tokens/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    experiments = [path for path in sorted(EXPERIMENTS.glob("*.yaml")) if certify.task_of(path.stem) == "lm"]
    for experiment in [None, *experiments]:
        name = experiment.stem if experiment else "default"
        words = f"experiment={name}" if experiment else ""
        quoted = certify.quoted(name).get("test", "")
        records = {"": RESULTS / f"{name}.json"} | {f" engine={e}": RESULTS / f"{name}-{e}.json" for e in ENGINES}
        found = {suffix: path for suffix, path in records.items() if path.is_file()}
        if not found:
            lines.append(f"| `{words}` | | {quoted} | not run yet | | | | |")
        for suffix, path in found.items():
            lines.append(_row(f"`{words}{suffix}`" if words else "(no arguments)", quoted, path))
    return "\n".join(lines)


def _row(words: str, quoted: str, path: Path) -> str:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    unit = "ppl" if data["config"]["data.tokenizer._target_"].endswith("WordTokenizer") else "bpc"
    digits, suffix = (3, " bits/char") if unit == "bpc" else (2, "")
    scores = {split: f"{score[unit]:.{digits}f}" for split, score in data["scores"].items()}
    test, valid = (
        scores[split] + (f", adapted {scores[f'{split}_adapted']}" if f"{split}_adapted" in scores else "")
        for split in ("test", "valid")
    )
    epochs = data["config"].get("train.epochs")
    length = f"{epochs} epochs" if epochs else f"{data['steps']:,} steps"
    minutes = f"{data['seconds'] / 60:.0f} min"
    speed = f"{data['tokens'] / data['seconds']:,.0f}"
    total = f"{data['parameters']['total']:,}"
    return f"| {words} | {total} | {quoted} | **{test}**{suffix} | {valid} | {length} | {minutes} | {speed} |"


def speed() -> str:
    """What `seqlm bench` measured, as Markdown tables; empty until it has been run."""
    path = RESULTS / "bench-cpu.json"
    if not path.is_file():
        return ""
    data = json.loads(path.read_text(encoding="utf-8"))
    rows = [row for row in data["layers"] if row["engine"] == "fused"]
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    against = {row["cell"]: row["torch"] for row in rows}
    lines = [
        f"`engine=fused`, forward and backward, {data['device']}: times as fast as torch's own kernel "
        "(as `engine=scan`, the same cell as a plain loop)",
        "",
        "| T, B, I, H | " + " | ".join(f"{cell} / nn.{against[cell]}" for cell in cells) + " |",
        "|---|" + "---|" * len(cells),
    ]
    for shape in dict.fromkeys(tuple(row["shape"]) for row in rows):
        texts = []
        for cell in cells:
            row = next((one for one in rows if one["cell"] == cell and tuple(one["shape"]) == shape), None)
            scan = "" if row is None or row["times_scan"] is None else f" ({row['times_scan']:.1f})"
            texts.append("" if row is None else f"{row['times_torch']:.2f}{scan}")
        lines.append(f"| {', '.join(map(str, shape))} | {' | '.join(texts)} |")
    engines = list(dict.fromkeys(row["engine"] for row in data["steps"]))
    lines += [
        "",
        "| whole training step, tokens/s (times a plain loop) | " + " | ".join(engines) + " |",
        "|---|" + "---|" * len(engines),
    ]
    for step in dict.fromkeys(row["step"] for row in data["steps"]):
        found = {row["engine"]: row for row in data["steps"] if row["step"] == step}
        texts = [f"{found[e]['tokens_per_s']:,.0f} ({found[e]['times_plain']:.2f})" for e in engines]
        lines.append(f"| {step} | {' | '.join(texts)} |")
    return "\n" + "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("record").add_argument("run")
    verbs.add_parser("table").add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.verb == "record":
        try:
            print(record(options.run))
        except SeqlmError as error:
            print(f"results: {error}", file=sys.stderr)
            return error.exit_code
        return 0
    before = README.read_text(encoding="utf-8")
    head, rest = before.split(START)
    after = f"{head}{START}\n{table()}\n{speed()}{END}{rest.split(END, 1)[1]}"
    if options.check:
        return int(after != before)
    README.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
