"""seqlm predict: predictions for the lines of a file, in order, as they are read."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.schema import PredictConfig
from ..config.values import verb_config
from ..errors import ConfigError
from ..files import open_regular, to_json
from ..runs import checkpoint
from ..runs.folder import RunFolder
from ..terminal import status
from .words import run_and_words

if TYPE_CHECKING:
    from ..data.examples import Example
    from ..data.reading import TextReader
    from ..runs.load import LoadedRun


def main(words: Sequence[str]) -> None:
    """`seqlm predict RUN FILE|- [key=value ...]`: predictions on standard output."""
    folder, rest = run_and_words("predict", words)
    if not rest or "=" in rest[0]:
        raise ConfigError("seqlm predict needs a file after the run's folder, or - for standard input")
    source, options = rest[0], verb_config("predict", PredictConfig, rest[1:])
    checkpoint.check_exists(RunFolder.open(folder).checkpoints, options.checkpoint)
    if source != "-" and not Path(source).is_file():
        raise ConfigError(f"{source} is not a file; give one with an example on each line, or - for standard input")
    with status("loading torch"):  # once all that can be checked without it is right
        import torch

        from ..data.reading import TextReader
        from ..device import autocast, prepare
        from ..runs.load import load_run
        from ..tasks.lines import EMPTY
    device = prepare(options.device, options.precision, options.threads)
    shared = {key: getattr(options, key) for key in ("checkpoint", "weights", "engine", "task", "trust")}
    run = load_run(folder, **shared)
    run.model.to(device)
    columns = options.format == "columns"
    _check(run, columns)
    wrong = 0
    with ExitStack() as held:
        lines = _lines(source, TextReader(run.config.data.get("encoding") or "auto"), held)
        while some := list(islice(lines, options.batch_size)):
            with torch.no_grad(), autocast(device, options.precision):
                answers = run.task.predict_lines(run.model, run.tokenizer, some)
            for line, answer in zip(some, answers, strict=True):
                print(_columns(answer) if columns else _json({**_shown(line), **answer}))
                if "error" in answer and answer["error"] != EMPTY:
                    wrong += 1
                    if columns:
                        print(f"seqlm: {answer['error']}", file=sys.stderr)
            sys.stdout.flush()
    if wrong:
        raise ConfigError(
            f"{wrong} of the lines of {source} could not be read; their answers are errors with the reason"
        )


def _check(run: LoadedRun, columns: bool) -> None:
    """Raise ConfigError for a run that predicts nothing, or whose predictions are no columns of words and tags."""
    reads = run.task.reads(run.model, run.tokenizer)
    if columns and not ("tags" in run.task.targets and "words" in reads):
        raise ConfigError("format=columns shows a word and its tag on each line, but this run gives no words a tag")
    if not reads:
        raise ConfigError(f"{run.folder.path} reads nothing: it writes texts; use seqlm sample")


def _lines(source: str, reader: TextReader, held: ExitStack) -> Iterator[Example]:
    """The fields in each line of a file, read as they are asked for."""
    from ..data.reading import split_lines

    if source.endswith((".npy", ".npz")):
        from ..data.sources.features import arrays_of

        return ({"features": array} for array in arrays_of(Path(source)))
    handle = sys.stdin.buffer if source == "-" else held.enter_context(open_regular(Path(source)))
    name = "standard input" if source == "-" else source
    return _fields(split_lines(reader.decode(handle, name, errors="surrogateescape"), name))


def _fields(lines: Iterable[str]) -> Iterator[Example]:
    """The fields in each line; bytes that are not in the encoding arrive as surrogates."""
    for number, text in enumerate(lines, start=1):
        if re.search("[\udc80-\udcff]", text):
            yield {"error": f"line {number} is not text in the encoding of the run's data, or UTF-8; convert it"}
        elif not text.lstrip().startswith("{"):
            yield {"words": text}
        else:
            try:
                yield json.loads(text)
            except (ValueError, RecursionError) as error:
                yield {"error": f"line {number} begins with {{ but is not JSON ({error})"}


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
    rows = zip(answer.get("words", ()), answer.get("tags", ()), strict=False)
    return "".join(f"{word}\t{tag}\n" for word, tag in rows)
