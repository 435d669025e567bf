"""Tagged sentences in files side by side: words in seq.in, their tags in seq.out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from ...errors import ConfigError
from ..corpus import SPLITS
from ..examples import Example, Examples
from ..reading import Newlines, TextReader, split_blanks
from .empties import Empties

WORDS, TAGS, LABEL = "seq.in", "seq.out", "label"


class Iob(Examples):
    """Tagged sentences: `path` is the folder with train, valid and perhaps test.

    Each holds seq.in and seq.out, a sentence and its tags on each line, with spaces or tabs between; a file `label`, if
    it has one, holds a label for each sentence. Raises ConfigError, naming file and line.

    Args:
        encoding, newlines: arguments of TextReader
        skip_empty: leave out sentences without words, tags or label
    """

    formats = ("conll",)
    files: ClassVar[tuple[str, ...]] = (WORDS, TAGS)
    needed: ClassVar[tuple[str, ...]] = ("train", "valid")

    def __init__(
        self,
        *,
        path: str,
        encoding: str | None = "auto",
        newlines: Newlines | None = "universal",
        skip_empty: bool = False,
    ) -> None:
        self.path, self._reader, self._empties = Path(path), TextReader(encoding, newlines), Empties(skip_empty)
        present = [split for split in SPLITS if split in self.needed or (self.path / split).is_dir()]
        expected = [f"{split}/{name}" for split in present for name in self.files]
        missing = [name for name in expected if not (self.path / name).is_file()]
        if missing:
            raise ConfigError(
                f"data.path={path} has no {missing[0]}; it should hold {', '.join(self.needed)}, "
                f"each with {', '.join(self.files)}"
            )
        self._splits = tuple(present)

    def note(self) -> str:
        return "; ".join(filter(None, [self._empties.note(), self._reader.note()]))

    def splits(self) -> tuple[str, ...]:
        return self._splits

    def examples(self, split: str) -> Iterator[Example]:
        files = [self.path / split / name for name in (WORDS, TAGS, LABEL)]
        columns = {file.name: list(self._reader.lines(file)) for file in files if file.is_file()}
        full = {
            name: max((n for n, line in enumerate(lines, 1) if line.strip()), default=0)
            for name, lines in columns.items()
        }
        if empty_files := [name for name, count in full.items() if not count]:
            raise ConfigError(f"{self.path / split / empty_files[0]} is empty")
        size = max(full.values())  # lines after it are empty in every file
        if any(len(lines) < size for lines in columns.values()):
            counts = ", ".join(f"{name} {count}" for name, count in full.items())
            raise ConfigError(f"{self.path / split}: the files have different numbers of lines: {counts}")
        with self._empties.of(self.path / split) as empty:
            for number, lines in enumerate(zip(*(lines[:size] for lines in columns.values()), strict=True), start=1):
                words, tags = split_blanks(lines[0]), split_blanks(lines[1])
                if missing := [name for name, line in zip(columns, lines, strict=True) if not line.strip()]:
                    empty(f"line {number} of {' and '.join(missing)}")
                    continue
                if len(words) != len(tags):
                    raise ConfigError(f"{self.path / split}, line {number}: {len(words)} words, {len(tags)} tags")
                yield {"words": words, "tags": tags, **({"label": lines[2].strip()} if LABEL in columns else {})}
