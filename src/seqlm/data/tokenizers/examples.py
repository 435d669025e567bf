"""Examples <-> ids: a vocabulary for each field, fitted once on train and saved with the run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...errors import ConfigError
from ..batching.streams import IGNORE
from ..examples import Example
from .text import EOS, UNK, check_cut, most_frequent

PAD = "<pad>"
UNKNOWN, END = 0, 1  # ids of <unk> and <eos> in vocabularies of text
SPECIALS = {"words": [UNK, EOS], "target": [UNK, EOS], "characters": [UNK, PAD], "tags": [], "label": []}
SIZES = {
    "words": "vocab_size",
    "target": "target_size",
    "characters": "num_chars",
    "tags": "num_tags",
    "label": "num_labels",
}


class ExampleTokenizer:
    """Maps the fields of examples to arrays of ids and back.

    `unit`: what a text is split into, words at white space or characters; lists of words are kept as they are.
    `lowercase` and `digits` (every digit becomes 0) change what is looked up, not what is shown. Words and target
    words seen fewer than `min_count` times in train, or beyond the `max_size` most frequent, are <unk>; tags and labels
    that train lacks have no id, so that no probability is asked of them: predictions of them always count as wrong.
    """

    kind = "examples"

    def __init__(
        self,
        *,
        unit: Literal["word", "char"] = "word",
        lowercase: bool = False,
        digits: bool = False,
        min_count: int = 1,
        max_size: int | None = None,
    ) -> None:
        check_cut(min_count, max_size)
        self.unit, self.lowercase, self.digits, self.min_count, self.max_size = (
            unit, lowercase, digits, min_count, max_size,
        )  # fmt: skip
        self.vocabularies: dict[str, list[str]] = {}
        self.counts: dict[str, list[int]] = {}  # of the same in train
        self.num_features = 0

    def settings(self) -> dict[str, Any]:
        """The arguments it was made with."""
        return {key: getattr(self, key) for key in ("unit", "lowercase", "digits", "min_count", "max_size")}

    def split(self, text: str | list[str]) -> list[str]:
        """The units of a text."""
        if not isinstance(text, str):
            return list(text)
        return list(text) if self.unit == "char" else text.split()

    def units(self, text: str | list[str]) -> list[str]:
        """The units of a text as they are looked up."""
        return [self._form(unit) for unit in self.split(text)]

    def join(self, units: Iterable[str]) -> str:
        """The text of units."""
        return ("" if self.unit == "char" else " ").join(units)

    def fit(self, examples: Iterable[Example]) -> ExampleTokenizer:
        """A tokenizer of these settings with the vocabularies of `examples`."""
        counts: dict[str, Counter[str]] = {}
        fitted = ExampleTokenizer(**self.settings())
        for example in examples:
            for name in ("words", "target"):
                if name in example:
                    units = self.split(example[name])
                    counts.setdefault(name, Counter()).update(map(self._form, units))
                    if name == "words":
                        counts.setdefault("characters", Counter()).update("".join(units))
            if "tags" in example:
                counts.setdefault("tags", Counter()).update(example["tags"])
            if "label" in example:
                counts.setdefault("label", Counter())[example["label"]] += 1
            if "features" in example:
                fitted.num_features = int(np.shape(example["features"])[-1])
        if not counts.keys() & {"words", "target"} and self.settings() != ExampleTokenizer().settings():
            changed = [name for name, value in self.settings().items() if value != getattr(ExampleTokenizer(), name)]
            raise ConfigError(f"data.tokenizer.{changed[0]} does nothing: this data has no words; leave it out")
        for name, counted in counts.items():
            cut = (self.min_count, self.max_size) if name in ("words", "target") else ()
            fitted.vocabularies[name] = most_frequent(counted, SPECIALS[name], *cut)
            fitted.counts[name] = [counted[item] for item in fitted.vocabularies[name]]
        return fitted._indexed()

    def _indexed(self) -> ExampleTokenizer:
        self._ids = {
            name: {item: index for index, item in enumerate(items)} for name, items in self.vocabularies.items()
        }
        return self

    def _form(self, unit: str) -> str:
        """What a unit is looked up as."""
        unit = unit.lower() if self.lowercase else unit
        return "".join("0" if character.isdigit() else character for character in unit) if self.digits else unit

    def sizes(self) -> dict[str, int]:
        """What a model must know: vocab_size, target_size, num_chars, num_tags, num_labels, num_features."""
        sizes = {SIZES[name]: len(items) for name, items in self.vocabularies.items()}
        return {**sizes, "num_features": self.num_features} if self.num_features else sizes

    def fields(self) -> set[str]:
        """The fields that it knows."""
        return set(self.vocabularies) | ({"features"} if self.num_features else set())

    def counted(self) -> dict[str, int]:
        """How many of each thing there are, for people."""
        counted = {name: len(items) for name, items in self.vocabularies.items() if name != "characters"}
        return {**counted, "numbers a step": self.num_features} if self.num_features else counted

    def encode(self, example: Example) -> dict[str, Any]:
        """The fields of an example as arrays: words, target, tags (T,) int64, label int, features (T, F) as they are.

        `characters` is the ids of each word's characters. Raises ConfigError if there is nothing to read, lengths do
        not fit, or a feature is no finite number.
        """
        encoded: dict[str, Any] = {}
        for name in ("words", "target"):
            if name in example and name in self._ids:
                units, ids = self.split(example[name]), self._ids[name]
                encoded[name] = np.array([ids.get(self._form(unit), UNKNOWN) for unit in units], dtype=np.int64)
                if name == "words":
                    ids = self._ids["characters"]
                    encoded["characters"] = [[ids.get(character, UNKNOWN) for character in unit] for unit in units]
        if "tags" in example and "tags" in self._ids:
            ids = self._ids["tags"]
            encoded["tags"] = np.array([ids.get(tag, IGNORE) for tag in example["tags"]], dtype=np.int64)
        if "label" in example and "label" in self._ids:
            encoded["label"] = self._ids["label"].get(example["label"], IGNORE)
        if "features" in example:
            encoded["features"] = example["features"]
            self._check_features(example)
        lengths = {name: len(encoded[name]) for name in ("words", "tags", "features") if name in encoded}
        if len(set(lengths.values())) > 1:
            raise ConfigError(f"an example has {' but '.join(f'{n} {name}' for name, n in lengths.items())}: {example}")
        if 0 in lengths.values():
            raise ConfigError(f"an example has no {next(iter(lengths))}: {example}")
        return encoded

    def _check_features(self, example: Example) -> None:
        features = example["features"]
        where, values = getattr(features, "path", "an example"), np.asarray(features)
        if values.shape[1:] != (self.num_features,):
            raise ConfigError(f"{where}: features {values.shape}, but in train {self.num_features} numbers a step")
        if not np.isfinite(values).all():
            step, place = np.argwhere(~np.isfinite(values))[0]
            raise ConfigError(f"{where}: features hold {values[step, place]} at step {step}, number {place}")

    def save(self, path: Path) -> None:
        data = {
            "kind": self.kind,
            "settings": self.settings(),
            "num_features": self.num_features,
            "vocabularies": self.vocabularies,
            "counts": self.counts,
        }
        path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8", errors="surrogatepass")

    @classmethod
    def load(cls, data: dict[str, Any]) -> ExampleTokenizer:
        """From what `save` wrote."""
        tokenizer = cls(**data["settings"])
        tokenizer.vocabularies = {name: list(items) for name, items in data["vocabularies"].items()}
        tokenizer.counts = {name: list(counts) for name, counts in data.get("counts", {}).items()}  # older ones: none
        tokenizer.num_features = int(data["num_features"])
        return tokenizer._indexed()
