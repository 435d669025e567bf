"""Examples <-> ids: a vocabulary for each field, fitted once on train and saved with the run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from ...errors import ConfigError
from ...files import writing
from ..examples import Example
from ..field import Field
from ..fields import FIELDS, Vocabulary, Words
from ..reading import split_blanks
from .text import check_cut


class ExampleTokenizer:
    """Maps the fields of examples to arrays of ids and back.

    `unit`: what a text is split into, words at white space or characters; lists of words are kept as they are, and
    where train has nothing else a text is split at spaces and tabs, so that a no-break space stays in its word.
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
        self.fields: dict[str, Field] = {}  # that train has, and that a model reads besides
        self.listed = False  # words come in lists: a line of them is split as tagged data are, at spaces and tabs alone

    def settings(self) -> dict[str, Any]:
        """The arguments it was made with."""
        return {key: getattr(self, key) for key in ("unit", "lowercase", "digits", "min_count", "max_size")}

    def split(self, text: str | list[str]) -> list[str]:
        """The units of a text."""
        if not isinstance(text, str):
            return list(text)
        if self.unit == "char":
            return list(text)
        return split_blanks(text) if self.listed else text.split()

    def units(self, text: str | list[str]) -> list[str]:
        """The units of a text as they are looked up."""
        return [self._form(unit) for unit in self.split(text)]

    def join(self, units: Iterable[str]) -> str:
        """The text of units."""
        return ("" if self.unit == "char" else " ").join(units)

    def _form(self, unit: str) -> str:
        """The form in which a unit is looked up."""
        unit = unit.lower() if self.lowercase else unit
        return "".join("0" if character.isdigit() else character for character in unit) if self.digits else unit

    def fit(self, examples: Iterable[Example]) -> ExampleTokenizer:
        """A tokenizer of these settings with the vocabularies of `examples`."""
        fitted = ExampleTokenizer(**self.settings())
        forms = set()  # of words
        for example in examples:
            forms |= {type(example["words"])} if "words" in example else set()
            for name, kind in FIELDS.items():
                if kind.source in example:
                    if name not in fitted.fields:
                        fitted.fields[name] = kind(fitted)
                    fitted.fields[name].see(example[kind.source])
        if not any(isinstance(field, Words) for field in fitted.fields.values()):
            default = ExampleTokenizer().settings()
            if changed := [name for name, value in self.settings().items() if value != default[name]]:
                raise ConfigError(f"data.tokenizer.{changed[0]} does nothing: this data has no words; leave it out")
        fitted.listed = forms == {list}
        for field in fitted.fields.values():
            field.fit()
        return fitted

    @property
    def vocabularies(self) -> dict[str, list[str]]:
        """The items of each field that has ids, in the order of their ids."""
        return {name: field.items for name, field in self.fields.items() if isinstance(field, Vocabulary)}

    def sizes(self) -> dict[str, int]:
        """The sizes that a model must know: vocab_size, target_size, num_chars, num_tags, num_labels, num_features."""
        return {name: size for field in self.fields.values() for name, size in field.sizes.items()}

    @property
    def num_features(self) -> int:
        """Numbers at each step; 0 without features."""
        return self.sizes().get("num_features", 0)

    def counted(self) -> dict[str, int]:
        """How many of each thing there are, for people."""
        return {field.title: next(iter(field.sizes.values())) for field in self.fields.values() if field.title}

    def encode(self, example: Example) -> dict[str, Any]:
        """The fields of an example as numbers, by name; what train lacks is left out.

        Raises ConfigError if there is nothing to read, or lengths do not fit.
        """
        known = [field for field in self.fields.values() if field.source in example]
        encoded = {field.name: field.encode(example[field.source]) for field in known}
        lengths = {field.name: len(encoded[field.name]) for field in known if field.aligned}
        if len(set(lengths.values())) > 1:
            raise ConfigError(f"an example has {' but '.join(f'{n} {name}' for name, n in lengths.items())}: {example}")
        if 0 in lengths.values():
            raise ConfigError(f"an example has no {next(iter(lengths))}: {example}")
        return encoded

    def save(self, path: Path) -> None:
        data = {"kind": self.kind, "settings": self.settings(), "num_features": 0, "vocabularies": {}, "counts": {}}
        if self.listed:
            data["listed"] = True
        for field in self.fields.values():
            field.save(data)
        text = json.dumps(data, ensure_ascii=False)
        with writing(path, len(text)):
            path.write_text(text, encoding="utf-8", errors="surrogatepass")

    @classmethod
    def load(cls, data: dict[str, Any]) -> ExampleTokenizer:
        """From the file that `save` wrote."""
        if data["settings"].get("unit", "word") not in ("word", "char"):
            raise ValueError(f"settings.unit={data['settings']['unit']!r:.80} should be word or char")
        for name in ("vocabularies", "counts"):
            if not isinstance(data.get(name, {}), dict):
                raise ValueError(f"{name} should be a mapping, not a {type(data[name]).__name__}")
        tokenizer = cls(**data["settings"])
        fields = {name: kind(tokenizer) for name, kind in FIELDS.items()}
        tokenizer.fields = {name: field for name, field in fields.items() if field.load(data)}
        tokenizer.listed = data.get("listed", "words" in tokenizer.fields and "tags" in tokenizer.fields) is True
        return tokenizer
