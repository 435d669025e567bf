"""Examples: sequences that begin and end, with a target each."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, TypeAlias

from .corpus import SPLITS
from .field import Field
from .fields import FIELDS

Format: TypeAlias = Literal["text", "conll", "tsv", "jsonl", "npz"]  # of a file with examples
Example: TypeAlias = Mapping[str, Any]  # values by the `source` of a field: see fields.py


def check_rename(rename: Any) -> list[str]:
    """The mistakes in data.rename, a line each."""
    if rename is None:
        return []
    if not isinstance(rename, Mapping):
        return [f"data.rename={rename} should be a mapping, as {{words: target, label: null}}, or null"]
    known = {kind.source: kind for kind in reversed(FIELDS.values())}
    problems = []
    for old, new in rename.items():
        if old not in known:
            names = ", ".join(name for name in FIELDS if name in known)
            problems.append(f"data.rename.{old} is no field; there are {names}")
        elif new is not None and new not in (allowed := (old, *known[old].renames)):
            problems.append(f"data.rename.{old}={new} should be {' or '.join([*allowed, 'null'])}")
    return problems


class Examples(ABC):
    """Examples in splits (`train`, `valid`, `test`); a source is one file in sources/ and one YAML."""

    formats: ClassVar[tuple[Format, ...]] = ()  # of its files, the usual one first

    def splits(self) -> tuple[str, ...]:
        """The names of the splits there are, in the order train, valid, test: all three, unless overridden."""
        return SPLITS

    @abstractmethod
    def examples(self, split: str) -> Iterator[Example]:
        """The examples of `split`, in order."""

    def fingerprint(self, split: str) -> str:
        """A hash that changes whenever an example of `split` does."""
        digest = hashlib.sha256()
        for example in self.examples(split):
            for name, value in sorted(example.items()):
                digest.update(f"{name}\0".encode())
                digest.update(FIELDS.get(name, Field).digest(value))
        return digest.hexdigest()

    def note(self) -> str:
        """One line about this source for the header of a run, or nothing."""
        return ""
