"""Text to token ids, once: memory-mapped arrays in a cache keyed by content and settings."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .corpus import Corpus, TextCounts
from .tokenizers import Tokenizer, load_tokenizer

FORMAT = 1  # part of every key: raise it when what is stored changes


@dataclass(frozen=True)
class Counts:
    """What a split holds, for units other than the token."""

    tokens: int
    characters: int
    words: int  # white-space words and one for each line end


@dataclass(frozen=True)
class Encoded:
    """One split as token ids (N,), uint16 or uint32, read-only and memory-mapped."""

    tokens: NDArray[np.unsignedinteger]
    counts: Counts
    fingerprint: str  # changes whenever text or tokenizer do

    def limited(self, limit: int | None, tokenizer: Tokenizer) -> Encoded:
        """The first `limit` tokens, counted anew."""
        if limit is None or limit >= len(self.tokens):
            return self
        tokens, count = self.tokens[:limit], TextCounts()
        count.add(tokenizer.decode(tokens))
        counts = Counts(limit, count.characters, max(count.words, 1))
        return Encoded(tokens, counts, f"{self.fingerprint}[:{limit}]")


def cache_folder() -> Path:
    """$SEQLM_CACHE, or seqlm in the user's cache folder."""
    if os.environ.get("SEQLM_CACHE"):
        return Path(os.environ["SEQLM_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seqlm"


def fit_tokenizer(corpus: Corpus, unfitted: Tokenizer, vocab_from: str = "train") -> Tokenizer:
    """`unfitted` with the vocabulary of the training split, or of all splits (`vocab_from="all"`)."""
    if vocab_from not in ("train", "all"):
        raise ConfigError(f"data.vocab_from={vocab_from} is unknown; allowed: train, all")
    splits = ("train",) if vocab_from == "train" else corpus.splits()
    prints = [corpus.fingerprint(split) for split in splits]
    key = _key("tokenizer", unfitted.kind, unfitted.settings(), prints)

    def write(folder: Path) -> None:
        blocks = (block for split in splits for block in corpus.read(split))
        unfitted.fit(blocks).save(folder / "tokenizer.json")

    return load_tokenizer(_cached(key, write) / "tokenizer.json")


def encode_split(corpus: Corpus, split: str, tokenizer: Tokenizer) -> Encoded:
    """The tokens of `split`, encoded now or found in the cache. Raises ConfigError if there are none."""
    if split not in corpus.splits():
        raise ConfigError(f"split={split} does not exist in this data; it has: {', '.join(corpus.splits())}")
    dtype = np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32
    vocabulary = hashlib.sha256("\0".join(tokenizer.vocabulary).encode("utf-8", "surrogatepass")).hexdigest()
    key = _key("tokens", tokenizer.kind, vocabulary, corpus.fingerprint(split))

    def write(folder: Path) -> None:
        count, tokens = TextCounts(), 0
        with (folder / "tokens.bin").open("wb") as handle:
            for ids in tokenizer.encode_blocks(_counted(corpus.read(split), count)):
                tokens += len(ids)
                handle.write(ids.astype(dtype).tobytes())
        counts = Counts(tokens, count.characters, count.words)
        (folder / "counts.json").write_text(json.dumps(asdict(counts)))

    folder = _cached(key, write)
    counts = Counts(**json.loads((folder / "counts.json").read_text()))
    if counts.tokens == 0:
        raise ConfigError(f"split={split} of this data holds no tokens: the text is empty")
    array: NDArray[np.unsignedinteger] = np.memmap(folder / "tokens.bin", dtype=dtype, mode="r")
    if len(array) != counts.tokens:
        raise ConfigError(f"{folder} is damaged: {len(array):,} tokens where {counts.tokens:,} were written; delete it")
    return Encoded(array, counts, key)


def _counted(blocks: Iterable[str], count: TextCounts) -> Iterator[str]:
    for block in blocks:
        count.add(block)
        yield block


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps([FORMAT, *parts]).encode()).hexdigest()[:32]


def _cached(key: str, write: Callable[[Path], None]) -> Path:
    """The folder `key` of the cache, made by `write` if it is not there.

    Written aside and renamed, so that nobody ever sees half of it: of two processes that encode at
    once, the second to finish finds the folder there and throws its own copy away.
    """
    folder = cache_folder() / key
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=folder.parent))
    except OSError as error:
        raise ConfigError(
            f"the cache {folder.parent} cannot be written ({error}); set SEQLM_CACHE to another folder"
        ) from error
    try:
        write(aside)
        try:
            aside.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
        return folder
    except OSError as error:
        raise ConfigError(
            f"encoding into the cache {folder.parent} failed ({error}); set SEQLM_CACHE to another folder"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
