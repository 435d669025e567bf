"""Texts with a label each: tables, JSON lines, or a folder for each label."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ..examples import Example
from ..reading import Newlines, TextReader
from .split_examples import SplitExamples


class Labelled(SplitExamples):
    """Texts with a label each, in `path`: a folder with train, valid and perhaps test, or one source, shared out.

    A source is one of these; `text` and `label` say where in it both are:
      NAME.tsv, NAME.txt: a line for each, columns with a tabulator between; the columns' numbers (by default 1 and 0),
        or their names in the first line
      NAME.jsonl: an object on each line; the keys (by default text and label). A list of words is a text too, and a
        label may be a list: numbers [v, ...], or those of each word [[v, ...], ...], for data.rename={label: value}
      a folder of folders: each is a label, and each file in it a text
      a folder of .txt files: each is a label, and each line in it a text
    Empty lines are skipped. Raises ConfigError with file and line.
    """

    endings = (".tsv", ".txt", ".jsonl", "")

    def __init__(
        self,
        *,
        path: str,
        text: int | str | None = None,
        label: int | str | None = None,
        fractions: Sequence[float] = (0.8, 0.1, 0.1),
        encoding: str | None = "auto",
        newlines: Newlines | None = "universal",
    ) -> None:
        super().__init__(path, fractions)
        kinds = {type(where) for where in (text, label) if where is not None}
        if len(kinds) > 1:
            raise ConfigError(f"data.text={text} and data.label={label} must both be numbers of columns, or both names")
        self._named = kinds == {str}
        self._where = {"text": text, "label": label}
        self._reader = TextReader(encoding, newlines)

    def note(self) -> str:
        return self._reader.note()

    def read(self, source: Path) -> Iterator[tuple[str, Example]]:
        kinds = {".tsv": self._table, ".txt": self._table, ".jsonl": self._objects}
        read = self._folder if source.is_dir() else kinds.get(source.suffix)
        if read is None:
            raise ConfigError(f"data.path={source} should be a folder, or end in {', '.join(kinds)}")
        for where, text, label in read(source):
            label = label.strip() if isinstance(label, str) else label
            if not label or not (text if isinstance(text, list) else text.strip()):
                raise ConfigError(f"{where}: the {'text' if label else 'label'} is empty")
            known_by = text if isinstance(text, str) else " ".join(text)
            yield known_by, {"words": text, "label": label}

    def _table(self, source: Path) -> Iterator[tuple[str, Any, Any]]:
        columns: dict[str, int] = {}
        width = 0
        for number, line in self._reader.numbered(source):
            where, cells = f"{source}, line {number}", line.split("\t")
            if not columns:
                width, columns = len(cells), self._columns(cells, where)
                if self._named:
                    continue
            if len(cells) != width:
                raise ConfigError(f"{where}: {len(cells)} columns, but {width} in the first line")
            yield where, cells[columns["text"]], cells[columns["label"]]

    def _columns(self, first: list[str], where: str) -> dict[str, int]:
        """The places of text and label among columns of which `first` are the first ones."""
        places = {}
        for what, number in (("label", 0), ("text", 1)):
            given = self._where[what]
            if self._named:
                name = what if given is None else given
                if name not in first:
                    raise ConfigError(f"{where}: there is no column data.{what}={name}, but {', '.join(first)}")
                places[what] = first.index(str(name))
            else:
                places[what] = number if given is None else int(given)
                if not 0 <= places[what] < len(first):
                    raise ConfigError(
                        f"{where}: {len(first)} columns, with tabulators between; there is no number {places[what]} "
                        f"(data.{what}; the first is 0)"
                    )
        return places

    def _objects(self, source: Path) -> Iterator[tuple[str, Any, Any]]:
        keys = {what: what if key is None else key for what, key in self._where.items()}
        for number, line in self._reader.numbered(source):
            where = f"{source}, line {number}"
            try:
                item = json.loads(line)
            except ValueError as error:
                raise ConfigError(f"{where}: not JSON ({error})") from None
            for what, key in keys.items():
                if not isinstance(item, dict) or key not in item:
                    there = f"but {', '.join(item)}" if isinstance(item, dict) else "for this is no object"
                    raise ConfigError(f"{where}: there is no key data.{what}={key}, {there}")
            text, label = item[keys["text"]], item[keys["label"]]
            words = text if isinstance(text, list) else [text]
            if not all(isinstance(word, str) for word in words) or not isinstance(label, (str, int, float, list)):
                raise ConfigError(
                    f"{where}: {keys['text']} must be a text or a list of words, {keys['label']} a text, a number or "
                    "numbers"
                )
            yield where, text, label if isinstance(label, (str, list)) else json.dumps(label)

    def _folder(self, source: Path) -> Iterator[tuple[str, Any, Any]]:
        if self._where != {"text": None, "label": None}:
            raise ConfigError(
                f"data.text and data.label do nothing: {source} is a folder, whose names are labels; leave them out"
            )
        entries = [entry for entry in sorted(source.iterdir()) if not entry.name.startswith(".")]
        folders = [entry for entry in entries if entry.is_dir()]
        files = [entry for entry in entries if entry.suffix == ".txt"]
        if not folders and not files:
            raise ConfigError(f"data.path={source} holds neither a folder nor a .txt file for each label")
        for folder in folders:
            for file in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
                yield str(file), "\n".join(self._reader.content(file)).strip(), folder.name
        for file in files if not folders else []:
            yield from ((f"{file}, line {number}", line, file.stem) for number, line in self._reader.numbered(file))
