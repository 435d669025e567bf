"""seqlm predict: predictions for the lines of a file, in order, as they are read."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.values import verb_config
from ..config.verb_schema import PredictConfig
from ..errors import ConfigError
from ..files import to_json
from ..runs import finding
from ..runs.folder import RunFolder
from ..terminal import status
from .inputs import check_source, lines_of, source_name
from .words import run_and_words

if TYPE_CHECKING:
    from ..data.examples import Example
    from ..runs.load import LoadedRun


def main(words: Sequence[str]) -> None:
    """`seqlm predict RUN FILE|- [key=value ...]`: predictions on standard output."""
    folder, rest = run_and_words("predict", words)
    if not rest or "=" in rest[0] or rest[0].startswith("--"):
        raise ConfigError("seqlm predict needs a file after the run's folder, or - for standard input")
    if "format=columns" in rest:
        raise ConfigError("format=columns is now output=columns; format= is that of the file")
    source, options = rest[0], verb_config("predict", PredictConfig, rest[1:])
    finding.check_exists(RunFolder.open(folder).checkpoints, options.checkpoint)
    check_source(source, "an example")
    with status("loading torch"):  # once all that can be checked without it is right
        import torch

        from ..device import autocast, prepare
        from ..runs.load import load_run
        from ..tasks.lines import EMPTY
    device = prepare(options.device, options.precision, options.threads)
    shared = {key: getattr(options, key) for key in ("checkpoint", "weights", "engine", "task", "trust")}
    run = load_run(folder, **shared)
    run.model.to(device)
    columns = options.output == "columns"
    _check(run, columns)
    wrong = 0
    lines = _lines(run, source, options.format)
    while some := list(islice(lines, options.batch_size)):
        with torch.no_grad(), autocast(device, options.precision):
            answers = run.task.predict_lines(run.model, run.tokenizer, some)
        for line, answer in zip(some, answers, strict=True):
            answer = {**answer, **_gold(line, answer)}
            print(_columns(answer) if columns else _json({**_shown(line), **answer}))
            if "error" in answer and answer["error"] != EMPTY:
                wrong += 1
                if columns:
                    print(f"seqlm: {answer['error']}", file=sys.stderr)
        sys.stdout.flush()
    if wrong:
        name = source_name(source)
        raise ConfigError(f"{wrong} of the lines of {name} could not be read; their answers are errors with the reason")


def _check(run: LoadedRun, columns: bool) -> None:
    """Raise ConfigError for a run that predicts nothing, or whose predictions are no columns of words and tags."""
    reads = run.task.reads(run.model, run.tokenizer)
    if columns and not ("tags" in run.task.targets and "words" in reads):
        raise ConfigError("output=columns shows a word and its tag on each line, but this run gives no words a tag")
    if not reads:
        raise ConfigError(f"{run.folder.path} reads nothing: it writes texts; use seqlm sample")


def _lines(run: LoadedRun, source: str, format: str) -> Iterator[Example]:
    """The fields in each line, or of each example, of a file, read as they are asked for."""
    from ..data.sources.features import arrays_of

    found = run.format_of(source) if format == "auto" and source != "-" else None if format == "auto" else format
    if source == "-" and found in ("conll", "tsv", "npz"):
        raise ConfigError(f"format={found} needs a file; standard input is text or jsonl, a line each")
    if found == "npz":
        return ({"features": array} for array in arrays_of(Path(source)))
    if found in ("conll", "tsv"):
        return run.examples_of(source, found)  # type: ignore[arg-type]
    lines = lines_of(run.reader, source, errors="surrogateescape")
    keys = {run.config.data.get(key): field for key, field in (("text", "words"), ("label", "label"))}
    return _fields(lines, found, {key: field for key, field in keys.items() if isinstance(key, str)})


def _fields(lines: Iterable[str], format: str | None, keys: Mapping[str, str]) -> Iterator[Example]:
    """The fields in each line; bytes that are not in the encoding arrive as surrogates.

    Args:
        lines: without their ends
        format: text; jsonl; None: jsonl where a line begins with {
        keys: fields by the names that they have in the objects of the run's data
    """
    for number, text in enumerate(lines, start=1):
        is_object = text.lstrip().startswith("{")
        if re.search("[\udc80-\udcff]", text):
            yield {"error": f"line {number} is not text in the encoding of the run's data, or UTF-8; convert it"}
        elif format == "text" or (format is None and not is_object):
            yield {"words": text}
        else:
            try:
                found = json.loads(text)
                yield {keys.get(key, key): value for key, value in found.items()}
            except (ValueError, RecursionError, AttributeError) as error:
                what = "begins with { but is not JSON" if is_object else "is not a JSON object"
                yield {"error": f"line {number} {what} ({error}); format=text takes each line for a text"}


def _gold(line: Example, answer: Mapping[str, Any]) -> dict[str, Any]:
    """The targets that stood in a line, beside those that are predicted: one as it is, several by name."""
    given = {key: value for key, value in line.items() if key in answer and key not in ("words", "error")}
    if given.get("tags") == line.get("words"):  # a file of words alone: its first column is its last
        given.pop("tags", None)
    return {"gold": next(iter(given.values())) if len(given) == 1 else given} if given else {}


def _shown(line: Example) -> Example:
    """The fields of a line that go with its answer, an id for instance."""
    return {key: value for key, value in line.items() if not hasattr(value, "shape")}


def _json(answer: Mapping[str, Any]) -> str:
    """As people read it, unless the output is in an encoding that lacks a character."""
    text = to_json(answer, ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = to_json(answer)
    return text


def _columns(answer: dict[str, Any]) -> str:
    """A word, its gold tag if that is known, and the predicted one on each line."""
    gold = answer.get("gold")
    tags = gold.get("tags") if isinstance(gold, dict) else gold
    given = [tags] if isinstance(tags, list) else []
    rows = zip(answer.get("words", ()), *given, answer.get("tags", ()), strict=False)
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)
