"""Any UTF-8 text: a file, a folder of files, or files that are split already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import ConfigError
from ..corpus import SPLITS, Corpus, check_fractions
from ..reading import Newlines, Segment, TextReader, whole_file


def _files(path: Path, key: str) -> list[Segment]:
    """`path` itself, or all non-empty files below it that are not hidden, sorted by name."""
    if not path.exists():
        raise ConfigError(f"{key}={path} does not exist")
    if path.is_file():
        return [whole_file(path, key)]
    found = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file()
        and file.stat().st_size
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not found:
        raise ConfigError(f"{key}={path} is a folder without any text in it")
    return [whole_file(file, key) for file in found]


def _cut(segments: Sequence[Segment], position: int) -> int:
    """Move a byte position within the concatenation of `segments` to the start of a line, or of a character."""
    before = 0
    for path, start, end in segments:
        if position <= before + end - start:
            with path.open("rb") as handle:
                handle.seek(start + position - before)
                line = handle.readline(1 << 16)
            if line.endswith(b"\n"):
                return position + len(line)
            while line and line[0] & 0xC0 == 0x80:  # inside a character
                line, position = line[1:], position + 1
            return position
        before += end - start
    return before


def _between(segments: Sequence[Segment], first: int, last: int) -> list[Segment]:
    """The bytes `first` to `last` of the concatenation of `segments`."""
    pieces, before = [], 0
    for path, start, end in segments:
        low, high = max(first - before, 0), min(last - before, end - start)
        if low < high:
            pieces.append(Segment(path, start + low, start + high))
        before += end - start
    return pieces


class TextCorpus(Corpus):
    """UTF-8 text from `path` (a file or a folder), or from `train`, `valid` and `test` files given apart.

    A folder that holds train.txt and valid.txt (and perhaps test.txt) is taken as split already.
    Otherwise `path` is cut in order, at line ends, into `fractions` of its bytes. Raises ConfigError for
    missing, empty or badly encoded files.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        train: str | None = None,
        valid: str | None = None,
        test: str | None = None,
        fractions: Sequence[float] = (0.9, 0.05, 0.05),
        encoding: str | None = "auto",
        newlines: Newlines | None = "universal",
    ) -> None:
        self._reader = TextReader(encoding, newlines)
        given = {"train": train, "valid": valid, "test": test}
        if path is None and train is None:
            raise ConfigError("data.path is not set: give a file or folder, or data.train and data.valid apart")
        if path is not None and any(given.values()):
            raise ConfigError("data.path and data.train/valid/test exclude each other: give one or the other")
        if path is None:
            if valid is None:
                raise ConfigError("data.valid is not set: a model is chosen on it; or give data.path alone to be split")
            self._segments = {split: _files(Path(name), f"data.{split}") for split, name in given.items() if name}
            return
        root = Path(path)
        if (root / "train.txt").is_file() and (root / "valid.txt").is_file():
            present = [split for split in SPLITS if (root / f"{split}.txt").is_file()]
            self._segments = {split: _files(root / f"{split}.txt", "data.path") for split in present}
            return
        check_fractions(fractions)
        segments = _files(root, "data.path")
        total = sum(end - start for _, start, end in segments)
        cuts = [0]
        for index in range(1, len(fractions)):
            cuts.append(max(cuts[-1], _cut(segments, round(total * sum(fractions[:index])))))
        cuts.append(total)
        self._segments = {}
        for split, first, last in zip(SPLITS, cuts, cuts[1:], strict=False):
            self._segments[split] = _between(segments, first, last)
            if not self._segments[split]:
                raise ConfigError(
                    f"data.path={path} has too few lines to split: nothing is left for {split}; "
                    "give data.train and data.valid apart, or other data.fractions"
                )

    def splits(self) -> tuple[str, ...]:
        return tuple(self._segments)

    def size(self, split: str) -> int:
        return sum(end - start for _, start, end in self._segments[split])

    def read(self, split: str) -> Iterator[str]:
        last = "\n"
        for segment in self._segments[split]:
            if segment.start == 0 and last != "\n":  # the file before ended without a line feed
                yield "\n"
            for block in self._reader.blocks(segment):
                last = block[-1:] or last
                yield block

    def note(self) -> str:
        return self._reader.note()
