"""Examples from files: in splits already, or one source that is divided into splits."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from ...errors import ConfigError
from ..corpus import SPLITS, check_fractions
from ..examples import Example, Examples


class SplitExamples(Examples):
    """Examples of `path`: a folder that holds train, valid and perhaps test, or one source that is shared out.

    Sharing out needs no seed: the SHA-256 of what an example is known by, as a number in [0, 1), falls into one of the
    `fractions`; all of them are train if the one fraction is 1. So an example stays in its split when others come or
    go, and equal ones are never in two. Raises ConfigError if there is nothing, or no valid beside train.
    """

    endings: ClassVar[tuple[str, ...]]  # of the names of sources; an empty one for folders

    def __init__(self, path: str, fractions: Sequence[float]) -> None:
        root = Path(path)
        if not root.exists():
            raise ConfigError(f"data.path={path} does not exist")
        found = {split: [one for end in self.endings if (one := root / (split + end)).exists()] for split in SPLITS}
        for split, paths in found.items():  # a .csv beside another form was no source before it could be read
            found[split] = paths if len(paths) == 1 else [path for path in paths if path.suffix != ".csv"]
        self._sources = {split: paths[0] for split, paths in found.items() if paths}
        for split, paths in found.items():
            if len(paths) > 1:
                raise ConfigError(f"data.path={path} has {split} twice: {paths[0].name} and {paths[1].name}")
            if self._sources and not paths and split != "test":
                raise ConfigError(
                    f"data.path={path} has {', '.join(one.name for one in self._sources.values())}, but no {split}; "
                    "give both train and valid, or one source that data.fractions share out"
                )
        whole = list(fractions) == [1]
        if whole and self._sources:
            names = ", ".join(one.name for one in self._sources.values())
            raise ConfigError(f"{path} holds {names}, which are splits; give one of them")
        self._root, self._fractions = root, fractions if whole else check_fractions(fractions)

    @abstractmethod
    def read(self, source: Path) -> Iterator[tuple[str, Example]]:
        """The examples of a source, each with the name it is known by."""

    def splits(self) -> tuple[str, ...]:
        return tuple(self._sources) or SPLITS[: len(self._fractions)]

    def examples(self, split: str) -> Iterator[Example]:
        source = self._sources.get(split, self._root)
        return (example for name, example in self.read(source) if self._sources or self._share(name) == split)

    def _share(self, name: str) -> str:
        """The split that an example of this name falls into."""
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        ends = [sum(self._fractions[: index + 1]) for index in range(len(self._fractions) - 1)]
        return SPLITS[sum(place >= end for end in ends)]
