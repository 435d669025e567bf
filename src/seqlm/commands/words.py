"""Words of a command line: the run they begin with, a key's value, flags, and what stands after them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..config.words import no_path
from ..errors import ConfigError

Words = Sequence[str]


def run_and_words(verb: str, words: Words) -> tuple[str, Words]:
    """The run's folder that the words of a verb begin with, and the others."""
    if not words or not is_place(words[0]):
        raise ConfigError(f"seqlm {verb} needs a run folder first: seqlm {verb} outputs/NAME; `seqlm runs` lists them")
    return words[0], words[1:]


def is_place(word: str) -> bool:
    """Whether a word is a file or folder rather than key=value or a flag: a=b is one where there is such a folder."""
    return ("=" not in word and not word.startswith("-")) or (not no_path(word) and Path(word).is_dir())


def pop_value(key: str, words: Words, default: str) -> tuple[str, Words]:
    """The value of `key=value` in the words, and the other words."""
    found = [word.partition("=")[2] for word in words if word.startswith(f"{key}=")]
    return (found or [default])[-1], [word for word in words if not word.startswith(f"{key}=")]


def refuse_flags(verb: str, words: Words, takes: str) -> None:
    """Raise ConfigError for a flag that is left in the words of a verb."""
    if flags := [word for word in words if word.startswith("-")]:
        raise ConfigError(f"seqlm {verb} knows no {flags[0]}; it takes {takes}")


def pop_flag(words: Words, flag: str) -> tuple[list[str], bool]:
    """The words without a flag, and whether it was there."""
    return [word for word in words if word != flag], flag in words


def pop_option(words: Words, flag: str, what: str) -> tuple[list[str], str | None]:
    """The words without `flag VALUE` or `flag=VALUE`, and VALUE. Raises ConfigError if there is none after the flag."""
    for index, word in enumerate(words):
        if word == flag or word.startswith(f"{flag}="):
            apart = word == flag
            value = words[index + 1] if apart and index + 1 < len(words) else word.removeprefix(flag).removeprefix("=")
            if not value:
                raise ConfigError(f"{flag} needs {what}")
            return [*words[:index], *words[index + 1 + apart :]], value
    return list(words), None


def pop_file(words: Sequence[str], flag: str) -> tuple[list[str], Path | None]:
    """The words of a command line without `flag FILE` or `flag=FILE`, and FILE, which is to be written.

    Raises ConfigError if it cannot be.
    """
    words, file = pop_option(words, flag, f"a file: {flag} FILE")
    if file is None:
        return words, None
    if file.startswith("-"):
        raise ConfigError(f"{flag} needs a file: {flag} FILE")
    return words, path_to_write(f"{flag}={file}", file)


def path_to_write(given: str, file: str) -> Path:
    """The path of a file that is to be written, where links lead; `given` is the word of the command line.

    Raises ConfigError if it cannot be written, before anything is computed. Files are replaced when they are whole, so
    that a pipe or a device will not do.
    """
    path = Path(os.path.expanduser(file))
    if path.is_dir():
        raise ConfigError(f"{given} is a folder, not a file")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{given} is a device or a pipe, not a file")
    if path.is_symlink():
        path = path.resolve()
    if not path.parent.is_dir():
        raise ConfigError(f"{given} cannot be written: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{given} cannot be written: nothing may be written into the folder {path.parent}")
    return path
