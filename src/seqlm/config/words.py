"""Words of a command line as hydra's grammar has them: which are overrides, what is quoted, and values as words."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .flags import is_multirun
from .schema import NAME_KEYS, PATH_KEYS

Words = Sequence[str]
Choices = dict[str, str]  # the option taken of each config group, {"model": "lstm"}
# Values that are left to hydra's grammar: quoted, composite, interpolated, or a function of it.
GRAMMAR = re.compile(r"""['"\[{$]|(null|\?\?\?)$|(choice|range|interval|glob|sort|shuffle)\(""")
# The same of a whole value, where anything else is a path or a name: [a].txt, 'n'.txt.
COMPOSITE = re.compile(
    r"""(?s)'.*'|".*"|\[.*\]|\{.*\}|.*\$\{.*|null|\?\?\?|(choice|range|interval|glob|sort|shuffle)\(.*\)|'.*'(,'.*')*"""
)
JOBS = re.compile(r"""('(?:[^'\\]|\\.)*'(?=,)|"(?:[^"\\]|\\.)*"(?=,)|[^,]*),""")  # values between commas outside quotes
LONGEST_NAME = 255  # bytes of a file's name
WORDS_OF_YAML = re.compile(r"(?i)null|true|false|nan|inf")
INIT_FROM = "init_from."


def words_of(config: Mapping[str, Any]) -> list[str]:
    """Words of a command line that set the keys of a mapping, which may be dotted or nested by section."""
    words = []
    for key, value in config.items():
        if isinstance(value, Mapping) and "." not in key:
            words += [f"{key}.{inner}={as_word(item)}" for inner, item in value.items()]
        else:
            words.append(f"{key}={as_word(value)}")
    return words


def overrides(words: Words) -> list[str]:
    """Those of the words that are not flags, or what follows one."""
    return [word for word in words if word.startswith("~") or ("=" in word and not word.startswith("-"))]


def names_something(key: str) -> bool:
    """Whether the value of a key is a path or a name."""
    return key.lstrip("+") in (*PATH_KEYS, *NAME_KEYS) or key.lstrip("+").startswith("paths.")


def typed_name(key: str, text: str) -> str:
    """A path or a name as it was typed, with ~ expanded in paths. Raises ConfigError for one that no file can have."""
    if not text:
        raise ConfigError(f"{key}= is empty; give a {'name' if key in NAME_KEYS else 'path'}, or leave it out")
    if problem := no_path(text):
        raise ConfigError(f"{key}={problem}")
    return text if key in NAME_KEYS else os.path.expanduser(text)


def no_path(text: str) -> str:
    """Why no file or folder can have this path; empty if one can."""
    if bad := [letter for letter in "\0\n\r" if letter in text]:
        return f"{text!r} holds {bad[0]!r}, which no path here may hold"
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in Path(text).parts):
        return f"{text[:40]}... is too long: the name of a file has {LONGEST_NAME} bytes at most"
    return ""


def quoted_paths(words: Words) -> list[str]:
    """The overrides, paths and names quoted and ~ expanded: to hydra a plain é, & or ( is an error, 1984 a number."""
    several = is_multirun(words)  # then commas separate jobs
    found = []
    for word in _with_whole_init_from(overrides(words), several):
        key, _, value = word.partition("=")
        if word[:1] != "~" and names_something(key) and not COMPOSITE.fullmatch(value):
            names = JOBS.findall(f"{value},") if several else [value]
            word = f"{key}=" + ",".join(_quoted_name(key.lstrip("+"), name) for name in names)
        found.append(word)
    return found


def _with_whole_init_from(words: Words, several: bool) -> list[str]:
    """`init_from=RUN init_from.optimizer=true` as one word: to hydra the first makes it a text, which has no keys."""
    given = {key: value for word in words for key, _, value in [word.partition("=")] if f"{key}.".startswith(INIT_FROM)}
    run = given.pop("init_from", given.pop(f"{INIT_FROM}run", ""))
    if not given or not run or run.startswith("{"):
        return list(words)
    texts = {"run": run, **{key.removeprefix(INIT_FROM): value for key, value in given.items()}}
    choices = [JOBS.findall(f"{value},") if several else [value] for value in texts.values()]
    choices[0] = [_quoted_name("init_from", path) for path in choices[0]]
    jobs = (",".join(map(":".join, zip(texts, chosen, strict=True))) for chosen in itertools.product(*choices))
    kept = [word for word in words if not f"{word.partition('=')[0]}.".startswith(INIT_FROM)]
    return [*kept, "init_from=" + ",".join(f"{{{job}}}" for job in jobs)]


def as_word(value: Any) -> str:
    """A plain value in hydra's grammar of overrides."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{as_word(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(as_word, value)) + "]"
    if isinstance(value, (str, Path)):
        plain = re.fullmatch(r"[A-Za-z_][\w/.-]*", str(value), re.ASCII) and not WORDS_OF_YAML.fullmatch(str(value))
        return str(value) if plain else _quoted(str(value))
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _quoted_name(key: str, text: str) -> str:
    """A path or a name in hydra's grammar; what is quoted already stays as it is."""
    return text if COMPOSITE.fullmatch(text) else _quoted(typed_name(key, text))


def _quoted(text: str) -> str:
    """A text in hydra's grammar of overrides, where backslashes count only in front of a quote."""
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + (found[2] and "\\'"), text)
    return f"'{escaped}'"
