"""Translations: two texts that correspond line by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...errors import ConfigError
from ..corpus import SPLITS
from ..examples import Example, Examples
from ..reading import Newlines, TextReader, whole_file
from .empties import Empties


class Parallel(Examples):
    """Pairs of lines: of two files for each split, or of one file with a tab between source and target.

    `path` is a folder. With `source` and `target`, de and en say, it holds train.de and train.en, valid.de and
    valid.en, perhaps test.de and test.en; else train.tsv, valid.tsv, perhaps test.tsv. Or `train`, `valid` and `test`
    name files with tabs, wherever they are. What stands behind a second tab is left out. Raises ConfigError, naming
    file and line, if two files do not have the same number of lines, a text is empty, or one has no tab.

    Args:
        encoding, newlines: arguments of TextReader
        skip_empty: leave out pairs in which a text is empty
    """

    formats = ("tsv",)

    def __init__(
        self,
        *,
        path: str | None = None,
        source: str | None = None,
        target: str | None = None,
        train: str | None = None,
        valid: str | None = None,
        test: str | None = None,
        encoding: str | None = "auto",
        newlines: Newlines | None = "universal",
        skip_empty: bool = False,
    ) -> None:
        self._reader, self._empties = TextReader(encoding, newlines), Empties(skip_empty)
        given = {"train": train, "valid": valid, "test": test}
        if (path is None) == (train is None and valid is None and test is None):
            raise ConfigError(
                "give data.path, a folder, or data.train and data.valid, files with tabs: one or the other"
            )
        if (source is None) != (target is None):
            raise ConfigError("data.source and data.target are endings of files, de and en say: give both or none")
        if path is None and source is not None:
            raise ConfigError(f"data.source={source} needs data.path, the folder of train.{source} and train.{target}")
        endings = ["tsv"] if source is None else [source, str(target)]
        self._files: dict[str, list[Path]] = {}
        for split in SPLITS:
            name = given[split]
            files = [Path(path) / f"{split}.{ending}" for ending in endings] if path else [Path(name)] if name else []
            if split == "test" and path and not any(file.is_file() for file in files):
                continue
            if not files and split != "test":
                raise ConfigError(
                    f"data.{split} is not set: give a file with a source, a tab and a target on each line"
                )
            if files:
                self._files[split] = files
                for file in files:
                    whole_file(file, "data.path" if path else f"data.{split}")

    def note(self) -> str:
        return "; ".join(filter(None, [self._empties.note(), self._reader.note()]))

    def splits(self) -> tuple[str, ...]:
        return tuple(self._files)

    def examples(self, split: str) -> Iterator[Example]:
        files = self._files[split]
        texts = [list(self._reader.lines(file)) for file in files]
        if len(texts) == 2 and len(texts[0]) != len(texts[1]):
            counts = " and ".join(f"{file} {len(lines):,}" for file, lines in zip(files, texts, strict=True))
            remarks = "".join(f"; {remark}" for remark in [self._reader.note()] if remark)
            raise ConfigError(f"lines do not correspond: {counts} lines{remarks}")
        with self._empties.of(files[0]) as empty:
            for number, lines in enumerate(zip(*texts, strict=True), start=1):
                pair = list(lines) if len(lines) == 2 else lines[0].split("\t")
                if len(pair) < 2 and pair[0].strip():
                    raise ConfigError(f"{files[0]}, line {number}: there is no tab between a source and a target")
                source, target = (text.strip() for text in (*pair, "")[:2])
                if not source or not target:
                    both = "the source and the target are" if not (source or target) else ""
                    empty(f"line {number}: {both or ('the source is' if target else 'the target is')} empty")
                    continue
                yield {"words": source, "target": target}
