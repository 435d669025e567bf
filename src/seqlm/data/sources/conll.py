"""Tagged sentences in columns: a word on each line, with its tags beside it, and a blank line after each sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from ...errors import ConfigError
from ..corpus import SPLITS
from ..examples import Example, Examples
from ..reading import Newlines, TextReader, split_blanks

# What a file of a folder is called, as one of the parts of its name: train.txt, eng.testa, en_ewt-ud-dev.conllu.
NAMES = {"train": {"train"}, "valid": {"valid", "dev", "val", "testa"}, "test": {"test", "testb"}}
DOCUMENT = "-DOCSTART-"  # the first word of a line between documents


class Conll(Examples):
    """Column files as of the CoNLL shared tasks: `path` is a folder with a file for each split, or they are given.

    `word` and `tag` are columns, by number (-1 is the last) or by name; names are given as `columns`, or are in the
    first line of each file (`columns="header"`). Columns stand apart by spaces and tabs, or each by a single `tab`.
    Lines that begin with `comment` are left out, and in .conllu files contractions (1-2) and empty nodes (1.1), whose
    words have lines of their own or none. A line -DOCSTART- ends a sentence. Raises ConfigError, naming file and line.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        train: str | None = None,
        valid: str | None = None,
        test: str | None = None,
        word: int | str = 0,
        tag: int | str = -1,
        columns: Sequence[str] | Literal["header"] | None = None,
        separator: Literal["space", "tab"] = "space",
        comment: str | None = None,
        encoding: str | None = "auto",
        newlines: Newlines | None = "universal",
    ) -> None:
        given = {"train": train, "valid": valid, "test": test}
        if (path is None) == (not any(given.values())):
            raise ConfigError("give either data.path, a folder, or data.train, data.valid and perhaps data.test")
        if path is None:
            self._files = {split: Path(name) for split, name in given.items() if name}
        else:
            self._files = _files(Path(path))
        for split, file in self._files.items():
            if not file.is_file():
                raise ConfigError(f"data.{split}={file} does not exist or is not a file")
        for split in ("train", "valid"):
            if split not in self._files:
                where = f"data.path={path} has no file for {split}" if path else f"data.{split} is not set"
                raise ConfigError(f"{where}; give data.train and data.valid, a file each")
        self._reader = TextReader(encoding, newlines)
        self.word, self.tag, self.columns, self.separator, self.comment = word, tag, columns, separator, comment
        if not isinstance(columns, str):  # else the files will say
            for key, column in (("word", word), ("tag", tag)):
                self._index(key, column, list(columns or []))

    def note(self) -> str:
        return self._reader.note()

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if split in self._files)

    def examples(self, split: str) -> Iterator[Example]:
        path = self._files[split]
        names = None if self.columns == "header" else list(self.columns or [])
        words: list[str] = []
        tags: list[str] = []
        width, first, found = 0, 0, False
        for number, line in enumerate([*self._reader.content(path), ""], start=1):
            if not line.strip() or line.split(maxsplit=1)[0] == DOCUMENT:
                if words:
                    yield {"words": words, "tags": tags}
                    words, tags, found = [], [], True
                continue
            if self.comment is not None and line.startswith(self.comment):
                continue
            parts = line.split("\t") if self.separator == "tab" else split_blanks(line)
            if names is None:
                names = parts
                continue
            word, tag = self._index("word", self.word, names), self._index("tag", self.tag, names)
            if path.suffix == ".conllu" and re.fullmatch(r"\d+[-.]\d+", parts[0]):
                continue
            width, first = width or len(parts), first or number
            if len(parts) != width:
                raise ConfigError(f"{path}, line {number}: {len(parts)} columns, but line {first} has {width}")
            if not all(-width <= column < width for column in (word, tag)):
                raise ConfigError(
                    f"{path}, line {number}: {width} columns, so there are no data.word={self.word} and "
                    f"data.tag={self.tag}; columns count from 0, or are apart by data.separator=tab"
                )
            if not parts[word] or not parts[tag]:
                raise ConfigError(f"{path}, line {number}: the word or its tag is empty")
            words.append(parts[word])
            tags.append(parts[tag])
        if not found:
            raise ConfigError(f"{path} holds no sentence")

    @staticmethod
    def _index(key: str, column: int | str, names: Sequence[str]) -> int:
        """Zero-based index of a column."""
        if isinstance(column, int):
            return column
        if column not in names:
            known = f"the columns are {', '.join(names)}" if names else "name the columns by data.columns=[...]"
            raise ConfigError(f"data.{key}={column} is unknown; {known}")
        return names.index(column)


def _files(folder: Path) -> dict[str, Path]:
    """The file of each split in a folder. Raises ConfigError if two could be."""
    if not folder.is_dir():
        raise ConfigError(f"data.path={folder} is not a folder; give one, or data.train and data.valid, a file each")
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith(".")]
    found = {}
    for split, names in NAMES.items():
        named = [file for file in files if names & set(re.split(r"[._-]", file.name.lower()))]
        if len(named) > 1:
            several = ", ".join(file.name for file in named)
            raise ConfigError(f"data.path={folder} has several files for {split}: {several}; give data.{split}=FILE")
        if named:
            found[split] = named[0]
    return found
