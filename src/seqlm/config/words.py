"""Words of a command line as hydra's grammar has them: which are overrides, what is quoted, and values as words."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .flags import is_multirun
from .schema import PATH_KEYS

Words = Sequence[str]
# Values that are left to hydra's grammar: quoted, composite, interpolated, or a function of it.
GRAMMAR = re.compile(r"""['"\[{$]|(null|\?\?\?)$|(choice|range|interval|glob|sort|shuffle)\(""")
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


def quoted_paths(words: Words) -> list[str]:
    """The overrides, paths in quotes and ~ expanded: to hydra a plain é, & or ( is an error, and 1984 a number."""
    several = is_multirun(words)  # then commas separate jobs
    found = []
    for word in _with_whole_init_from(overrides(words), several):
        key, _, value = word.partition("=")
        is_path = key.lstrip("+") in PATH_KEYS or key.lstrip("+").startswith("paths.")
        if is_path and value and not GRAMMAR.match(value):
            paths = value.split(",") if several else [value]
            word = f"{key}=" + ",".join(_quoted(os.path.expanduser(path)) for path in paths)
        found.append(word)
    return found


def _with_whole_init_from(words: Words, several: bool) -> list[str]:
    """`init_from=RUN init_from.optimizer=true` as one word: to hydra the first makes it a text, which has no keys."""
    given = {key: value for word in words for key, _, value in [word.partition("=")] if f"{key}.".startswith(INIT_FROM)}
    run = given.pop("init_from", given.pop(f"{INIT_FROM}run", ""))
    if not given or not run or run.startswith("{"):
        return list(words)
    texts = {"run": run, **{key.removeprefix(INIT_FROM): value for key, value in given.items()}}
    choices = [value.split(",") if several else [value] for value in texts.values()]
    choices[0] = [path if GRAMMAR.match(path) else _quoted(os.path.expanduser(path)) for path in choices[0]]
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


def _quoted(text: str) -> str:
    """A text in hydra's grammar of overrides, where backslashes count only in front of a quote."""
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + (found[2] and "\\'"), text)
    return f"'{escaped}'"
