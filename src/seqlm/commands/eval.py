"""seqlm eval: score a split of a run's data, every target token exactly once."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.metrics import by_name
from ..config.values import as_typed, changed_keys, verb_config
from ..config.verb_schema import EvalConfig
from ..errors import ConfigError, describe
from ..files import to_json, write_atomically
from ..runs import finding
from ..runs.folder import RunFolder
from ..runs.table import table
from ..terminal import labelled, status
from .words import run_and_words

if TYPE_CHECKING:
    from ..runs.load import LoadedRun


def main(words: Sequence[str]) -> None:
    """`seqlm eval RUN [key=value ...] [--json]`."""
    folder, changes = run_and_words("eval", [word for word in words if word != "--json"])
    evaluate_run(folder, changes, "--json" in words)


def evaluate_run(folder: str, words: Sequence[str], as_json: bool) -> None:
    """Print and keep the scores of a split."""
    options = with_starts(verb_config("eval", EvalConfig, words))
    check(options)
    for run in (folder, *options.ensemble):
        finding.check_exists(RunFolder.open(run).checkpoints, options.checkpoint)
    with status("loading torch"):  # once all that can be checked without it is right
        from ..device import prepare
        from ..evaluation.scoring import load_runs, score_runs
    device = prepare(options.device, options.precision, options.threads)
    runs = load_runs(folder, options)
    for one in runs:
        one.model.to(device)
    result, measured = score_runs(runs, options, device, _log)
    if options.file is None:
        _keep(runs[0], f"eval-{options.split}{_kind(result)}.json", result, options)  # first: who reads may be gone
    print(to_json(result) if as_json else _shown(result, runs[0].task.rows(measured)), flush=True)


def with_starts(options: EvalConfig) -> EvalConfig:
    """The options with numbers that a search starts from where none were given: dynamic.lr, and cache.size.

    A file is scored as a split of its own. Raises ConfigError if another is chosen too.
    """
    dynamic, memory = options.dynamic, options.cache
    if dynamic.search and dynamic.lr is None and (dynamic.rule, dynamic.norm) == ("rms", "tensors"):
        dynamic = replace(dynamic, lr=5e-5)
    if memory.search and memory.size is None:
        memory = replace(memory, size=2000)
    if options.file is not None:
        if options.split != verb_config("eval", EvalConfig, []).split:
            raise ConfigError(f"file={options.file} is scored as a whole; leave split={options.split} out")
        options = replace(options, split="file")
    return replace(options, dynamic=dynamic, cache=memory)


def check(options: EvalConfig) -> None:
    """Raise ConfigError for options that do not go together, or would do nothing."""
    adapting, averaging, dynamic, problems = options.adapting, options.averaging, options.dynamic, []
    if dynamic.search and dynamic.lr is None:
        problems.append(
            f"dynamic.search=true needs dynamic.lr=...: where to begin with dynamic.rule={dynamic.rule} "
            f"dynamic.norm={dynamic.norm}"
        )
    if dynamic.search and dynamic.decay == 0:
        problems.append("dynamic.decay=0 cannot be searched from: every trial is a multiple of it; use 0.002, say")
    if adapting and options.batch_size not in (None, 1):
        problems.append(f"batch_size={options.batch_size}: a model adapts to one stream at a time; use batch_size=1")
    if adapting and options.precision != "float32":
        problems.append(f"precision={options.precision}: adapting is done in float32")
    if adapting and options.protocol != "seqlm":
        problems.append(f"protocol={options.protocol} reads batches, {adapting[0]} one stream; leave one of them out")
    if dynamic.lr is not None and averaging:
        problems.append(f"{adapting[0]} adapts one model that is read once; leave it out, or {' and '.join(averaging)}")
    if options.mean != "arithmetic" and not averaging:
        problems.append(f"mean={options.mean} does nothing without ensemble=[RUN, ...] or monte_carlo.samples=...")
    plain = verb_config("eval", EvalConfig, [])
    for section, switch in (("dynamic", "lr"), ("cache", "size"), ("monte_carlo", "samples")):
        given, idle = getattr(options, section), changed_keys(section, options, plain)
        if getattr(given, switch) is None and idle and not getattr(given, "search", False):
            problems.append(f"{' '.join(idle)} does nothing without {section}.{switch}=...")
    for key in ("norm", "epsilon", "train_batch_size"):
        if dynamic.rule == "sgd" and (value := getattr(dynamic, key)) != getattr(plain.dynamic, key):
            problems.append(f"dynamic.{key}={as_typed(value)} does nothing with dynamic.rule=sgd")
    searched = dynamic.search or options.cache.search or options.temperature is None
    if options.search_tokens != plain.search_tokens and not searched:
        problems.append(
            f"search_tokens={options.search_tokens} does nothing without dynamic.search=true, cache.search=true or "
            "temperature=null"
        )
    if problems:
        raise ConfigError("\n".join(problems))


def _log(text: str) -> None:
    print(f"valid: {text}", file=sys.stderr, flush=True)


def _keep(run: LoadedRun, name: str, result: dict[str, Any], options: EvalConfig) -> None:
    """Write a score into the run's folder, if it is of the run's own data, and count it: test is for one."""
    if run.data.fingerprint != run.folder.info().get("data_fingerprint"):
        path = options.data.get("path")
        whole = f"; file={path} scores all of it" if isinstance(path, str) and Path(path).is_file() else ""
        text = (
            f"note: this is not the data {run.folder.path} was trained on; the score is not kept in its folder{whole}"
        )
        print(text, file=sys.stderr)
        return
    result["times_scored"] = run.folder.times_scored(result["split"]) + 1
    try:
        write_atomically(run.folder.path / name, to_json(result, indent=2) + "\n")
        _chart(run, result)
    except OSError as error:
        print(f"note: the score could not be kept in the run's folder ({describe(error)})", file=sys.stderr)


def _chart(run: LoadedRun, result: Mapping[str, Any]) -> None:
    """Show the metrics of a score in TensorBoard, beside those of training, as `test/...`.

    Not those of valid, which training has scored. Nor while a process trains the run: its events come first.
    """
    group = result["split"] + _kind(result)
    names = [name for name in by_name(run.task.metrics) if isinstance(result.get(name), float)]
    if group == "valid" or "tensorboard" not in run.config.logger or run.folder.status() == "running":
        return
    with status("writing TensorBoard's events"):
        from ..training.loggers.tensorboard import log_score

        step = run.checkpoint.step
        if run.config.logger["tensorboard"].get("x_axis") == "tokens":
            step = max((one["tokens"] for one in run.folder.records() if one["step"] <= step), default=0)
        log_score(run.folder.path, step, {f"{group}/{name}": result[name] for name in names})


def _kind(result: Mapping[str, Any]) -> str:
    """An ending for the name of a result that is not of one model as it was trained."""
    names = {
        "average_last": "averaged", "ensemble": "ensemble", "monte_carlo": "monte_carlo", "adaptation": "adapted",
        "task": "task",
    }  # fmt: skip
    return "".join(f"-{name}" for key, name in names.items() if key in result)


def _shown(result: Mapping[str, Any], measured: Sequence[tuple[str, str]]) -> str:
    """The result for people: the run, what was measured, the settings, and the task's tables."""
    size = f"batch_size {result['batch_size']}" if "batch_size" in result else f"{result['examples']:,} examples"
    times = result.get("times_scored", 1)
    again = result["split"] == "test" and times > 1  # once is as it should be
    often = f"; scored {times} times by now" * again
    rows = [
        ("run", f"{result['run']}, step {result['checkpoint']}, {result['weights']} weights"),
        ("file", f"{result['file']}, {size}") if "file" in result else ("split", f"{result['split']}, {size}{often}"),
        *([("bptt", str(result["bptt"]))] if "bptt" in result else []),
        *measured,
        *_settings(result),
    ]
    lines = [labelled(rows, sys.stdout)]
    for title, found in result.get("report", {}).items():
        named = [{title: name, **row} for name, row in found.items()] if isinstance(found, dict) else found
        lines += ["", title, _report(named)]
    return "\n".join(lines)


def _settings(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows for the ways in which a score is not that of one model as it was trained."""
    rows = []
    if "protocol" in result:
        counted = result["protocol"]
        division = f"batch_size {counted['batch_size']}, {counted['tokens']:,} tokens scored; {counted['source']}"
        rows.append(
            (f"as {counted['name']} counts", f"{counted['ppl']:,.2f} ({counted['difference']:+.2f})   ({division})")
        )
    if "average_last" in result:
        rows.append(("mean of weights", f"of steps {', '.join(f'{step:,}' for step in result['average_last'])}"))
    if "ensemble" in result:
        others = ", ".join(f"{other['run']} (step {other['checkpoint']})" for other in result["ensemble"])
        rows.append(("ensemble", f"with {others}; {result['mean']} mean"))
    if "monte_carlo" in result:
        drawn = result["monte_carlo"]
        rows.append(("Monte-Carlo dropout", f"{drawn['samples']} samples, seed {drawn['seed']}; {result['mean']} mean"))
    if "adaptation" in result:
        rows.append(("adaptation", "  ".join(f"{key} {value}" for key, value in result["adaptation"].items())))
    if "search" in result:
        searched = result["search"]
        once = " once" * (result.get("times_scored", 1) == 1)
        then = "" if result["split"] == "valid" else f"; {result['split']} was then scored{once}"
        rows += [("chosen on valid", f"from {len(searched['trials'])} trials on {searched['tokens']:,} tokens{then}")]
        for key in searched["open_ended"]:
            value = searched["chosen"][key]
            rows += [("", f"{key} {value:g} is the last tried, and others may be better: begin there")]
    rows += [(f"task.{key}", as_typed(value)) for key, value in result.get("task", {}).items()]
    return rows


def _report(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of a table, texts first, then numbers."""
    if not rows:
        return "(nothing)"
    texts = [[f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    return table([list(rows[0]), *texts], sum(isinstance(value, str) for value in rows[0].values()))
