"""seqlm predict: what a run says of each line of a file, in order, as it is read."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
import torch

from .assemble import LoadedRun, load_run
from .config import verb_config
from .data import EncodedExamples, Example
from .errors import ConfigError
from .run import to_json
from .schema import PredictConfig
from .tasks import ExampleTask, TextTask
from .training.device import autocast, prepare

EMPTY = "empty"


def main(folder: str, source: str, words: Sequence[str]) -> None:
    """`seqlm predict RUN FILE|- [key=value ...]`: predictions on standard output."""
    how = verb_config("predict", PredictConfig, words)
    device = prepare(how.device, how.precision, how.threads)
    options = {key: getattr(how, key) for key in ("checkpoint", "weights", "engine", "task", "trust")}
    run = load_run(folder, **options)
    run.model.to(device)
    if how.format == "columns" and "tags" not in getattr(run.task, "targets", ()):
        raise ConfigError("format=columns shows a word and its tag on each line, but this run gives no tags")
    wrong = 0
    with ExitStack() as held:
        examples = _examples(source, held)
        while some := list(islice(examples, how.batch_size)):
            with torch.no_grad(), autocast(device, how.precision):
                said = _answers(run, some, device)
            for example, answer in zip(some, said, strict=True):
                print(_columns(answer) if how.format == "columns" else to_json(_shown(example, answer)))
                wrong += "error" in answer and answer["error"] != EMPTY
            sys.stdout.flush()
    if wrong:
        raise ConfigError(f"{wrong} of the lines of {source} could not be read; their answers are errors that say why")


def _answers(run: LoadedRun, examples: Sequence[Example], device: torch.device) -> list[dict[str, Any]]:
    """What the run says of each example; of an empty one, that it is empty."""
    task = run.task
    if isinstance(task, TextTask):
        return [_of_line(run, task, example) for example in examples]
    if not isinstance(task, ExampleTask):
        raise ConfigError(f"{run.folder.path} is a run of {type(task).__name__}; seqlm predict cannot use it")
    reads = task.reads(run.model, run.tokenizer)
    if not reads:
        raise ConfigError(f"{run.folder.path} reads nothing: it writes texts; use seqlm sample")
    given: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = [{"error": EMPTY} for _ in examples]
    for example, answer in zip(examples, answers, strict=True):
        try:
            given.append({name: _field(name, example, run.tokenizer) for name in reads})
        except ValueError as error:
            given.append({})
            answer["error"] = str(error)
    full = [place for place, fields in enumerate(given) if fields and all(map(len, fields.values()))]
    if full:
        some = [given[place] for place in full]
        split = EncodedExamples([run.tokenizer.encode(fields) for fields in some], some, run.tokenizer)
        said = task.answers(cast("Any", run.model), split.batch(range(len(full))).to(device))
        for place, fields, prediction in zip(full, some, said, strict=True):
            read = {"words": run.tokenizer.split(fields["words"])} if "words" in fields else {}
            answers[place] = {**read, **prediction}
    return answers


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


def _of_line(run: LoadedRun, task: TextTask, example: Example) -> dict[str, Any]:
    """What a run on texts says of a line that stands alone."""
    try:
        text = _field("words", example, run.tokenizer)
    except ValueError as error:
        return {"error": str(error)}
    text = text if isinstance(text, str) else " ".join(text)
    return task.answer(run.model, run.tokenizer, text) if text else {"error": EMPTY}


def _examples(source: str, held: ExitStack) -> Iterator[Example]:
    """The examples of a file, read as they are asked for."""
    if source.endswith((".npy", ".npz")):
        return _feature_examples(Path(source))
    if source == "-":
        return _line_examples(sys.stdin, "standard input")
    path = Path(source)
    if not path.is_file():
        raise ConfigError(f"{source} is not a file; give one with an example on each line, or - for standard input")
    return _line_examples(held.enter_context(path.open(encoding="utf-8")), source)


def _line_examples(lines: TextIO, name: str) -> Iterator[Example]:
    try:
        for number, line in enumerate(lines, start=1):
            text = line.rstrip("\r\n")
            if not text.lstrip().startswith("{"):
                yield {"words": text}
                continue
            try:
                yield json.loads(text)
            except ValueError as error:
                yield {"error": f"line {number} begins with {{ but is not JSON ({error})"}
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not UTF-8 text ({error})") from error


def _feature_examples(path: Path) -> Iterator[Example]:
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = [loaded] if isinstance(loaded, np.ndarray) else [loaded[name] for name in loaded.files]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as features ({error})") from error
    for array in arrays:
        if array.ndim != 2:
            raise ConfigError(f"{path}: features should be (steps, numbers), not {array.shape}")
        yield {"features": array}


def _shown(example: Example, answer: dict[str, Any]) -> dict[str, Any]:
    """An answer with what else stood in the line, such as an id."""
    return {**{key: value for key, value in example.items() if not isinstance(value, np.ndarray)}, **answer}


def _columns(answer: dict[str, Any]) -> str:
    rows = zip(answer.get("words", ()), answer.get("tags", ()), strict=False)
    return "".join(f"{word}\t{tag}\n" for word, tag in rows)
