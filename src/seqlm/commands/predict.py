"""seqlm predict: what a run says of each line of a file, in order, as it is read."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
import torch

from ..config.schema import PredictConfig
from ..config.values import verb_config
from ..data.examples import Example
from ..data.sources.features import arrays_of
from ..device import autocast, prepare
from ..errors import ConfigError
from ..files import to_json
from ..runs.load import LoadedRun, load_run
from ..tasks.examples import ExampleTask
from ..tasks.text import TextTask
from .words import run_and_words

EMPTY = "empty"


def main(words: Sequence[str]) -> None:
    """`seqlm predict RUN FILE|- [key=value ...]`: predictions on standard output."""
    folder, rest = run_and_words("predict", words)
    if not rest or "=" in rest[0]:
        raise ConfigError("seqlm predict needs a file after the run's folder, or - for standard input")
    source, how = rest[0], verb_config("predict", PredictConfig, rest[1:])
    device = prepare(how.device, how.precision, how.threads)
    options = {key: getattr(how, key) for key in ("checkpoint", "weights", "engine", "task", "trust")}
    run = load_run(folder, **options)
    run.model.to(device)
    task, columns = run.task, how.format == "columns"
    if columns and not (
        isinstance(task, ExampleTask) and "tags" in task.targets and "words" in task.reads(run.model, run.tokenizer)
    ):
        raise ConfigError("format=columns shows a word and its tag on each line, but this run gives no words a tag")
    wrong = 0
    with ExitStack() as held:
        examples = _examples(source, held)
        while some := list(islice(examples, how.batch_size)):
            with torch.no_grad(), autocast(device, how.precision):
                said = _answers(run, some)
            for example, answer in zip(some, said, strict=True):
                print(_columns(answer) if columns else _json({**_shown(example), **answer}))
                if "error" in answer and answer["error"] != EMPTY:
                    wrong += 1
                    if columns:
                        print(f"seqlm: {answer['error']}", file=sys.stderr)
            sys.stdout.flush()
    if wrong:
        raise ConfigError(f"{wrong} of the lines of {source} could not be read; their answers are errors that say why")


def _answers(run: LoadedRun, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """What the run says of each example; of an empty one, that it is empty."""
    task = run.task
    if not isinstance(task, (ExampleTask, TextTask)):
        raise ConfigError(f"{run.folder.path} is a run of {type(task).__name__}; seqlm predict cannot use it")
    tokenizer: Any = run.tokenizer
    reads = ("words",) if isinstance(task, TextTask) else task.reads(run.model, tokenizer)
    if not reads:
        raise ConfigError(f"{run.folder.path} reads nothing: it writes texts; use seqlm sample")
    answers: list[dict[str, Any]] = [{"error": EMPTY} for _ in examples]
    full: dict[int, dict[str, Any]] = {}  # by place, those with something to read
    for place, (example, answer) in enumerate(zip(examples, answers, strict=True)):
        try:
            fields = {name: _field(name, example, tokenizer) for name in reads}
            split = "words" in fields and isinstance(task, ExampleTask)
            units = {"words": tokenizer.split(fields["words"])} if split else {}  # blanks alone are nothing to a tagger
            if all(map(len, {**fields, **units}.values())):
                full[place] = fields
        except ValueError as error:
            answer["error"] = str(error)
    for place, said in zip(full, _said(run, task, list(full.values())), strict=True):
        answers[place] = said
    return answers


def _said(run: LoadedRun, task: ExampleTask | TextTask, given: Sequence[Example]) -> list[dict[str, Any]]:
    """What the run says of examples that it reads together; of one that it cannot read, why."""
    tokenizer: Any = run.tokenizer
    if not given:
        return []
    try:
        if isinstance(task, TextTask):
            texts = [one["words"] if isinstance(one["words"], str) else " ".join(one["words"]) for one in given]
            return task.answers(run.model, tokenizer, texts)
        said = task.answers(cast("Any", run.model), tokenizer, given)
    except ConfigError as error:
        if len(given) == 1:
            return [{"error": str(error)}]
        return [answer for one in given for answer in _said(run, task, [one])]  # the others are not to blame
    for fields, answer in zip(given, said, strict=True):
        if "tags" in answer and "words" in fields:
            answer["words"] = tokenizer.split(fields["words"])
        elif isinstance(answer.get("target"), list) and not isinstance(fields.get("words"), list):
            answer["target"] = tokenizer.join(answer["target"])  # a text for a text, words for words
    return said


def _field(name: str, example: Example, tokenizer: Any) -> Any:
    """A field that is read, checked, since people write it by hand."""
    other = {"words": "text", "label": "words"}.get(name)  # a line that is no object is its text
    value = example.get(name, example.get(other) if other else None)
    if name == "label":
        value = value if isinstance(value, str) else json.dumps(value)  # as the data read it
        if not value or value in tokenizer.vocabularies["label"]:
            return value
    if name == "words" and (
        isinstance(value, str) or (isinstance(value, list) and all(isinstance(word, str) for word in value))
    ):
        return value
    try:
        with np.errstate(over="ignore"):  # infinity is told by what reads it
            features = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        features = np.zeros(0, dtype=np.float32)
    if name == "features" and features.ndim == 2:
        return features
    labels = tokenizer.vocabularies.get("label", []) if name == "label" else []
    wanted = {
        "words": "a text or a list of words, which this run reads",
        "features": "numbers for each step, [[...], ...], which this run reads",
        "label": f"a label of this run ({', '.join(labels[:20])}{' ...' * (len(labels) > 20)})",
    }[name]
    raise ValueError(example.get("error") or f"{name} should be {wanted}")


def _examples(source: str, held: ExitStack) -> Iterator[Example]:
    """The examples of a file, read as they are asked for."""
    if source.endswith((".npy", ".npz")):
        return ({"features": array} for array in arrays_of(Path(source)))
    if source == "-":
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape", newline="\n")
        return _line_examples(sys.stdin)
    path = Path(source)
    if not path.exists() or path.is_dir():  # a pipe is as good as a file
        raise ConfigError(f"{source} is not a file; give one with an example on each line, or - for standard input")
    return _line_examples(held.enter_context(path.open(encoding="utf-8", errors="surrogateescape", newline="\n")))


def _line_examples(lines: TextIO) -> Iterator[Example]:
    """The example of each line, which a line feed ends; bytes that are not UTF-8 arrive as surrogates."""
    for number, line in enumerate(lines, start=1):
        text = line.rstrip("\r\n").removeprefix("\ufeff" if number == 1 else "")  # a byte-order mark is no text
        if re.search("[\udc80-\udcff]", text):
            yield {"error": f"line {number} is not UTF-8 text; convert it, as with `iconv -f latin1 -t utf-8`"}
        elif not text.lstrip().startswith("{"):
            yield {"words": text}
        else:
            try:
                yield json.loads(text)
            except (ValueError, RecursionError) as error:
                yield {"error": f"line {number} begins with {{ but is not JSON ({error})"}


def _shown(example: Example) -> Example:
    """What stood in the line, an id for instance, and goes with its answer."""
    return {key: value for key, value in example.items() if not isinstance(value, np.ndarray)}


def _json(answer: Mapping[str, Any]) -> str:
    """As people read it, unless the output is in an encoding that lacks a character."""
    text = to_json(answer, ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = to_json(answer)
    return text


def _columns(answer: dict[str, Any]) -> str:
    rows = zip(answer.get("words", ()), answer.get("tags", ()), strict=False)
    return "".join(f"{word}\t{tag}\n" for word, tag in rows)
