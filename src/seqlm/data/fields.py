"""Fields of examples: how each is counted, encoded and padded. A new kind of input or target is one class of these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from .batching.batches import IGNORE_INDEX
from .field import Field, padded
from .number_fields import Features, Value
from .tag_schemes import CONLLEVAL, TagScheme, named, recognise, transitions
from .tokenizers.text import EOS, UNK, Tokenizer, most_frequent, texts_of

if TYPE_CHECKING:
    from .tokenizers.examples import ExampleTokenizer

PAD = "<pad>"
UNKNOWN, END = 0, 1  # ids of <unk> and <eos> in vocabularies of text


class Vocabulary(Field):
    """A field of items with an id each, the most frequent ones first after the `specials`."""

    size: ClassVar[str]
    specials: ClassVar[tuple[str, ...]] = ()

    def __init__(self, tokenizer: ExampleTokenizer) -> None:
        super().__init__(tokenizer)
        self.seen: Counter[str] = Counter()
        self._set([], [])

    def _set(self, items: list[str], counts: list[int]) -> None:
        self.items, self.counts = items, counts  # `counts`: how often train has each; older tokenizers: none
        self.ids = {item: index for index, item in enumerate(items)}

    def units(self, value: Any) -> Iterable[str]:
        """The items of a value."""
        return list(value)

    def cut(self) -> tuple[int, int | None]:
        """`min_count` and `max_size` of the vocabulary."""
        return 1, None

    def see(self, value: Any) -> None:
        self.seen.update(self.units(value))

    def fit(self) -> None:
        items = most_frequent(self.seen, self.specials, *self.cut())
        self._set(items, [self.seen[item] for item in items])

    @property
    def sizes(self) -> dict[str, int]:
        return {self.size: len(self.items)}

    def save(self, data: dict[str, Any]) -> None:
        data["vocabularies"][self.name], data["counts"][self.name] = self.items, self.counts

    def load(self, data: Mapping[str, Any]) -> bool:
        items = data["vocabularies"].get(self.name)
        if items is not None:
            counts = data.get("counts", {}).get(self.name, [])
            whole = isinstance(counts, list) and all(isinstance(count, int) for count in counts)
            if not whole or len(counts) not in (0, len(items)):
                raise ValueError(f"counts.{self.name} should be a whole number for each of vocabularies.{self.name}")
            self._set(texts_of(f"vocabularies.{self.name}", items), counts)
        return items is not None

    def encode(self, value: Any) -> Any:
        unknown = UNKNOWN if self.specials else IGNORE_INDEX
        return np.array([self.ids.get(unit, unknown) for unit in self.units(value)], dtype=np.int64)

    def lacks(self, encoded: Any) -> str:
        return f"train has none of its {self.name}" if np.all(encoded == IGNORE_INDEX) else ""


class Words(Vocabulary):
    """The sequence that is read: a list of strings, or a text that the tokenizer splits."""

    name = source = title = "words"
    size, specials, renames = "vocab_size", (UNK, EOS), ("target",)
    sequence = aligned = True

    def units(self, value: Any) -> list[str]:
        return self.tokenizer.units(value)

    def cut(self) -> tuple[int, int | None]:
        return self.tokenizer.min_count, self.tokenizer.max_size

    def pad(self, values: Sequence[Any]) -> dict[str, Tensor]:
        """With `word_counts`, how often train has each word."""
        fields = super().pad(values)
        return {**fields, "word_counts": self._counts[fields["words"]]} if self.counts else fields

    @cached_property
    def _counts(self) -> Tensor:
        return torch.tensor(self.counts)


class Characters(Vocabulary):
    """The characters of each word: (T, B, L) with `character_lengths` (T, B)."""

    name, source = "characters", "words"
    size, specials = "num_chars", (UNK, PAD)

    def units(self, value: Any) -> Iterable[str]:
        return "".join(self.tokenizer.split(value))

    def encode(self, value: Any) -> list[list[int]]:
        return [[self.ids.get(character, UNKNOWN) for character in unit] for unit in self.tokenizer.split(value)]

    def pad(self, values: Sequence[Any]) -> dict[str, Tensor]:
        longest = max((len(word) for words in values for word in words), default=0)
        spelt = np.zeros((max(map(len, values)), len(values), max(longest, 1)), dtype=np.int64)
        lengths = np.zeros(spelt.shape[:2], dtype=np.int64)
        for index, words in enumerate(values):
            for step, word in enumerate(words):
                spelt[step, index, : len(word)], lengths[step, index] = word, len(word)
        return {"characters": torch.from_numpy(spelt), "character_lengths": torch.from_numpy(lengths)}


class Target(Words):
    """Another sequence, as words; its end is a target too."""

    name = source = title = "target"
    size, renames = "target_size", ("words",)
    aligned, fill = False, IGNORE_INDEX

    def pad(self, values: Sequence[Any]) -> dict[str, Tensor]:
        return Field.pad(self, values)

    def lacks(self, encoded: Any) -> str:
        return ""

    @staticmethod
    def targets(tensor: Tensor) -> int:
        return Field.targets(tensor) + tensor.shape[1]


class Tags(Vocabulary):
    """A list of strings, one for each step; one that train lacks has no id.

    `scheme` is how they say where entities are, None if they do not, with the reason in `no_scheme`.
    """

    name = source = title = "tags"
    size, fill = "num_tags", IGNORE_INDEX
    sequence = aligned = True

    def __init__(self, tokenizer: ExampleTokenizer) -> None:
        super().__init__(tokenizer)
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.scheme: TagScheme | None = CONLLEVAL
        self.no_scheme = ""

    def see(self, value: Any) -> None:
        super().see(value)
        self.pairs.update(transitions(value))

    def fit(self) -> None:
        super().fit()
        self.scheme, self.no_scheme = recognise(self.items, self.pairs)

    def save(self, data: dict[str, Any]) -> None:
        super().save(data)
        data["tag_scheme"] = self.scheme and self.scheme.name

    def load(self, data: Mapping[str, Any]) -> bool:
        """An older tokenizer has no scheme: its tags are read as conlleval reads them."""
        if found := super().load(data):
            name = data.get("tag_scheme", CONLLEVAL.name)
            self.scheme = None if name is None else named(name, self.items)
        return found


class Label(Vocabulary):
    """A string for the whole; one that train lacks has no id."""

    name = source = title = "label"
    size, renames = "num_labels", ("words", "target", "value")

    def units(self, value: Any) -> list[str]:
        if not isinstance(value, str):
            raise ConfigError(f"an example has label {value}; numbers are values: use data.rename={{label: value}}")
        return [value]

    def encode(self, value: Any) -> int:
        return self.ids.get(value, IGNORE_INDEX)


class Tokens(Field):
    """Words as a language model reads them: ids of its own vocabulary, and where each word has been read.

    One that knows characters or bytes reads a space between words. With `reverse` the words are read backwards. Pads to
    `name` (L, B) and `name`.ends (T, B).
    """

    source = "words"

    def __init__(self, tokenizer: ExampleTokenizer, name: str, text: Tokenizer, reverse: bool) -> None:
        super().__init__(tokenizer)
        self.name, self.text, self.reverse = name, text, reverse

    def encode(self, value: Any) -> tuple[list[int], list[int]]:
        words = self.tokenizer.split(value)
        gap = [] if self.text.kind == "word" else self.text.encode(" ")
        ids: list[int] = [self.text.eos_id]
        ends: list[int] = []
        for word in reversed(words) if self.reverse else words:
            own = self.text.encode(word)
            ids += (gap if ends else []) + (own[::-1] if self.reverse else own)
            ends.append(len(ids) - 1)
        return ids, ends[::-1] if self.reverse else ends

    def pad(self, values: Sequence[Any]) -> dict[str, Tensor]:
        ids, ends = zip(*values, strict=True)
        tables = {self.name: padded(ids, self.text.eos_id, np.int64), f"{self.name}.ends": padded(ends, 0, np.int64)}
        return {name: torch.from_numpy(table) for name, table in tables.items()}


FIELDS: dict[str, type[Field]] = {
    kind.name: kind for kind in (Words, Characters, Target, Tags, Label, Features, Value)
}  # in the order in which they are saved
