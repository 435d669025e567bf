"""Tagged sentences in columns: a word on each line, with its tags beside it, and a blank line after each sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ...errors import ConfigError
from ..corpus import SPLITS
from ..examples import Example, Examples
from ..reading import Newlines, TextReader, split_blanks
from .empties import Empties

# What a file of a folder is called, as one of the parts of its name: train.txt, eng.testa, en_ewt-ud-dev.conllu.
NAMES = {"train": {"train"}, "valid": {"valid", "dev", "val", "testa"}, "test": {"test", "testb"}}
DOCUMENT = "-DOCSTART-"  # the first word of a line between documents
# The columns of a .conllu file (https://universaldependencies.org/format.html).
CONLLU = ["id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc"]
Which: TypeAlias = Literal["word", "tag"]
WHICH: tuple[Which, ...] = ("word", "tag")


@dataclass(frozen=True)
class Layout:
    """How the lines of a file are read: the columns of words and tags, and the other arguments of Conll."""

    word: int | str = 0
    tag: int | str = -1
    columns: Sequence[str] | Literal["header"] | None = None
    separator: Literal["space", "tab"] = "space"
    comment: str | None = None

    def for_conllu(self) -> Layout:
        """The same with what a .conllu file needs in place of each default."""
        usual = Layout()
        return Layout(
            CONLLU.index("form") if self.word == usual.word else self.word,
            CONLLU.index("upos") if self.tag == usual.tag else self.tag,
            self.columns or CONLLU,
            "tab",
            self.comment or "#",
        )

    def place(self, key: Which, names: Sequence[str]) -> int:
        """The zero-based index of the column of words or tags."""
        column = self.word if key == "word" else self.tag
        if isinstance(column, int):
            return column
        if column not in names:
            known = f"the columns are {', '.join(names)}" if names else "name the columns by data.columns=[...]"
            raise ConfigError(f"data.{key}={column} is unknown; {known}")
        return names.index(column)

    def parts(self, line: str) -> list[str]:
        """The columns of a line. A word may hold any other space than those that separate."""
        return line.split("\t") if self.separator == "tab" else split_blanks(line)


class Conll(Examples):
    """Column files as of the CoNLL shared tasks: `path` is a folder with a file for each split, or they are given.

    `word` and `tag` are columns, by number (-1 is the last) or by name; names are given as `columns`, or are in the
    first line of each file (`columns="header"`). Columns stand apart by spaces and tabs, or each by a single `tab`.
    Lines that begin with `comment` are left out. A line -DOCSTART- ends a sentence. Raises ConfigError, naming file and
    line.

    In a .conllu file the defaults stand for its form and upos, tabs, comments that begin with #, and the names of its
    columns; contractions (1-2) and empty nodes (1.1), whose words have lines of their own or none, are left out.

    Args:
        encoding, newlines: arguments of TextReader
        skip_empty: leave out sentences in which a word or a tag is empty
    """

    formats = ("conll",)

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
        skip_empty: bool = False,
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
        self._reader, self._empties = TextReader(encoding, newlines), Empties(skip_empty)
        self._layouts: dict[Path, Layout] = {}
        for file in self._files.values():
            layout = Layout(word, tag, columns, separator, comment)
            self._layouts[file] = layout = layout.for_conllu() if self._is_conllu(file) else layout
            if not isinstance(layout.columns, str):  # else the files will say
                for key in WHICH:
                    layout.place(key, layout.columns or [])

    def note(self) -> str:
        return "; ".join(filter(None, [self._empties.note(), self._reader.note()]))

    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if split in self._files)

    def examples(self, split: str) -> Iterator[Example]:
        path, found = self._files[split], False
        with self._empties.of(path) as empty:
            for rows in self._sentences(path):
                gap = next((number for number, word, tag in rows if not word or not tag), None)
                if gap is not None:
                    empty(f"line {gap}: the word or its tag is empty")
                    continue
                found = True
                yield {"words": [word for _, word, _ in rows], "tags": [tag for _, _, tag in rows]}
        if not found:
            raise ConfigError(f"{path} holds no sentence")

    def _sentences(self, path: Path) -> Iterator[list[tuple[int, str, str]]]:
        """The sentences of a file: the number, word and tag of each of their lines."""
        layout = self._layouts[path]
        names = None if layout.columns == "header" else list(layout.columns or [])
        rows: list[tuple[int, str, str]] = []
        width, first = 0, 0
        for number, line in enumerate([*self._reader.content(path), ""], start=1):
            if not line.strip() or split_blanks(line)[:1] == [DOCUMENT]:
                if rows:
                    yield rows
                    rows = []
                continue
            if layout.comment is not None and line.startswith(layout.comment):
                continue
            parts = layout.parts(line)
            if names is None:
                names = parts
                continue
            word, tag = layout.place("word", names), layout.place("tag", names)
            if path.suffix.lower() == ".conllu" and re.fullmatch(r"\d+[-.]\d+", parts[0]):
                continue
            width, first = width or len(parts), first or number
            if len(parts) != width:
                raise ConfigError(
                    f"{path}, line {number}: {len(parts)} columns, but line {first} has {width}{self._hint(path, line)}"
                )
            if not all(-width <= column < width for column in (word, tag)):
                raise ConfigError(
                    f"{path}, line {number}: {width} columns, so there are no data.word={layout.word} and "
                    f"data.tag={layout.tag}; columns count from 0, or are apart by data.separator=tab"
                )
            rows.append((number, parts[word], parts[tag]))
        if layout.columns is CONLLU:
            form, upos = (CONLLU[layout.place(key, CONLLU)] for key in WHICH)
            self._reader.remark(f"read as CoNLL-U, column {form} and its {upos}", str(path))

    def _is_conllu(self, path: Path) -> bool:
        """Whether a file is named .conllu and has the ten columns of that format."""
        lines = (line for line in self._reader.lines(path) if line.strip() and not line.startswith("#"))
        return path.suffix.lower() == ".conllu" and len(next(lines, "").split("\t")) == len(CONLLU)

    def _hint(self, path: Path, line: str) -> str:
        """Keys that may be meant, where lines do not have as many columns."""
        layout = self._layouts[path]
        comment = layout.comment is None and any(one.startswith("#") for one in self._reader.content(path))
        hints = ["data.comment='#' leaves out lines that begin with #"] * comment
        hints += ["data.separator=tab takes spaces for parts of words"] * ("\t" in line and layout.separator == "space")
        return "".join(f"; {hint}" for hint in hints)


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
