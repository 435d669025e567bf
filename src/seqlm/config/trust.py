"""Trust is typed: a YAML file that widens what a configuration may do is refused.

That is `trust`, and those keys of hydra that name code, make processes or set their environment. Imports no hydra.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import ConfigError
from .flags import values_of
from .keys import dotted
from .tree import find_configs

# Keys of hydra that a file may set: folders, and values that a sweep gives to keys.
HARMLESS = (
    "hydra.run.",
    "hydra.sweep.",
    "hydra.sweeper.params",
    "hydra.output_subdir",
    "hydra.mode",
    "hydra.job.chdir",
)
# What runs the jobs of a multirun may be set up in a file, once a word has chosen it: hydra/launcher=mine.
CHOSEN = ("launcher", "sweeper")


def has_own_files(words: Sequence[str]) -> bool:
    """Whether YAML files that are not ours may be composed."""
    folders = [*values_of("--config-dir", words), *(find_configs() / "local").glob("*")]
    return bool(folders) or any("hydra.searchpath" in word for word in words)


def check_trust(values: Mapping[str, Any], words: Sequence[str]) -> None:
    """Raise ConfigError if composed values trust a package that no word does."""
    trust = values.get("trust")
    if foreign := [name for name in (trust if isinstance(trust, list) else []) if name not in typed_trust(words)]:
        raise ConfigError(f"trust={_listed(foreign)} stands in a file; {_way_out(foreign)}")


def widening(file: str, values: Mapping[str, Any], words: Sequence[str]) -> list[str]:
    """A line for each key in a YAML file, by its whole name, that only words may set, unless `words` set it so."""
    problems = []
    for key, value in _leaves(values):
        name = key.removeprefix("hydra.sweeper.params.")  # values of keys, as if they were typed
        if name == "trust" and not {*_names(value)} <= typed_trust(words):
            problems.append(f"{file} says trust={_listed(value)}; {_way_out(value)}")
        elif name.startswith(("hydra.", "hydra/")) and not _allowed(name, value, words):
            problems.append(f"{file} says {key}={value}; what hydra runs is typed: take it out, or type it")
    return problems


def typed_trust(words: Sequence[str]) -> set[str]:
    """The packages that words trust, those of all jobs of a multirun."""
    pairs = (word.lstrip("+").partition("=") for word in words)
    return {name for key, _, value in pairs if key == "trust" for name in _names(value)}


def _names(value: Any) -> list[str]:
    return re.findall(r"[^\s,'\"\[\]]+", str(value))


def _allowed(key: str, value: Any, words: Sequence[str]) -> bool:
    """Whether a file may set a key of hydra."""
    if key.endswith("._target_") and not str(value).startswith(tuple(typed_trust(words))):
        return False
    given = [word.lstrip("+").replace("/", ".") for word in words]
    chosen = [f"hydra.{part}" for part in CHOSEN if any(word.startswith(f"hydra.{part}=") for word in given)]
    return key.startswith((*HARMLESS, *(f"{part}." for part in chosen)))


def _leaves(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every value by dotted key, those in lists too."""
    for key, value in dotted(values).items():
        yield key, value
        for index, item in enumerate(value if isinstance(value, list) else []):
            if isinstance(item, Mapping):
                yield from ((f"{key}.{index}.{inner}", leaf) for inner, leaf in _leaves(item))


def _way_out(value: Any) -> str:
    return f"what may run is typed: take it out, and if that is your code, type trust={_listed(value)}"


def _listed(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
