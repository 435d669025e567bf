"""Any text: a file, a folder of files, or files that are split already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import ConfigError
from ..corpus import SPLITS, Corpus, check_fractions
from ..reading import Newlines, Segment, TextReader, whole_file
from .cuts import cut_text
from .folder import Folder


class TextCorpus(Corpus):
    """Text from `path` (a file or a folder), or from `train`, `valid` and `test` files given apart.

    A folder that holds train.txt and valid.txt (and perhaps test.txt) is taken as split already; of any other, hidden
    files, runs (`outputs` is where they are written) and files that are no text are skipped. `path` is cut in order,
    at line ends, or inside a line where none is near, into `fractions` of its bytes. `encoding` and `newlines` are
    arguments of TextReader. Raises ConfigError for missing, empty or badly encoded files.
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
        outputs: str | None = None,
    ) -> None:
        self._reader, self._outputs = TextReader(encoding, newlines), outputs
        self._folders: list[Folder] = []
        given = {"train": train, "valid": valid, "test": test}
        if path is None and train is None:
            raise ConfigError("data.path is not set: give a file or folder, or data.train and data.valid apart")
        if path is not None and any(given.values()):
            raise ConfigError("data.path and data.train/valid/test exclude each other: give one or the other")
        if path is None:
            if valid is None:
                raise ConfigError("data.valid is not set: a model is chosen on it; or give data.path alone to be split")
            self._segments = {split: self._files(Path(name), f"data.{split}") for split, name in given.items() if name}
            return
        root = Path(path)
        if (root / "train.txt").is_file() and (root / "valid.txt").is_file():
            present = [split for split in SPLITS if (root / f"{split}.txt").is_file()]
            self._segments = {split: self._files(root / f"{split}.txt", "data.path") for split in present}
            return
        check_fractions(fractions)
        parts = cut_text(self._files(root, "data.path"), fractions, self._reader)
        self._segments = dict(zip(SPLITS, parts, strict=False))
        if empty := [split for split, part in self._segments.items() if not part]:
            raise ConfigError(
                f"data.path={path} is too short to split: nothing is left for {empty[0]}; give data.train and "
                "data.valid apart, or other data.fractions"
            )

    def _files(self, path: Path, key: str) -> list[Segment]:
        """`path` itself, or all texts below it."""
        if not path.exists():
            raise ConfigError(f"{key}={path} does not exist")
        if not path.is_dir():
            return [whole_file(path, key)]
        folder = Folder(path, self._reader, self._outputs)
        found = folder.texts()
        if not found:
            why = f" ({folder.note()})" if folder.note() else ""
            raise ConfigError(f"{key}={path} is a folder without any text in it{why}")
        self._folders.append(folder)
        return [whole_file(file, key) for file in found]

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
        return "; ".join(filter(None, [*(folder.note() for folder in self._folders), self._reader.note()]))
