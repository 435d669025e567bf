"""Text <-> token ids. A tokenizer is fitted once, saved with the run, and never guessed again."""

from __future__ import annotations

import codecs
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...files import writing

if TYPE_CHECKING:
    from typing_extensions import Self

UNK, EOS = "<unk>", "<eos>"
LONGEST_WORD = 1 << 20  # characters: more are held at once by no text that has words
Ids = NDArray[np.int64]


class Tokenizer(ABC):
    """Maps text to ids 0 .. len-1 and back. `eos_id` stands before the first token of a text."""

    kind: ClassVar[str]
    vocabulary: list[str]
    eos_id: int
    unk_id: int | None  # None: nothing is ever unknown
    ranked: ClassVar[bool] = False  # ids rise as frequency in the fitted text falls, but for a few at the start

    def __len__(self) -> int:
        return len(self.vocabulary)

    @abstractmethod
    def fit(self, blocks: Iterable[str]) -> Tokenizer:
        """A tokenizer of these settings whose vocabulary comes from `blocks` of text."""

    @abstractmethod
    def encode_blocks(self, blocks: Iterable[str]) -> Iterator[Ids]:
        """Ids of a whole text that arrives in blocks cut anywhere."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a piece of text, such as a prompt; unknown parts become `<unk>`."""

    @abstractmethod
    def pieces(self, text: str) -> list[str]:
        """The parts of a text that become tokens, as they stand there: one for each id of `encode`."""

    @abstractmethod
    def decoder(self) -> Callable[[int], str]:
        """A function that turns one id after the other into text, ready to print as it comes."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of a sequence of ids."""
        decode_one = self.decoder()
        return "".join(decode_one(int(token)) for token in ids)

    def missing(self, text: str) -> list[str]:
        """Tokens of `text` that the vocabulary lacks, each once, in order."""
        return []

    def settings(self) -> dict[str, Any]:
        """The arguments the tokenizer was made with: with the text they decide the vocabulary."""
        return {}

    def save(self, path: Path) -> None:
        data = {"kind": self.kind, "settings": self.settings(), "vocabulary": self.vocabulary}
        text = json.dumps(data, ensure_ascii=False)
        with writing(path, len(text)):
            path.write_text(text, encoding="utf-8", errors="surrogatepass")


def check_cut(min_count: int, max_size: int | None) -> None:
    """Raise ValueError for settings that cannot cut a vocabulary."""
    for name, value in (("min_count", min_count), ("max_size", max_size)):
        if not isinstance(value, int) and not (value is None and name == "max_size"):
            raise ValueError(f"{name}={value!r:.80} must be a whole number")
    if min_count < 1:
        raise ValueError(f"min_count={min_count} must be at least 1")
    if max_size is not None and max_size < 3:
        raise ValueError(f"max_size={max_size} must be at least 3")


def most_frequent(
    counts: Mapping[str, int], specials: Sequence[str], min_count: int = 1, max_size: int | None = None
) -> list[str]:
    """The specials, then the most frequent types first, ties in alphabetical order: `max_size` in all at most."""
    kept = [item for item, count in counts.items() if count >= min_count and item not in specials]
    kept.sort(key=lambda item: (-counts[item], item))
    return [*specials, *kept][:max_size]


class _Vocabulary:
    """Settings that cut a vocabulary: types seen `min_count` times at least, `max_size` at most with the specials."""

    ranked = True

    def __init__(self, *, min_count: int = 1, max_size: int | None = None) -> None:
        check_cut(min_count, max_size)
        self.min_count, self.max_size = min_count, max_size
        self.vocabulary: list[str] = []
        self._ids: dict[str, int] = {}

    def settings(self) -> dict[str, Any]:
        return {"min_count": self.min_count, "max_size": self.max_size}

    def _chosen(self, counts: Counter[str], *specials: str) -> list[str]:
        return most_frequent(counts, specials, self.min_count, self.max_size)

    def with_vocabulary(self, vocabulary: list[str]) -> Self:
        """A tokenizer of these settings that is fitted."""
        fitted = type(self)(min_count=self.min_count, max_size=self.max_size)
        fitted.vocabulary = vocabulary
        fitted._ids = {item: index for index, item in enumerate(vocabulary)}
        return fitted


class CharTokenizer(_Vocabulary, Tokenizer):
    """One token a character (Unicode code point). The end of a line stands for `<eos>`."""

    kind = "char"
    unk_id = 0
    eos_id = 1
    _table: Ids  # code point -> id; 0 is <unk>

    def fit(self, blocks: Iterable[str]) -> CharTokenizer:
        counts = np.zeros(0x110000, dtype=np.int64)
        for block in blocks:
            counts += np.bincount(_code_points(block), minlength=len(counts))
        seen = Counter({chr(code): int(counts[code]) for code in np.flatnonzero(counts)})
        return self.with_vocabulary(self._chosen(seen, UNK, "\n"))

    def with_vocabulary(self, vocabulary: list[str]) -> Self:
        fitted = super().with_vocabulary(vocabulary)
        fitted._table = np.zeros(0x110000, dtype=np.int64)
        for index, character in enumerate(vocabulary[1:], start=1):
            if len(character) != 1:
                raise ValueError(f"vocabulary[{index}]={character!r:.80} should be one character")
            fitted._table[ord(character)] = index
        return fitted

    def encode_blocks(self, blocks: Iterable[str]) -> Iterator[Ids]:
        return (self._table[_code_points(block)] for block in blocks)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._table[_code_points(text)].tolist()
        return ids

    def pieces(self, text: str) -> list[str]:
        return list(text)

    def decoder(self) -> Callable[[int], str]:
        return self.vocabulary.__getitem__

    def missing(self, text: str) -> list[str]:
        return [character for character in dict.fromkeys(text) if character not in self._ids]


class WordTokenizer(_Vocabulary, Tokenizer):
    """One token a word between white space, and `<eos>` at the end of each line, as in the Penn Treebank."""

    kind = "word"
    unk_id = 0
    eos_id = 1

    def fit(self, blocks: Iterable[str]) -> WordTokenizer:
        counts: Counter[str] = Counter()
        for words in _words(blocks):
            counts.update(words)
        return self.with_vocabulary(self._chosen(counts, UNK, EOS))

    def encode_blocks(self, blocks: Iterable[str]) -> Iterator[Ids]:
        find = self._ids.get
        return (np.fromiter((find(word, 0) for word in words), np.int64, len(words)) for words in _words(blocks))

    def encode(self, text: str) -> list[int]:
        return [self._ids.get(word, self.unk_id) for word in self.pieces(text)]

    def pieces(self, text: str) -> list[str]:
        return text.replace("\n", f" {EOS} ").split()

    def decoder(self) -> Callable[[int], str]:
        line_start = True

        def decode_one(token: int) -> str:
            nonlocal line_start
            word = self.vocabulary[token]
            text = "\n" if word == EOS else word if line_start else " " + word
            line_start = word == EOS
            return text

        return decode_one

    def missing(self, text: str) -> list[str]:
        return [word for word in dict.fromkeys(text.split()) if word not in self._ids]


class ByteTokenizer(Tokenizer):
    """One token a byte of UTF-8: 256 of them, nothing is ever unknown. The line feed stands for `<eos>`."""

    kind = "byte"
    unk_id = None
    eos_id = 10

    def __init__(self) -> None:
        self.vocabulary = [f"<{value:02x}>" for value in range(256)]

    def fit(self, blocks: Iterable[str]) -> ByteTokenizer:
        return self

    def encode_blocks(self, blocks: Iterable[str]) -> Iterator[Ids]:
        # Bytes that are no UTF-8 come as lone surrogates (see enwik8.py).
        encoded = (block.encode("utf-8", "surrogateescape") for block in blocks)
        return (np.frombuffer(block, dtype=np.uint8).astype(np.int64) for block in encoded)

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", "surrogateescape"))

    def pieces(self, text: str) -> list[str]:
        return [chr(token) if token < 128 else self.vocabulary[token] for token in self.encode(text)]

    def decoder(self) -> Callable[[int], str]:
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda token: utf8.decode(bytes([token]))


KINDS: dict[str, type[CharTokenizer] | type[WordTokenizer] | type[ByteTokenizer]] = {
    "char": CharTokenizer,
    "word": WordTokenizer,
    "byte": ByteTokenizer,
}


def texts_of(name: str, items: object) -> list[str]:
    """A list of texts, each once, as it stands in a file under a key; raises ValueError if it is something else."""
    if not isinstance(items, list):
        raise ValueError(f"{name} should be a list of texts, not a {type(items).__name__}")
    for index, item in enumerate(items):
        if not isinstance(item, str):
            raise ValueError(f"{name}[{index}]={item!r:.80} should be a text")
    if len(set(items)) < len(items):
        twice = next(item for item, count in Counter(items).items() if count > 1)
        raise ValueError(f"{name} has {twice!r:.80} twice")
    return items


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _words(blocks: Iterable[str]) -> Iterator[list[str]]:
    """The words of each block, `<eos>` for each line end, words that a block boundary cuts put together."""
    tail, last = "", "\n"
    for block in blocks:
        text, last = tail + block, block[-1:] or last
        if len(tail) > LONGEST_WORD:
            raise ConfigError(
                f"a word of this text is longer than {LONGEST_WORD:,} characters: {tail[:20]}...; where no space "
                "stands between words, use data/tokenizer=char"
            )
        cut = max(text.rfind(space) for space in " \n\t\r") + 1
        text, tail = text[:cut], text[cut:]
        if text:
            yield text.replace("\n", f" {EOS} ").split()
    if last != "\n":  # the last line ends with the text, whether or not a line feed says so
        yield [*tail.split(), EOS]
