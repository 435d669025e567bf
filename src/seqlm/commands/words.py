"""Words of a command line: the run they begin with, a key's value, and the file after a flag."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError

Words = Sequence[str]


def run_and_words(verb: str, words: Words) -> tuple[str, Words]:
    """The run's folder that the words of a verb begin with, and the others."""
    if not words or "=" in words[0] or words[0].startswith("-"):
        raise ConfigError(f"seqlm {verb} needs a run folder first: seqlm {verb} outputs/NAME; `seqlm runs` lists them")
    return words[0], words[1:]


def pop_value(key: str, words: Words, default: str) -> tuple[str, Words]:
    """The value of `key=value` in the words, and the other words."""
    found = [word.partition("=")[2] for word in words if word.startswith(f"{key}=")]
    return (found or [default])[-1], [word for word in words if not word.startswith(f"{key}=")]


def pop_file(words: Sequence[str], flag: str) -> tuple[list[str], Path | None]:
    """The words of a command line without `flag FILE` or `flag=FILE`, and FILE, which is to be written.

    Raises ConfigError if it cannot be: a folder, or in none.
    """
    for index, word in enumerate(words):
        if word == flag or word.startswith(f"{flag}="):
            apart = word == flag
            file = words[index + 1] if apart and index + 1 < len(words) else word.removeprefix(flag).removeprefix("=")
            path = Path(file).expanduser()
            if not file or file.startswith("-"):
                raise ConfigError(f"{flag} needs a file: {flag} FILE")
            if path.is_dir():
                raise ConfigError(f"{flag}={file} is a folder, not a file")
            if not path.parent.is_dir():
                raise ConfigError(f"{flag}={file} cannot be written: there is no folder {path.parent}")
            return [*words[:index], *words[index + 1 + apart :]], path
    return list(words), None
