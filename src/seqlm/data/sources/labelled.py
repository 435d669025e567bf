"""Texts with a label each: tables, JSON lines, or a folder for each label."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ..examples import Example
from ..reading import Newlines, TextReader
from .empties import Empties
from .folder import Folder
from .split_examples import SplitExamples
from .tables import SEPARATORS, Choice, TableFormat


class Labelled(SplitExamples):
    """Texts with a label each, in `path`: a folder with train, valid and perhaps test, or one source, shared out.

    A source is one of these; `text` and `label` say where in it both are:
      NAME.tsv, NAME.txt, NAME.csv: a row for each; the columns' numbers (by default 1 and 0), or their names
      NAME.jsonl: an object on each line; the keys (by default text and label), a.b for b in the object a, and in each
        of a list of objects. A list of words is a text too, and a label may be a list: numbers [v, ...], or those of
        each word [[v, ...], ...], for data.rename={label: value}
      a folder of folders: each is a label, and each file in it a text
      a folder of .txt files: each is a label, and each line in it a text
    Empty lines are skipped. Raises ConfigError with file and line.

    Args:
        fractions: of one source: train, valid and perhaps test
        encoding, newlines: arguments of TextReader
        separator: of columns: tab, comma, semicolon or a character. None: tab; in .csv one of these three, by the rows
        header: whether the first row of a table names its columns. auto: where `text` or `label` is a name, where the
            row holds names that are usual, or a word above numbers. None: only where they are names
        quoting: whether cells may stand in quotes, "...". auto: in .csv, and in others where they do. None: no
        skip_empty: leave out what has an empty text or label
        outputs: where runs are written, which is no label
    """

    formats = ("tsv", "jsonl")
    endings = (".tsv", ".txt", ".csv", ".jsonl", "")

    def __init__(
        self,
        *,
        path: str,
        text: int | str | None = None,
        label: int | str | None = None,
        fractions: Sequence[float] = (0.8, 0.1, 0.1),
        encoding: str | None = "auto",
        newlines: Newlines | None = "universal",
        separator: str | None = None,
        header: Choice | None = "auto",
        quoting: Choice | None = "auto",
        skip_empty: bool = False,
        outputs: str | None = None,
    ) -> None:
        super().__init__(path, fractions)
        kinds = {type(where) for where in (text, label) if where is not None}
        if len(kinds) > 1:
            raise ConfigError(f"data.text={text} and data.label={label} must both be numbers of columns, or both names")
        self._where = {"text": text, "label": label}
        self._table = TableFormat(separator, quoting, header, self._where)
        if header is False and self._table.named:
            raise ConfigError("data.header=false, but data.text and data.label are names, which stand in a header")
        if separator is not None and separator not in SEPARATORS and len(separator) != 1:
            raise ConfigError(f"data.separator={separator} should be {', '.join(SEPARATORS)} or a single character")
        self._reader, self._empties, self._outputs = TextReader(encoding, newlines), Empties(skip_empty), outputs
        self._folders: dict[Path, Folder] = {}

    def note(self) -> str:
        folders = (folder.note() for folder in self._folders.values())
        return "; ".join(filter(None, [self._empties.note(), *folders, self._reader.note()]))

    def read(self, source: Path) -> Iterator[tuple[str, Example]]:
        kinds = {".tsv": self._rows, ".txt": self._rows, ".csv": self._rows, ".jsonl": self._objects}
        read = self._files if source.is_dir() else kinds.get(source.suffix.lower())
        if read is None:
            raise ConfigError(f"data.path={source} should be a folder, or end in {', '.join(kinds)}")
        with self._empties.of(source) as empty:
            for where, text, label in read(source):
                label = label.strip() if isinstance(label, str) else label
                missing = [
                    *(["text"] if not (text if isinstance(text, list) else text.strip()) else []),
                    *(["label"] if not label else []),
                ]
                if missing:
                    empty(f"{where}: the {' and the '.join(missing)} {'are' if len(missing) > 1 else 'is'} empty")
                    continue
                known_by = text if isinstance(text, str) else " ".join(text)
                yield known_by, {"words": text, "label": label}

    def _rows(self, source: Path) -> Iterator[tuple[str, Any, Any]]:
        return ((f"line {number}", text, label) for number, text, label in self._table.rows(source, self._reader))

    def _objects(self, source: Path) -> Iterator[tuple[str, Any, Any]]:
        keys = {what: what if key is None else str(key) for what, key in self._where.items()}
        for number, item in self._reader.objects(source):
            where = f"{source}, line {number}"
            text, label = (
                _field(item, key, f"{where}: there is no key data.{what}={key}") for what, key in keys.items()
            )
            words = text if isinstance(text, list) else [text]
            if not all(isinstance(word, str) for word in words) or not isinstance(label, (str, int, float, list)):
                raise ConfigError(
                    f"{where}: {keys['text']} must be a text or a list of words, {keys['label']} a text, a number or "
                    "numbers"
                )
            yield f"line {number}", text, label if isinstance(label, (str, list)) else json.dumps(label)

    def _files(self, source: Path) -> Iterator[tuple[str, Any, Any]]:
        if self._where != {"text": None, "label": None}:
            raise ConfigError(
                f"data.text and data.label do nothing: {source} is a folder, whose names are labels; leave them out"
            )
        entries = self._entries(source)
        folders = [entry for entry in entries if entry.is_dir()]
        files = [entry for entry in entries if entry.suffix == ".txt"]
        if not folders and not files:
            raise ConfigError(f"data.path={source} holds neither a folder nor a .txt file for each label")
        for folder in folders:
            for file in (path for path in self._entries(folder) if path.is_file()):
                yield str(file), "\n".join(self._reader.lines(file)).strip(), folder.name
        for file in files if not folders else []:
            yield from ((f"{file}, line {number}", line, file.stem) for number, line in self._reader.numbered(file))

    def _entries(self, folder: Path) -> list[Path]:
        self._folders[folder] = Folder(folder, self._reader, self._outputs)
        return self._folders[folder].entries()


def _field(item: Any, key: str, message: str) -> Any:
    """The value of an object under `key`, or a.b: under b in the object a. Of a list: the item of this number, or the
    same in each item.

    Raises ConfigError that begins with `message`.
    """
    if isinstance(item, Mapping) and key in item:
        return item[key]
    first, dot, rest = key.partition(".")
    if isinstance(item, list):
        if not (first.isdecimal() and int(first) < len(item)):
            return [_field(one, key, message) for one in item]
        return _field(item[int(first)], rest, message) if dot else item[int(first)]
    if dot and isinstance(item, Mapping) and first in item:
        return _field(item[first], rest, message)
    there = f"but {', '.join(item)}" if isinstance(item, Mapping) else "for this is no object"
    raise ConfigError(f"{message}, {there}")
