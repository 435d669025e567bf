"""Examples as JSON lines, with their fields by name: the format of any run of examples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...errors import ConfigError
from ..examples import Example, Examples
from ..reading import Newlines, TextReader


class Records(Examples):
    """An object on each line of `path`: {"words": ["show", "flights"], "tags": ["O", "O"]}. All of it is train.

    Raises ConfigError with file and line.
    """

    def __init__(self, *, path: str, encoding: str | None = "auto", newlines: Newlines | None = "universal") -> None:
        self._path, self._reader = Path(path), TextReader(encoding, newlines)

    def splits(self) -> tuple[str, ...]:
        return ("train",)

    def note(self) -> str:
        return self._reader.note()

    def examples(self, split: str) -> Iterator[Example]:
        fields: set[str] | None = None
        for number, example in self._reader.objects(self._path):
            where = f"{self._path}, line {number}"
            if not isinstance(example, dict):
                raise ConfigError(f'{where}: not an object with the fields of an example, as {{"words": ["a", "b"]}}')
            fields = fields or set(example)
            if fields != set(example):
                raise ConfigError(f"{where}: has {', '.join(example)}, the first line {', '.join(sorted(fields))}")
            yield example
