"""The files of a folder that hold data: hidden files, those of runs, and those that are no text are passed over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ...errors import ConfigError
from ..reading import TextReader


class Folder:
    """A folder of texts, and what in it was passed over.

    Args:
        root: the folder
        reader: tells texts from other files
        outputs: where runs are written; with everything below it no data, unless `root` is there
    """

    def __init__(self, root: Path, reader: TextReader, outputs: str | None = None) -> None:
        self.root, self._reader = root, reader
        self._outputs = None if outputs is None else Path(outputs).resolve()
        self._skipped: Counter[str] = Counter()

    def texts(self) -> list[Path]:
        """All texts below the folder that are not empty, sorted by name. Links to folders are not followed."""
        self._skipped.clear()
        return sorted(self._walk(self.root))

    def entries(self) -> list[Path]:
        """The folders and files in the folder itself, sorted by name."""
        self._skipped.clear()
        return [entry for entry in sorted(self.root.iterdir()) if not self._passed_over(entry, entry.is_dir())]

    def note(self) -> str:
        """One line about what was passed over; empty if nothing was."""
        skipped = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self._skipped.items()))
        return f"skipped in {self.root.name or self.root}: {skipped}" if skipped else ""

    def _walk(self, root: Path) -> Iterator[Path]:
        def refuse(error: OSError) -> None:
            raise ConfigError(f"{error.filename} cannot be read ({error.strerror})")

        for folder, folders, files in os.walk(root, onerror=refuse):
            folders[:] = [name for name in folders if not self._passed_over(Path(folder, name), True)]
            for path in (Path(folder, name) for name in files):
                if not self._passed_over(path, False) and path.is_file() and path.stat().st_size:
                    yield path

    def _passed_over(self, path: Path, is_folder: bool) -> bool:
        """Whether a file or a folder is no data; counts it."""
        kind = self._kind(path, is_folder)
        if kind:
            self._skipped[kind] += 1
        return bool(kind)

    def _kind(self, path: Path, is_folder: bool) -> str:
        if path.name.startswith("."):
            return "hidden"
        if is_folder:
            if (path / "run.json").is_file() and (path / "config.yaml").is_file():
                return "of runs"
            return "of runs" if path.resolve() == self._outputs else "linked" if path.is_symlink() else ""
        if not path.is_file():  # a pipe, or a link to nothing
            return "not regular"
        try:
            return "binary" if self._reader.is_binary(path) else ""
        except ConfigError:
            if path.exists():
                raise
            return "gone"
