"""Benchmark corpora: found where the user has them or downloaded, and checked to be the published text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from ...cache.entries import entry, is_whole
from ...cache.private import cache_folder, private_folder
from ...errors import ConfigError, describe
from ...files import sha256_of
from ..corpus import SPLITS, Corpus
from ..encode import count_text
from ..reading import Segment, TextReader, whole_file
from .archive import check_size, is_archive, unpack
from .download import Remote, fetch

AS_PUBLISHED = TextReader(newlines="keep")


class PublishedWords(Corpus):
    """Words and one <eos> a line, a file for each split, checked to hold the number of tokens that was published."""

    NAMES: ClassVar[tuple[str, ...]]  # of a file, with {split} in it
    REMOTES: ClassVar[tuple[Remote, ...]]
    TOKENS: ClassVar[dict[str, int]]

    def __init__(self, *, path: str | None = None) -> None:
        names = [[name.format(split=split) for name in self.NAMES] for split in SPLITS]
        files = dict(zip(SPLITS, find_files(path, names, self.REMOTES), strict=True))
        self._segments = {split: whole_file(file, "data.path") for split, file in files.items()}
        check_counts(self, self.TOKENS, "tokens", files)

    def size(self, split: str) -> int:
        return self._segments[split].end - self._segments[split].start

    def read(self, split: str) -> Iterator[str]:
        return AS_PUBLISHED.blocks(self._segments[split])


def find_files(path: str | None, choices: Sequence[Sequence[str]], remotes: Sequence[Remote]) -> list[Path]:
    """One file for each of `choices`, a sequence of names it may have.

    From `path`, a folder, an archive, or the file itself where there is one choice only; from `remotes`, an archive or
    one file for each choice, if `path` is None. What is unpacked and downloaded stays in the cache. Raises ConfigError.
    """
    if path is None:
        return _downloaded(choices, remotes)
    root = Path(path)
    if root.is_dir():
        return [_in_folder(root, names) for names in choices]
    if not root.is_file():
        raise ConfigError(f"data.path={path} does not exist; without data.path it is downloaded")
    if is_archive(root):
        check_size(root)
        return _unpacked(root, sha256_of(root), choices)
    if len(choices) == 1:
        return [root]
    raise ConfigError(
        f"data.path={path} is neither a folder nor an archive (zip, tar); needed are "
        f"{', '.join(names[0] for names in choices)} in one of them"
    )


def check_counts(
    corpus: Corpus, expected: Mapping[str, int], unit: Literal["tokens", "characters"], where: Mapping[str, Path]
) -> None:
    """Raise ConfigError unless each split holds the number of tokens (words and line ends) or characters published."""
    for split, count in expected.items():
        counts = count_text(corpus, split)
        found = counts.words if unit == "tokens" else counts.characters
        if found != count:
            raise ConfigError(
                f"data.path: {where[split]} holds {found:,} {unit}, the {split} text of the literature {count:,}; "
                "numbers on it would not compare. For another text use data=text"
            )


def cut_bytes(file: Path, sizes: Mapping[str, int]) -> dict[str, Segment]:
    """`file` cut in order into pieces of so many bytes; raises ConfigError if it does not have as many in all."""
    size, whole = file.stat().st_size, sum(sizes.values())
    if size != whole:
        raise ConfigError(
            f"data.path: {file} has {size:,} bytes, the one of the literature {whole:,}; numbers on it would not "
            "compare. For another text use data=text"
        )
    segments, start = {}, 0
    for split, length in sizes.items():
        segments[split] = Segment(file, start, start + length)
        start += length
    return segments


def _in_folder(root: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (root / name).is_file():
            return root / name
    raise ConfigError(
        f"data.path={root} has no {' and no '.join(names)} in it; give the folder or the archive that has, or leave "
        "data.path out to download it"
    )


def _downloaded(choices: Sequence[Sequence[str]], remotes: Sequence[Remote]) -> list[Path]:
    if found := _already(remotes[0].sha256, choices):
        return found
    downloads = _private("downloads")
    targets = [downloads / remote.name for remote in remotes]
    for remote, target in zip(remotes, targets, strict=True):
        fetch(remote, target)
    return _unpacked(targets[0], remotes[0].sha256, choices) if is_archive(targets[0]) else targets


def _unpacked(archive: Path, digest: str, choices: Sequence[Sequence[str]]) -> list[Path]:
    """The members of an archive, from an entry of the cache."""
    base_names = [list(dict.fromkeys(Path(name).name for name in names)) for names in choices]
    folder = _folder_of(digest, choices)

    def make(aside: Path) -> None:
        unpack(archive, base_names, aside)

    try:
        return entry(folder, make, partial(_members, choices=choices))
    except OSError as error:
        raise ConfigError(
            f"the cache {folder} cannot be used ({describe(error)}); set SEQLM_CACHE to another folder"
        ) from error


def _already(digest: str, choices: Sequence[Sequence[str]]) -> list[Path]:
    """The files of an archive that was unpacked before; empty unless all are there, and whole."""
    folder = _folder_of(digest, choices)
    return _members(folder, choices) if is_whole(folder) else []


def _members(folder: Path, choices: Sequence[Sequence[str]]) -> list[Path]:
    """For each choice of names the file that there is."""
    names = [[Path(name).name for name in some] for some in choices]
    return [next(folder / name for name in some if (folder / name).is_file()) for some in names]


def _folder_of(digest: str, choices: Sequence[Sequence[str]]) -> Path:
    """The entry of these files of an archive."""
    key = hashlib.sha256(json.dumps([digest, *choices]).encode()).hexdigest()[:32]
    return _private("unpacked") / key


def _private(name: str) -> Path:
    try:
        return private_folder(name)
    except OSError as error:
        raise ConfigError(
            f"the cache {cache_folder()} cannot be used ({describe(error)}); set SEQLM_CACHE to another folder"
        ) from error
