"""Fields of examples: how each is counted, encoded and padded. A new kind of input or target is one class here."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError
from .batching.batches import IGNORE_INDEX
from .tag_schemes import CONLLEVAL, TagScheme, named, recognise, transitions
from .tokenizers.text import EOS, UNK, Tokenizer, most_frequent, texts_of

if TYPE_CHECKING:
    from .tokenizers.examples import ExampleTokenizer

PAD = "<pad>"
UNKNOWN, END = 0, 1  # ids of <unk> and <eos> in vocabularies of text


class Field(ABC):
    """One kind of input or target: `name` in batches, made of the entry `source` of an example.

    A field is fitted on train (`see` each value, then `fit`), encodes one value after the other, and pads a batch of
    them. It is saved with the tokenizer, whose settings say how texts are split.
    """

    name: str
    source: str
    title: str = ""  # in the header of a run; empty: not shown
    renames: ClassVar[tuple[str, ...]] = ()  # the other fields that data.rename may make of it
    sequence: bool = False  # (T, B, ...) with lengths; else one entry for each example
    aligned: bool = False  # one entry for each step that is read: lengths must agree
    fill: ClassVar[float] = 0  # what follows the end of a sequence
    dtype: ClassVar[type] = np.int64

    def __init__(self, tokenizer: ExampleTokenizer) -> None:
        self.tokenizer = tokenizer

    def see(self, value: Any) -> None:
        """Take notice of a value in train."""
        return None

    def fit(self) -> None:
        """Decide on ids, once all of train was seen."""
        return None

    @property
    def sizes(self) -> dict[str, int]:
        """The numbers that a model must know of it; the first one is shown in the header of a run."""
        return {}

    def save(self, data: dict[str, Any]) -> None:
        """Add what was fitted to what is saved of a tokenizer."""
        return None

    def load(self, data: Mapping[str, Any]) -> bool:
        """Read what `save` wrote; returns whether there was something."""
        return False

    @abstractmethod
    def encode(self, value: Any) -> Any:
        """The numbers of one value. Raises ConfigError for what it cannot be."""

    def lacks(self, encoded: Any) -> str:
        """Why nothing of an encoded target can be scored; empty if something can."""
        return ""

    def pad(self, values: Sequence[Any]) -> dict[str, Tensor]:
        """Encoded values as tensors of a batch, by name."""
        if not self.sequence:
            return {self.name: torch.tensor(values)}
        return {self.name: torch.from_numpy(padded(values, self.fill, self.dtype))}

    @staticmethod
    def targets(tensor: Tensor) -> int:
        """How many targets that count there are in what `pad` made."""
        return int((tensor != IGNORE_INDEX).sum())

    @staticmethod
    def digest(value: Any) -> bytes:
        """Bytes that change whenever a value does."""
        return json.dumps(value).encode("utf-8", "surrogatepass")


def size_in(name: str, value: object) -> int:
    """A number of features as it stands in a file under a key; raises ValueError if it is something else."""
    if not isinstance(value, int) or not 0 <= value < 1 << 24:
        raise ValueError(f"{name}={value!r:.80} should be a number of features")
    return value


def padded(values: Sequence[Any], fill: float, dtype: type) -> NDArray[Any]:
    """Sequences (T, ...) side by side (T, B, ...), filled up to the longest."""
    table = np.full((max(map(len, values)), len(values), *np.shape(values[0])[1:]), fill, dtype)
    for index, value in enumerate(values):
        table[: len(value), index] = value
    return table


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


class Features(Field):
    """Instead of words, or beside them: an array (T, F) of numbers, or what becomes one when it is read."""

    name = source = "features"
    title, dtype = "numbers a step", np.float32
    sequence = aligned = True
    width = 0

    def see(self, value: Any) -> None:
        self.width = int(np.shape(value)[-1])

    @property
    def sizes(self) -> dict[str, int]:
        return {"num_features": self.width}

    def save(self, data: dict[str, Any]) -> None:
        data["num_features"] = self.width

    def load(self, data: Mapping[str, Any]) -> bool:
        self.width = size_in("num_features", data["num_features"])
        return self.width > 0

    def encode(self, value: Any) -> Any:
        where, values = getattr(value, "path", "an example"), np.asarray(value)
        if values.shape[1:] != (self.width,):
            raise ConfigError(f"{where}: features {values.shape}, but in train {self.width} numbers a step")
        if not np.isfinite(values).all():
            step, place = np.argwhere(~np.isfinite(values))[0]
            raise ConfigError(f"{where}: features hold {values[step, place]} at step {step}, number {place}")
        return value  # not `values`: what is read from a file stays there until a batch needs it

    @staticmethod
    def digest(value: Any) -> bytes:
        return str(value.shape).encode() + np.asarray(value).tobytes()


class Value(Field):
    """Numbers to predict: K for the whole, (1, B, K), or for each step, (T, B, K); NaN where one is missing.

    An example has a number, a list of K, an array (T, K), or a text of K numbers.
    """

    name = source = "value"
    title, dtype, fill = "numbers to predict", np.float32, math.nan
    width = 0

    def see(self, value: Any) -> None:
        rows, self.width = self.numbers(value).shape
        self.sequence = self.aligned = self.sequence or rows != 1

    @property
    def sizes(self) -> dict[str, int]:
        return {"num_values": self.width, "value_steps": int(self.sequence)}

    def save(self, data: dict[str, Any]) -> None:
        data["value"] = {"size": self.width, "steps": self.sequence}

    def load(self, data: Mapping[str, Any]) -> bool:
        if "value" in data:
            if not isinstance(data["value"], dict):
                raise ValueError(f"value={data['value']!r:.80} should be a mapping")
            self.width, self.sequence = size_in("value.size", data["value"]["size"]), bool(data["value"]["steps"])
            self.aligned = self.sequence
        return "value" in data

    def numbers(self, value: Any) -> NDArray[Any]:
        """A value as an array (1, K) or (T, K)."""
        try:
            value = [float(number) for number in value.split()] if isinstance(value, str) else value
            array = np.asarray(value, dtype=np.float32)
        except (TypeError, ValueError):
            raise ConfigError(f"an example has value {value!r}; it should be a number, numbers, or nan") from None
        if array.ndim > 2 or 0 in array.shape or np.isinf(array).any():
            raise ConfigError(f"an example has value {value}; it should be finite numbers (K,) or (T, K), or nan")
        return array if array.ndim == 2 else array.reshape(1, -1)

    def encode(self, value: Any) -> NDArray[Any]:
        numbers = self.numbers(value)
        if numbers.shape[1] != self.width or not (self.sequence or len(numbers) == 1):
            each = "at each step" if self.sequence else "for the whole"
            raise ConfigError(f"an example has a value {numbers.shape}, but in train there are {self.width} {each}")
        return numbers

    def lacks(self, encoded: Any) -> str:
        return "every value is missing" if np.isnan(encoded).all() else ""

    def pad(self, values: Sequence[Any]) -> dict[str, Tensor]:
        return {self.name: torch.from_numpy(padded(values, self.fill, self.dtype))}

    @staticmethod
    def targets(tensor: Tensor) -> int:
        return int((~tensor.isnan()).sum())

    @staticmethod
    def digest(value: Any) -> bytes:
        return Features.digest(np.asarray(value))


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
