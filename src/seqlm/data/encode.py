"""Text to token ids, once: memory-mapped arrays in a cache keyed by content and settings.

They are entries of the cache (`seqlm.cache`): digests are checked when they are opened, and damaged ones made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..cache.entries import entry
from ..cache.private import cache_folder, private_folder
from ..errors import ConfigError, describe
from ..files import writing
from ..terminal import track
from .corpus import Corpus, TextCounts
from .tokenizers.saved import load_tokenizer
from .tokenizers.text import KINDS, Tokenizer

T = TypeVar("T")
FORMAT = 1  # part of every key: raise it when what is stored changes


@dataclass(frozen=True)
class Counts:
    """Sizes of a split in tokens, characters and words."""

    tokens: int
    characters: int
    words: int  # white-space words and one for each line end
    in_bytes: bool = False  # characters are bytes (Corpus.count_bytes)


@dataclass(frozen=True)
class Encoded:
    """One split as token ids (N,), uint16 or uint32, read-only and memory-mapped."""

    tokens: NDArray[np.unsignedinteger]
    counts: Counts
    fingerprint: str  # changes whenever text or tokenizer do

    def __len__(self) -> int:
        return len(self.tokens)

    def limited(self, limit: int | None, tokenizer: Tokenizer) -> Encoded:
        """The first `limit` tokens, counted anew."""
        if limit is None or limit >= len(self.tokens):
            return self
        tokens, count = self.tokens[:limit], TextCounts(count_bytes=self.counts.in_bytes)
        count.add(text := tokenizer.decode(tokens))
        # Known without decoding where a token is one: an unknown character decodes to the five of <unk>.
        characters = limit if tokenizer.kind == ("byte" if self.counts.in_bytes else "char") else count.characters
        words = count.words - (not text.endswith("\n"))  # a line that is cut has no end
        counts = Counts(limit, characters, max(words, 1), self.counts.in_bytes)
        return Encoded(tokens, counts, f"{self.fingerprint}[:{limit}]")


def fit_tokenizer(corpus: Corpus, unfitted: Tokenizer, vocab_from: str = "train") -> Tokenizer:
    """`unfitted` with the vocabulary of the training split, or of all splits (`vocab_from="all"`)."""
    if vocab_from not in ("train", "all"):
        raise ConfigError(f"data.vocab_from={vocab_from} is unknown; allowed: train, all")
    if KINDS.get(unfitted.kind) is not type(unfitted):
        raise ConfigError(f"data.tokenizer is a {type(unfitted).__name__}; a run can save only: {', '.join(KINDS)}")
    splits = ("train",) if vocab_from == "train" else corpus.splits()
    prints = [corpus.fingerprint(split) for split in splits]
    key = _key("tokenizer", unfitted.kind, unfitted.settings(), prints)

    def write(folder: Path) -> None:
        blocks = (block for split in splits for block in _read(corpus, split, "reading for the vocabulary"))
        unfitted.fit(blocks).save(folder / "tokenizer.json")

    fitted: Tokenizer = _cached(key, write, lambda folder: load_tokenizer(folder / "tokenizer.json"))
    return fitted


def encode_split(corpus: Corpus, split: str, tokenizer: Tokenizer) -> Encoded:
    """The tokens of `split`, encoded now or found in the cache. Raises ConfigError if there are none."""
    if split not in corpus.splits():
        raise ConfigError(f"split={split} does not exist in this data; it has: {', '.join(corpus.splits())}")
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
    vocabulary = hashlib.sha256("\0".join(tokenizer.vocabulary).encode("utf-8", "surrogatepass")).hexdigest()
    fingerprint = corpus.fingerprint(split)
    key = _key("tokens", tokenizer.kind, vocabulary, fingerprint, *(["bytes"] if corpus.count_bytes else []))

    def write(folder: Path) -> None:
        count, tokens = TextCounts(count_bytes=corpus.count_bytes), 0
        with (folder / "tokens.bin").open("wb") as handle:
            for ids in tokenizer.encode_blocks(_counted(_read(corpus, split, f"encoding {split}"), count)):
                tokens += len(ids)
                with writing(folder / "tokens.bin", len(ids) * dtype.itemsize):
                    handle.write(ids.astype(dtype).tobytes())
        counts = Counts(tokens, count.characters, count.words, corpus.count_bytes)
        (folder / "counts.json").write_text(json.dumps(asdict(counts)))
        if corpus.fingerprint(split) != fingerprint:
            raise ConfigError(f"split={split} of this data changed while it was read; try again once it is written")

    def read(folder: Path) -> Encoded | None:
        counts = _read_counts(folder)
        return Encoded(np.memmap(folder / "tokens.bin", dtype, "r"), counts, key) if counts.tokens else None

    encoded = _cached(key, write, read)
    if encoded is None:
        raise ConfigError(f"split={split} of this data holds no tokens: the text is empty")
    return encoded


def count_text(corpus: Corpus, split: str) -> Counts:
    """Characters and words of `split` (tokens: none yet), counted now or found in the cache."""

    def write(folder: Path) -> None:
        count = TextCounts(count_bytes=corpus.count_bytes)
        for block in _read(corpus, split, f"counting {split}"):
            count.add(block)
        counts = Counts(0, count.characters, count.words, corpus.count_bytes)
        (folder / "counts.json").write_text(json.dumps(asdict(counts)))

    key = _key("counts", corpus.fingerprint(split), corpus.count_bytes)
    return _cached(key, write, _read_counts)


def _read_counts(folder: Path) -> Counts:
    return Counts(**json.loads((folder / "counts.json").read_text()))


def _read(corpus: Corpus, split: str, title: str) -> Iterator[str]:
    """The text of a split, with a bar."""

    def size(block: str) -> int:
        return len(block) if block.isascii() else len(block.encode("utf-8", "replace"))

    return track(corpus.read(split), title, "B", corpus.size(split), size=size)


def _counted(blocks: Iterable[str], count: TextCounts) -> Iterator[str]:
    for block in blocks:
        count.add(block)
        yield block


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps([FORMAT, *parts]).encode()).hexdigest()[:32]


def _cached(key: str, write: Callable[[Path], None], read: Callable[[Path], T]) -> T:
    """The entry `key` of the cache as `read` returns it, made by `write` if it is missing or damaged."""
    place = None
    try:
        place = private_folder()
        return entry(place / key, write, read)
    except OSError as error:
        raise ConfigError(
            f"the cache {place or cache_folder()} cannot be used ({describe(error)}); set SEQLM_CACHE to another folder"
        ) from error
