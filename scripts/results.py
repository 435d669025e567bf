"""Records of finished runs, and the tables of docs/{results,reliability,scaling}.md and README.md made from them.

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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

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


def measured(name: str) -> dict[str, Any]:
    """A record of measurements; empty until it has been made."""
    path = RESULTS / name
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return data


def ratios(data: Mapping[str, Any]) -> str:
    """A short table of whole steps: times as fast as a loop by hand around nn.LSTM in float32."""
    engines = ("plain bf16", "auto", "auto bf16")
    titles = ("the loop by hand, autocast", "seqlm", "seqlm, `precision=bf16`")
    title = f"a step, times as fast as a loop by hand in float32 ({data['hardware']})"
    lines = [f"| {title} | {' | '.join(titles)} |", "|---|" + "---|" * len(titles)]
    for step, found in _by_step(data).items():
        lines.append(f"| {step} | {' | '.join(_times(found[engine]['times_plain']) for engine in engines)} |")
    return "\n".join(lines)


def speed(data: Mapping[str, Any]) -> str:
    """All that `seqlm bench` measured, as Markdown tables."""
    tables = [
        f"## Speed\n\n{data['hardware']}, {data['device']}; torch {data['torch']}; a large matrix product reaches "
        f"{data['gemm_peak_gflops']} GFLOP/s. Contestants of a table took turns in one run of `seqlm bench`.",
        _steps(data),
        _lstm_layers(data),
        _layers(data),
        _products(data),
        _reading(data),
        _neighbours(data),
        _growth(data),
        "![A step's time by the sizes of model and batches](bench-cpu-growth.png)",
        "![Milliseconds of every cell and engine](bench-cpu.png)",
    ]
    return "\n" + "\n\n".join(tables) + "\n"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _by_step(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of whole steps by step and engine."""
    steps: dict[str, dict[str, Any]] = {}
    for row in data["steps"]:
        steps.setdefault(row["step"], {})[row["engine"]] = row
    return steps


def _steps(data: Mapping[str, Any]) -> str:
    steps = _by_step(data)
    engines = list(next(iter(steps.values())))
    rows = (
        [step, *(f"{found[e]['tokens_per_s']:,.0f} ({_times(found[e]['times_plain'])})" for e in engines)]
        for step, found in steps.items()
    )
    return _table(["whole training step, tokens/s (times a plain loop)", *engines], rows)


def _lstm_layers(data: Mapping[str, Any]) -> str:
    ours = ["auto", "native", "fused", "persistent"]
    engines = [*ours, "torch bf16", *(f"{engine} bf16" for engine in ours)]
    found = {(tuple(row["shape"]), row["engine"]): row for row in data["layers"] if row["torch"] == "LSTM"
             and row["cell"] in ("lstm", "LSTM")}  # fmt: skip
    rows = (
        [", ".join(map(str, shape)), *(_times(found[shape, engine]["times_torch"]) for engine in engines)]
        for shape in dict.fromkeys(shape for shape, _ in found)
    )
    return _table(["LSTM layer T, B, I, H: times nn.LSTM in float32", *engines], rows)


def _layers(data: Mapping[str, Any]) -> str:
    rows = [row for row in data["layers"] if row["engine"] == "fused"]
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    against = {row["cell"]: row["torch"] for row in rows}
    found = {(tuple(row["shape"]), row["cell"]): row for row in rows}

    def text(row: Mapping[str, Any]) -> str:
        return f"{row['times_torch']:.2f}" + ("" if row["times_scan"] is None else f" ({row['times_scan']:.1f})")

    return (
        "`engine=fused`, forward and backward, float32: times as fast as torch's own kernel "
        "(as `engine=scan`, the same cell as a plain loop)\n\n"
    ) + _table(
        ["T, B, I, H", *(f"{cell} / nn.{against[cell]}" for cell in cells)],
        (
            [
                ", ".join(map(str, shape)),
                *(text(found[shape, cell]) if (shape, cell) in found else "" for cell in cells),
            ]
            for shape in dict.fromkeys(shape for shape, _ in found)
        ),
    )


def _products(data: Mapping[str, Any]) -> str:
    ways = ("torch", "mkl", "onednn")
    rows = (
        [", ".join(map(str, row["shape"])), row["type"], *(str(row["gflops"].get(way, "")) for way in ways)]
        for row in data["products"]
    )
    return _table(["product (rows, inputs, outputs), GFLOP/s", "type", *ways], rows)


def _reading(data: Mapping[str, Any]) -> str:
    rows = [
        [row["what"], row["model"], row["contestant"], f"{row['tokens_per_s']:,.0f}",
         "" if row["times_plain"] is None else _times(row["times_plain"])]
        for row in data["reading"]
    ]  # fmt: skip
    rows += [
        [f"encoding {row['mb']} MB of text", row["tokenizer"], "", f"{row['seconds']:.1f} s", ""]
        for row in data["encoding"]
    ]
    return _table(["one stream", "model", "contestant", "tokens/s", "times a plain loop"], rows)


def _neighbours(data: Mapping[str, Any]) -> str:
    rows = (
        [row["spin"] or "not set", str(row["busy"]),
         *(f"{row['tokens_per_s'][what]:,.0f} ({row['of_idle'][what]:.0%})" for what in ("training", "evaluation"))]
        for row in data["neighbour"]
    )  # fmt: skip
    return _table(["GOMP_SPINCOUNT", "busy processes beside", "training, tokens/s (of idle)", "evaluation"], rows)


def _growth(data: Mapping[str, Any]) -> str:
    rows = (
        [row["size"], ", ".join(f"{value:,}: {ms:.1f}" for value, ms in zip(row["values"], row["ms"], strict=True)),
         f"{row['exponent']:.2f}"]
        for row in data["growth"]
    )  # fmt: skip
    return _table(["a step's time grows with", "milliseconds", "exponent"], rows)


def reliability() -> str:
    """What `scripts/campaign.py full` found, as a Markdown table; empty until it has been made."""
    if not (data := measured("reliability.json")):
        return ""
    rows = (
        [f"`{name}`", one["about"], ", ".join(f"{count:,} {what}" for what, count in one["counts"].items()),
         str(one["failures"]), ", ".join(f"`{mutant}`" for mutant, noticed in one["mutants"].items() if noticed),
         f"{one['seconds'] / 60:.1f} min"]
        for name, one in data.items()
    )  # fmt: skip
    where = {f"{one['hardware']}, torch {one['torch']}, Python {one['python']}" for one in data.values()}
    table = _table(["campaign", "attack", "seen", "failures", "mutants that it noticed", "took"], rows)
    return f"{'; '.join(sorted(where))}.\n\n{table}\n{_safety()}"


def _safety() -> str:
    """The findings of `seqlm bench safety`, as a Markdown table; empty until it has been made."""
    if not (data := measured("bench-safety.json")):
        return ""
    saving = [
        [f"checking and saving, {row['model']}", f"{row['save_ms']:.0f} ms every {row['every']} steps of "
         f"{row['step_ms']:.0f} ms: {row['share']:.2%} of the time"]
        for row in data["safety"] if row["what"] == "saving"
    ]  # fmt: skip
    opening = [
        ["opening a cache that is verified", f"{row['seconds_per_gb']:.2f} s a GB"]
        for row in data["safety"] if row["what"] == "opening"
    ]  # fmt: skip
    logging = [
        ["a record in `metrics.jsonl` and TensorBoard", f"{row['record_ms']:.2f} ms every {row['every']} steps: "
         f"{row['share']:.3%} of the time"]
        for row in data["safety"] if row["what"] == "logging"
    ]  # fmt: skip
    title = f"`seqlm bench safety`, {data['hardware']}"
    return f"\n{_table([title, 'costs'], saving + opening + logging)}\n"


def pruning() -> str:
    """The findings of `scripts/search_time.py`, as a Markdown table; empty until it has been made."""
    if not (data := measured("search-time.json")):
        return ""
    rows = (
        [f"`pruner={row['pruner']}`", f"{row['pruned']} of {row['trials']}", f"{row['steps']:,}",
         f"{row['seconds']:.0f} s", f"{row['best']:.4f}"]
        for row in data["rows"]
    )  # fmt: skip
    spared = data["spared"]
    return (
        f"The same random trials twice: `scripts/search_time.py`, {data['hardware']}, torch {data['torch']}.\n\n"
        f"{_table(['', 'pruned', 'steps', 'by the clock', 'best loss'], rows)}\n\n"
        f"{spared['steps']:.0%} of the steps and {spared['seconds']:.0%} of the time were spared.\n"
    )


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
        data = measured("bench-cpu.json")
        short = [headlines(texts, others), *([ratios(data)] if data else [])]
        shown = {
            README: "\n\n".join(short) + "\n",
            DOCS / "results.md": f"{texts}\n\n{others}\n{speed(data) if data else ''}",
            DOCS / "reliability.md": reliability(),
            DOCS / "searches.md": pruning(),
            DOCS / "scaling.md": f"\n{scaling.tables(data)}\n" if data else "",
        }
        stale = [path for path, made in shown.items() if not shows(path, START, END, made, write=not options.check)]
    except SeqlmError as error:
        print(f"results: {error}", file=sys.stderr)
        return error.exit_code
    return int(bool(stale) and options.check)


if __name__ == "__main__":
    sys.exit(main())
