"""Records of finished runs, and the tables in docs/ and README.md that are made from records.

    python scripts/results.py record RUN      write results/<experiment>[-<engine>][-<precision>][-seed<seed>].json
                                              from a scored run, finished or interrupted
    python scripts/results.py table           rewrite the tables in docs/ and README.md
    python scripts/results.py table --check   fail if they do not show what results/ says

A record holds no path and no text: what was measured, with which code, on which hardware. Runs that differ in nothing
but the seed are one row of a table, with their mean.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import measurements
from marked import shows

from seqlm.bench import scaling
from seqlm.config.comparison import IGNORED_KEYS, differences
from seqlm.config.compose import experiment
from seqlm.config.migrate import migrate_flat
from seqlm.config.schema import ENGINES
from seqlm.errors import SeqlmError
from seqlm.evaluation import reproduction
from seqlm.runs.folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
RESULTS, EXPERIMENTS = ROOT / "results", ROOT / "configs" / "experiment"
README, DOCS = ROOT / "README.md", ROOT / "docs"
HEADLINES = ("(no arguments)", "zaremba_small", "laptop", "laptop_char", "atis_slots", "atis_intent_lm", "atis_joint")
START, END = "<!-- results: made by scripts/results.py -->", "<!-- end of results -->"


def record(folder: str) -> Path:
    """Write the record of a run, scored with `seqlm eval RUN split=...`: on valid, and on test if it is finished."""
    run = RunFolder.open(folder)
    setting = experiment(reproduction.experiment_of(run))
    path, written = RESULTS / reproduction.file_name(run, setting), reproduction.record(run, setting)
    path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return path


def table() -> str:
    """The results as a Markdown table: every experiment in language modelling, run or not."""
    lines = [
        "| `seqlm train ...` | parameters | published test | measured test | valid | length | time | tokens/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in ["default", *(name for name in _experiments() if reproduction.task_of(name) == "lm")]:
        quoted = _quoted(name)
        for words, found in _settings(name):
            lines.append(_row(words, quoted, found) if found else f"| {words} | | {quoted} | not run yet | | | | |")
    return "\n".join(lines)


def other_tasks() -> str:
    """The same of every experiment in another task: its own metrics, shares in percent, and how much seeds differ."""
    lines = [
        "Other tasks: shares in percent, mean ± standard deviation over seeds",
        "",
        "| `seqlm train ...` | task | parameters | published test | measured test | valid | time |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in _experiments():
        if (task := reproduction.task_of(name)) != "lm":
            quoted = _quoted(name, named=True)
            for words, found in _settings(name):
                shown = _shown(found) if found else "not run yet | | |"
                total = f"{found[0]['parameters']['total']:,} " if found else ""
                lines.append(f"| {words} | {task} | {total}| {quoted} | {shown}")
    return "\n".join(lines)


def _shown(records: list[dict[str, Any]]) -> str:
    """Test, valid and time a run, as cells."""
    metrics = reproduction.metrics_of(records[0])

    def shown(split: str, metric: str) -> str:
        values = [metrics[metric].quoted(record["scores"][split][metric]) for record in records]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.2f}{spread}"

    def all_shown(split: str) -> str:
        return ", ".join(
            f"{metrics[metric].title or metric} {shown(split, metric)}" for metric in records[0]["reported"]
        )

    seeds = f"({len(records)} seed{'s' * (len(records) > 1)})"
    test = f"**{all_shown('test')}** {seeds}" if all("test" in record["scores"] for record in records) else "not yet"
    minutes = statistics.mean(record["seconds"] for record in records) / 60
    time = ", ".join(filter(None, [f"{minutes:.{0 if minutes >= 10 else 1}f} min", _so_far(records[0])]))
    return f"{test} | {all_shown('valid')} | {time} |"


def _so_far(record: dict[str, Any]) -> str:
    """How far an interrupted run came: "3 of 500 epochs" if it was evaluated after each; nothing of a finished one."""
    if record.get("status", "finished") == "finished":
        return ""
    config = record["config"]
    if config["train.epochs"] and config["train.eval_every"] is None:
        return f"{len(record['curve'])} of {config['train.epochs']} epochs"
    return f"{record['steps']:,} steps, not finished"


def _quoted(name: str, named: bool = False) -> str:
    """The published figure of an experiment on test, if there is one, with the name of its metric if `named`."""
    figures = reproduction.published_of(name)
    if "test" not in figures:
        return ""
    known = reproduction.metrics_of({}).get(figures["unit"])
    metric = f"{(known and known.title) or figures['unit']} " if named else ""
    return f"{metric}{'about ' if figures.get('about') else ''}{figures['test']:g}"


def _experiments() -> list[str]:
    return [path.stem for path in sorted(EXPERIMENTS.glob("*.yaml"))]


def _settings(name: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """What to type for an experiment and the records of it, for each engine or precision that was forced."""
    words = "(no arguments)" if name == "default" else f"`experiment={name}`"
    records = {words: _seeds(name)}
    records |= {f"`experiment={name} engine={engine}`": _seeds(f"{name}-{engine}") for engine in ENGINES}
    records |= {f"`experiment={name} precision=bf16`": _seeds(f"{name}-bf16")}
    return [(words, found) for words, found in records.items() if found] or [(words, [])]


def _seeds(name: str) -> list[dict[str, Any]]:
    """The records of one setting, each with a seed of its own."""
    paths = [path for path in [RESULTS / f"{name}.json", *sorted(RESULTS.glob(f"{name}-seed*.json"))] if path.is_file()]
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    records = [{**record, "config": migrate_flat(record["config"])} for record in records]
    if len(records) > 1 and any(_so_far(record) for record in records):
        raise SeqlmError(f"{paths[0].stem}: no mean over seeds while one of {len(records)} is not finished")
    for path, other in zip(paths[1:], records[1:], strict=True):
        changed = [
            f"{key}: {old} -> {new}"
            for key, old, new in differences(records[0]["config"], other["config"])
            if key in records[0]["config"] and key in other["config"] and not key.startswith(IGNORED_KEYS)
        ]
        if changed:
            raise SeqlmError(f"{path.name} is not the setting of {paths[0].name}: {'; '.join(changed)}")
    return records


def _row(words: str, quoted: str, records: list[dict[str, Any]]) -> str:
    first = records[0]
    unit = "ppl" if first["config"]["data.tokenizer._target_"].endswith("WordTokenizer") else "bpc"
    digits, suffix = (3, " bits/char") if unit == "bpc" else (2, "")

    def mean(split: str) -> str:
        values = [record["scores"][split][unit] for record in records if split in record["scores"]]
        some = f" ({len(values)} of them)" if len(values) < len(records) else ""
        return f"{statistics.mean(values):.{digits}f}{some}" if values else ""

    test, valid = (
        mean(split) + (f", adapted {adapted}" if (adapted := mean(f"{split}_adapted")) else "")
        for split in ("test", "valid")
    )
    seeds = f" ({len(records)} seeds)" if len(records) > 1 else ""
    epochs = first["config"].get("train.epochs")
    length = f"{epochs} epochs" if epochs else f"{statistics.mean(record['steps'] for record in records):,.0f} steps"
    length = _so_far(first) or length
    tokens, seconds = (sum(record[key] for record in records) for key in ("tokens", "seconds"))
    minutes = f"{seconds / len(records) / 60:.0f} min"
    total = f"{first['parameters']['total']:,}"
    score = f"**{test}**{suffix}{seeds}" if test else "not yet"
    return f"| {words} | {total} | {quoted} | {score} | {valid} | {length} | {minutes} | {tokens / seconds:,.0f} |"


def headlines(texts: str, others: str) -> str:
    """A short table of measured results, of rows of the two long ones."""
    lines = ["| `seqlm train ...` | published test | measured test |", "|---|---|---|"]
    for row, published, measured in [*((row, 3, 4) for row in texts.splitlines()),
                                     *((row, 4, 5) for row in others.splitlines())]:  # fmt: skip
        cells = [cell.strip() for cell in row.split("|")]
        if len(cells) > 5 and cells[1].strip("`").removeprefix("experiment=") in HEADLINES:
            lines.append(f"| {cells[1]} | {cells[published]} | {cells[measured]} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("record").add_argument("run")
    verbs.add_parser("table").add_argument("--check", action="store_true")
    options = parser.parse_args()
    try:
        if options.verb == "record":
            print(record(options.run))
            return 0
        texts, others = table(), other_tasks()
        data = measurements.read("bench-cpu.json")
        short = [headlines(texts, others), *([measurements.ratios(data)] if data else [])]
        shown = {
            README: "\n\n".join(short) + "\n",
            DOCS / "results.md": f"{texts}\n\n{others}\n{measurements.speed(data) if data else ''}",
            DOCS / "reliability.md": measurements.reliability(),
            DOCS / "score.md": measurements.scoring(),
            DOCS / "searches.md": measurements.pruning(),
            DOCS / "scaling.md": f"\n{scaling.tables(data)}\n" if data else "",
        }
        stale = [path for path, made in shown.items() if not shows(path, START, END, made, write=not options.check)]
    except SeqlmError as error:
        print(f"results: {error}", file=sys.stderr)
        return error.exit_code
    return int(bool(stale) and options.check)


if __name__ == "__main__":
    sys.exit(main())
