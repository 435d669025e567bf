"""ATIS: questions about flights, with a tag for every word and an intent for every sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigError
from .corpus import SPLITS
from .examples import Example, Examples

FILES = ("seq.in", "seq.out", "label")


class Atis(Examples):
    """The Airline Travel Information System set: `path` is the folder with train, valid and test.

    Each holds seq.in, seq.out and label, a sentence on each line. C. T. Hemphill, J. J. Godfrey and G. R. Doddington
    (1990), split as in C.-W. Goo et al., "Slot-Gated Modeling" (2018).
    """

    def __init__(self, *, path: str) -> None:
        self.path = Path(path)
        missing = [f"{split}/{name}" for split in SPLITS for name in FILES if not (self.path / split / name).is_file()]
        if missing:
            raise ConfigError(
                f"data.path={path} has no {missing[0]}; it should hold {', '.join(SPLITS)}, "
                f"each with {', '.join(FILES)}"
            )

    def splits(self) -> tuple[str, ...]:
        return SPLITS

    def examples(self, split: str) -> Iterator[Example]:
        texts = [(self.path / split / name).read_text(encoding="utf-8").splitlines() for name in FILES]
        if len({len(lines) for lines in texts}) > 1:
            counts = ", ".join(f"{name} {len(lines)}" for name, lines in zip(FILES, texts, strict=True))
            raise ConfigError(f"data.path={self.path / split}: the files have different numbers of lines: {counts}")
        for number, (words, tags, label) in enumerate(zip(*texts, strict=True), start=1):
            example = {"words": words.split(), "tags": tags.split(), "label": label.strip()}
            if len(example["words"]) != len(example["tags"]):
                raise ConfigError(
                    f"{self.path / split}, line {number}: {len(example['words'])} words, {len(example['tags'])} tags"
                )
            yield example
