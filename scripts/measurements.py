"""Tables of what was measured apart from the recipes, for scripts/results.py: speed, reliability, searches, scoring.

Each is Markdown, made of records of results/, and empty where a record has not been made.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"


def read(name: str) -> dict[str, Any]:
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
    if not (data := read("reliability.json")):
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
    if not (data := read("bench-safety.json")):
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
    if not (data := read("search-time.json")):
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


def scoring() -> str:
    """The findings of `scripts/score_speed.py`, as a Markdown table; empty until it has been made."""
    if not (data := read("score-speed.json")):
        return ""
    rows = (
        [f"{row['model']}", str(row["length"]), "yes" if row["ranked"] else "no", f"{row['alone']:.1f}",
         f"{row['together']:.1f}", _times(row["alone"] / row["together"])]
        for row in data["rows"]
    )  # fmt: skip
    titles = ["model", "tokens a line", "rank and entropy", "one at a time", "together", "times as fast"]
    return (
        f"Microseconds a token: `scripts/score_speed.py`, {data['hardware']}, one thread, torch {data['torch']}.\n\n"
        f"{_table(titles, rows)}\n"
    )
