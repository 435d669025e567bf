"""Examples: sequences that begin and end, with what is to be said of them."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

# What an example may hold, by field:
#   words     the sequence that is read: a list of strings, or a text that the tokenizer splits
#   features  instead of words, or beside them: an array (T, F) of numbers, or what becomes one when it is read
#   tags      a list of strings, one for each word
#   label     a string
#   target    another sequence, as words
Example: TypeAlias = Mapping[str, Any]
FIELDS = ("words", "features", "tags", "label", "target")
SEQUENCES = ("words", "tags", "target", "features")


# What a field may become by data.rename, besides nothing: a text another text, a label a text as well.
RENAMES = {"words": ("words", "target"), "target": ("words", "target"), "label": ("label", "words", "target")}


def check_rename(rename: Any) -> list[str]:
    """What is wrong with data.rename, a line each."""
    if rename is None:
        return []
    if not isinstance(rename, Mapping):
        return [f"data.rename={rename} should be a mapping, as {{words: target, label: null}}, or null"]
    problems = []
    for old, new in rename.items():
        if old not in FIELDS:
            problems.append(f"data.rename.{old} is no field; there are {', '.join(FIELDS)}")
        elif new is not None and new not in RENAMES.get(old, (old,)):
            allowed = [*RENAMES.get(old, ()), "null"]
            problems.append(f"data.rename.{old}={new} should be {' or '.join(allowed)}")
    return problems


class Examples(ABC):
    """Examples in splits (`train`, `valid`, `test`); a source is one file in this folder and one YAML."""

    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The names of the splits there are, in the order train, valid, test."""

    @abstractmethod
    def examples(self, split: str) -> Iterator[Example]:
        """The examples of `split`, in order."""

    def fingerprint(self, split: str) -> str:
        """A hash that changes whenever an example of `split` does."""
        digest = hashlib.sha256()
        for example in self.examples(split):
            for name, value in sorted(example.items()):
                digest.update(f"{name}\0".encode())
                if name == "features":
                    digest.update(str(value.shape).encode() + np.asarray(value).tobytes())
                else:
                    digest.update(json.dumps(value).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def note(self) -> str:
        """One line about this source for the header of a run, or nothing."""
        return ""
