"""The Penn Treebank by character: the words of T. Mikolov's preparation, spelled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

from ..corpus import SPLITS, Corpus
from ..reading import whole_file
from .download import Remote
from .ptb import WORD_FILES
from .published import AS_PUBLISHED, check_counts, find_files


class PennTreebankChar(Corpus):
    """Character-level Penn Treebank: lines without spaces at their ends, `<unk>` spelled as five characters.

    `path` is a folder or an archive (such as simple-examples.tgz) with ptb.char.{train,valid,test}.txt, where spaces
    stand between characters and `_` for a space, or with the word files ptb.{train,valid,test}.txt, which hold the
    same text; without it the word files are downloaded (6 MB). Raises ConfigError unless the splits hold 5,017,482 /
    393,042 / 442,423 characters, counting one line feed a line; 50 are different ones. T. Mikolov et al., "Subword
    language modeling with neural networks" (2012).
    """

    REMOTES: ClassVar[tuple[Remote, ...]] = WORD_FILES
    CHARACTERS: ClassVar[dict[str, int]] = {"train": 5_017_482, "valid": 393_042, "test": 442_423}

    def __init__(self, *, path: str | None = None) -> None:
        names = [
            (f"ptb.char.{s}.txt", f"data/ptb.char.{s}.txt", f"ptb.{s}.txt", f"{s}.txt", f"data/ptb.{s}.txt")
            for s in SPLITS
        ]
        files: dict[str, Path] = dict(zip(SPLITS, find_files(path, names, self.REMOTES), strict=True))
        self._segments = {split: whole_file(file, "data.path") for split, file in files.items()}
        # The word files have no underscore anywhere, the spelled ones have it in every line.
        self._spelled = {split: "_" in next(AS_PUBLISHED.blocks(segment)) for split, segment in self._segments.items()}
        check_counts(self, self.CHARACTERS, "characters", files)

    def read(self, split: str) -> Iterator[str]:
        blocks = AS_PUBLISHED.blocks(self._segments[split])
        if self._spelled[split]:
            return (block.replace(" ", "").replace("_", " ") for block in blocks)
        return _stripped(blocks)

    def note(self) -> str:
        name = self._segments["train"].path.name
        return f"characters {'spelled in' if self._spelled['train'] else 'of the words in'} {name}"


def _stripped(blocks: Iterable[str]) -> Iterator[str]:
    """The lines of a text without the spaces around them."""
    tail = ""
    for block in blocks:
        *lines, tail = (tail + block).split("\n")
        yield "".join(f"{line.strip()}\n" for line in lines)
    if tail.strip():
        yield f"{tail.strip()}\n"
