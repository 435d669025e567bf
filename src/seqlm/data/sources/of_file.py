"""Files that a finished run meets: which source reads all of one, and what format it seems to have."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ...files import open_regular
from ..corpus import Corpus
from ..examples import Examples, Format
from ..reading import TextReader, split_blanks, split_lines
from .conll import DOCUMENT
from .split_examples import SplitExamples
from .text import TextCorpus

SPLIT_KEYS = ("train", "valid", "test")
PLACES = ("path", *SPLIT_KEYS, "fractions", "source", "target", "outputs")  # keys that say where the run's data lies
COLUMNS = (".conll", ".conllu", ".iob", ".iob2", ".bio", ".bmes")
LOOKED_AT = 400  # lines that tell what a file is
LEAST_LINES = 4  # of columns whose tags are not known
HOME = "seqlm.data.sources"


class TextInBytes(TextCorpus):
    """A text whose characters are counted in bytes, as the literature on enwik8 does."""

    count_bytes = True


def node_of_file(
    node: Mapping[str, Any], source: type[Corpus | Examples], path: str, format: Format | None = None
) -> dict[str, Any]:
    """The data node that reads all of a file, as its split train; it needs none of the files that the run learned from.

    Args:
        node: the data of a run, and `source` the class that it names
        path: a file or folder in the format of that data: for a run of texts any text; columns for one of words and
            tags; NAME.jsonl, with the fields of an example on each line, for any other
        format: the format, where that is known. None: told by the run's data and the ending of the name
    """
    if not Path(path).exists():
        raise ConfigError(f"file={path} does not exist")
    kept = {key: value for key, value in node.items() if key not in PLACES}
    reading = {key: value for key, value in node.items() if key in ("encoding", "newlines")}
    whole = dict.fromkeys(SPLIT_KEYS, path)
    if issubclass(source, Corpus):
        name = f"{HOME}.of_file.TextInBytes" if source.count_bytes else f"{HOME}.text.TextCorpus"
        return {"_target_": name, **whole, **reading}
    format = format or _format_of(path, source)
    if issubclass(source, SplitExamples) and format in source.formats:
        return {**kept, "path": path, "fractions": [1.0]}
    if format in source.formats and {*SPLIT_KEYS} <= inspect.signature(source).parameters.keys():
        return {**kept, **whole}
    if format == "npz":
        return {"_target_": f"{HOME}.features.Features", "path": path, "fractions": [1.0]}
    if format == "tsv":
        return {"_target_": f"{HOME}.labelled.Labelled", "path": path, "fractions": [1.0], **reading}
    if format == "conll":
        return {"_target_": f"{HOME}.conll.Conll", **whole, **reading}
    return {"_target_": f"{HOME}.records.Records", "path": path, **reading}


def format_of(
    path: str, source: type[Corpus | Examples], reader: TextReader, tags: Collection[str] = ()
) -> Format | None:
    """The format that a file of lines to predict for has: by its name, by what the run's data is, and by its lines.

    None for a line each, a text or an object. Raises ConfigError for columns, if the run's data has none.

    Args:
        path: the file
        source: of the run's data
        reader: decodes the file
        tags: those that the run knows, by which columns are told from short texts
    """
    suffix, formats = Path(path).suffix.lower(), getattr(source, "formats", ())
    if suffix in (".npy", ".npz"):
        return "npz"
    if suffix in COLUMNS:
        return "conll"
    with open_regular(Path(path)) as handle:
        lines = split_lines(reader.decode(handle, path, errors="surrogateescape"), path)
        head = list(islice(lines, LOOKED_AT))
    if "tsv" in formats and (suffix == ".csv" or (suffix == ".tsv" and any("\t" in line for line in head))):
        return "tsv"
    if suffix == ".jsonl" or not _are_columns(head, tags if "conll" in formats else ()):
        return None
    if "conll" not in formats:
        raise ConfigError(
            f"{path} looks like columns, a word and its tag on each line, which the data of this run is not: "
            "format=conll reads them, format=text takes each line for a text"
        )
    return "conll"


def _format_of(path: str, source: type[Examples]) -> Format:
    suffix = Path(path).suffix.lower()
    if suffix == ".jsonl":
        return "jsonl"
    return "npz" if suffix == ".npz" else "conll" if suffix in COLUMNS else (*source.formats, "jsonl")[0]


def _are_columns(lines: Sequence[str], tags: Collection[str]) -> bool:
    """Whether lines are sentences of tagged words: as many cells on each line, two or more, blank lines between.

    Most of one column are tags that are known; where none are, its cells repeat.
    """
    full = [split_blanks(line) for line in lines if line.strip() and not line.startswith(("#", DOCUMENT))]
    if not full or len(full) == len(lines) or len({len(cells) for cells in full}) > 1 or len(full[0]) < 2:
        return False
    columns = list(zip(*full, strict=True))[1:]
    if tags:
        return any(sum(cell in tags for cell in column) * 2 > len(full) for column in columns)
    return len(full) >= LEAST_LINES and len(set(columns[-1])) * 2 <= len(full)
