"""WikiText: good articles of Wikipedia, split into words, rare ones replaced by <unk>."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from ..corpus import SPLITS, Corpus
from .download import Remote
from .published import check_counts, find_files
from .text import read_utf8, whole_file


class _WikiText(Corpus):
    """Words and one <eos> a line, empty lines included; the version with <unk>, not the raw one."""

    REMOTE: ClassVar[Remote]
    TOKENS: ClassVar[dict[str, int]]
    FOLDER: ClassVar[str]

    def __init__(self, *, path: str | None = None) -> None:
        names = [(f"wiki.{split}.tokens", f"{split}.txt", f"{self.FOLDER}/wiki.{split}.tokens") for split in SPLITS]
        files: dict[str, Path] = dict(zip(SPLITS, find_files(path, names, [self.REMOTE]), strict=True))
        self._segments = {split: whole_file(file, "data.path") for split, file in files.items()}
        check_counts(self, self.TOKENS, "tokens", files)

    def splits(self) -> tuple[str, ...]:
        return SPLITS

    def read(self, split: str) -> Iterator[str]:
        return read_utf8(self._segments[split])


class WikiText2(_WikiText):
    """WikiText-2 from `path`, a folder or archive with wiki.{train,valid,test}.tokens, or downloaded (4.5 MB).

    Raises ConfigError unless the splits hold 2,088,628 / 217,646 / 245,569 tokens with one <eos> a line; 33,278 word
    types. S. Merity et al., "Pointer Sentinel Mixture Models", arXiv 1609.07843. CC BY-SA.
    """

    REMOTE = Remote(
        "https://wikitext.smerity.com/wikitext-2-v1.zip",
        "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
        4_475_746,
    )
    TOKENS = {"train": 2_088_628, "valid": 217_646, "test": 245_569}
    FOLDER = "wikitext-2"


class WikiText103(_WikiText):
    """WikiText-103 from `path`, a folder or archive with wiki.{train,valid,test}.tokens, or downloaded (190 MB).

    Raises ConfigError unless the splits hold 103,227,021 / 217,646 / 245,569 tokens with one <eos> a line.
    S. Merity et al., "Pointer Sentinel Mixture Models", arXiv 1609.07843. CC BY-SA.
    """

    REMOTE = Remote(
        "https://wikitext.smerity.com/wikitext-103-v1.zip",
        "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
        190_229_076,
    )
    TOKENS = {"train": 103_227_021, "valid": 217_646, "test": 245_569}
    FOLDER = "wikitext-103"
