"""The Penn Treebank as prepared by T. Mikolov: 10,000 word types, one sentence a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigError
from .corpus import Corpus, TextCounts
from .text import read_utf8, whole_file

# Words and one <eos> a line. Another count means another preparation, whose perplexities do not compare.
TOKENS = {"train": 929_589, "valid": 73_760, "test": 82_430}


class PennTreebank(Corpus):
    """Word-level Penn Treebank from a folder `path` with {train,valid,test}.txt or ptb.{train,valid,test}.txt.

    Raises ConfigError unless the splits hold exactly 929,589 / 73,760 / 82,430 tokens, counting one
    <eos> a line. T. Mikolov et al., "Recurrent neural network based language model", Interspeech (2010).
    """

    def __init__(self, *, path: str) -> None:
        root = Path(path)
        if not root.is_dir():
            raise ConfigError(
                f"data.path={path} is not a folder; data=ptb wants the one with train.txt, valid.txt, test.txt"
            )
        self._segments = {}
        for split in TOKENS:
            names = (f"{split}.txt", f"ptb.{split}.txt")
            found = [root / name for name in names if (root / name).is_file()]
            if not found:
                raise ConfigError(f"data.path={path} has no {names[0]} and no {names[1]} in it")
            self._segments[split] = whole_file(found[0], "data.path")
        for split, expected in TOKENS.items():
            counts = TextCounts()
            for block in self.read(split):
                counts.add(block)
            if counts.words != expected:
                raise ConfigError(
                    f"data.path={path}: {self._segments[split].path.name} holds {counts.words:,} tokens, "
                    f"the Penn Treebank of the literature {expected:,}; for another text use data=text"
                )

    def splits(self) -> tuple[str, ...]:
        return tuple(TOKENS)

    def read(self, split: str) -> Iterator[str]:
        return read_utf8(self._segments[split])
