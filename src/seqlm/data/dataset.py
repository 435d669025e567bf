"""The data of a run: where it comes from, what turns it into ids, and its splits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from ..errors import ConfigError
from .batching.bucketed import EncodedExamples
from .corpus import Corpus
from .encode import encode_split, fit_tokenizer
from .examples import Example, Examples
from .tokenizers.examples import ExampleTokenizer

FILE = "file"  # the split that is all of a file


@dataclass
class Data:
    """A corpus, its tokenizer, and its splits (Encoded or EncodedExamples), encoded when first asked for."""

    corpus: Corpus | Examples
    tokenizer: Any  # a Tokenizer of text, or of examples
    limit: int | None = None  # tokens or examples of each split that are used
    rename: Mapping[str, str | None] = field(default_factory=dict)  # fields of examples by other names; None: left out
    _encoded: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def fitted(
        cls,
        corpus: Corpus | Examples,
        unfitted: Any,
        vocab_from: str,
        limit: int | None,
        rename: Mapping[str, str | None] | None = None,
    ) -> Data:
        """With the vocabulary of train, or of all splits (`vocab_from="all"`)."""
        textual = isinstance(corpus, Corpus)
        if isinstance(unfitted, ExampleTokenizer) == textual:
            kind, choice = ("a text", "word") if textual else ("examples", "examples")
            raise ConfigError(
                f"data.tokenizer is a {type(unfitted).__name__}, but this data is {kind}; use data/tokenizer={choice}"
            )
        if isinstance(corpus, Corpus):
            if rename:
                raise ConfigError("data.rename does nothing: this data is a text, which has no fields; leave it out")
            return cls(corpus, fit_tokenizer(corpus, unfitted, vocab_from), limit)
        splits = corpus.splits() if vocab_from == "all" else ("train",)
        data = cls(corpus, unfitted, limit, rename or {})
        data.tokenizer = unfitted.fit(example for split in splits for example in data.examples(split))
        return data

    def examples(self, split: str) -> Iterator[Example]:
        """The examples of a split, their fields by the names that they have here."""
        assert not isinstance(self.corpus, Corpus)
        for example in self.corpus.examples(split):
            if unknown := self.rename.keys() - example.keys():
                raise ConfigError(f"data.rename.{min(unknown)} is no field of these examples: {', '.join(example)}")
            kept = {name: self.rename.get(name, name) for name in example}
            names = [new for new in kept.values() if new is not None]
            if twice := {new for new in names if names.count(new) > 1}:
                raise ConfigError(f"data.rename gives several fields the name {min(twice)}; leave one out with null")
            yield {new: example[old] for old, new in kept.items() if new is not None}

    @property
    def fingerprint(self) -> str:
        """Changes whenever train or valid do."""
        return f"{self['train'].fingerprint}/{self['valid'].fingerprint}"

    def __getitem__(self, split: str) -> Any:
        if split not in self._encoded:
            self._encoded[split] = self._encode(split)
        return self._encoded[split]

    def _encode(self, split: str) -> Any:
        if isinstance(self.corpus, Corpus):
            return encode_split(self.corpus, split, self.tokenizer).limited(self.limit, self.tokenizer)
        if split not in self.corpus.splits():
            raise ConfigError(f"split={split} does not exist in this data; it has: {', '.join(self.corpus.splits())}")
        originals = list(islice(self.examples(split), self.limit))
        if not originals:
            raise ConfigError(f"split={split} of this data holds no examples")
        fingerprint = self.corpus.fingerprint(split) + ("" if self.limit is None else f"[:{self.limit}]")
        fingerprint += json.dumps(dict(self.rename), sort_keys=True) if self.rename else ""
        examples = EncodedExamples.of(originals, self.tokenizer, fingerprint)
        for name in examples.encoded[0]:
            field = self.tokenizer.fields[name]
            reasons = [field.lacks(encoded[name]) for encoded in examples.encoded]
            if all(reasons):
                first = originals[0][field.source]
                raise ConfigError(f"split={split}: {reasons[0]}, which begin with: {first}")
        return examples

    def describe(self) -> str:
        """A line for the header of a run."""
        name = type(self.corpus).__name__
        if isinstance(self.corpus, Corpus):
            sizes = " / ".join(f"{split} {len(self[split]):,}" for split in ("train", "valid"))
            return f"{name}, {self.tokenizer.kind} vocabulary {len(self.tokenizer):,}, tokens {sizes}"
        sizes = " / ".join(f"{split} {len(self[split]):,}" for split in ("train", "valid"))
        known = ", ".join(f"{count:,} {title}" for title, count in self.tokenizer.counted().items())
        return f"{name}, {known}, examples {sizes}"


class FileData(Data):
    """The data of a run, and all of a file as one more split, FILE.

    Args:
        whole: the file, as its split train
        own: gives the data of the run, which is read only if one of its splits is asked for
    """

    def __init__(self, whole: Data, own: Callable[[], Data]) -> None:
        super().__init__(whole.corpus, whole.tokenizer, None, whole.rename)
        self._own = own

    def __getitem__(self, split: str) -> Any:
        return super().__getitem__("train") if split == FILE else self._own()[split]
