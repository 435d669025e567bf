"""Help as text: of all verbs, and of one, with the comments of its YAML files. Imports no torch."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..config.comparison import may_change
from ..config.flags import values_of
from ..config.reference import MOST_USED, Key, Reference
from ..terminal import columns
from .verbs import VERBS

LEFT = 36  # characters of the left column at most


def overview() -> str:
    """Every verb with its sentence."""
    rows = [(verb, entry.sentence) for verb, entry in VERBS.items()]
    return "\n".join(
        [
            "seqlm trains recurrent language models.",
            "",
            *_columns(rows),
            "",
            "seqlm VERB --help lists the words and keys of a verb.",
        ]
    )


def verb_help(verb: str, words: Sequence[str] = ()) -> str:
    """Words, keys and examples of a verb; keys are those of the options that `words` choose."""
    entry, reference = VERBS[verb], Reference(map(Path, values_of("--config-dir", words)))
    parts = [_filled(f"seqlm {verb} {entry.usage}: {entry.sentence}"), _titled("Words", _columns(entry.words.items()))]
    keys = keys_of(verb, words, reference)
    if entry.keys == "train" and verb != "train":
        parts += ["Its groups and keys are those of `seqlm train --help`."]
    elif entry.keys == "train":
        used = [key for name, key in keys.items() if name in MOST_USED]
        others = [key for name, key in keys.items() if name not in MOST_USED]
        title = "Keys (those of another option: seqlm train model=gru --help)"
        parts += [_titled(title, _columns(map(_row, others)))]
        parts += [_titled("Groups: the default, and the other options", _columns(_groups(reference)))]
        parts += [_titled("Most used keys", _columns(map(_row, used)))]
    elif keys:
        title = "Keys that may change" if entry.keys == "resume" else "Keys"
        rows = [(key.name, key.comment) if entry.keys == "resume" else _row(key) for key in keys.values()]
        parts += [_titled(title, _columns(rows))]
    if entry.also:
        page = reference.page(entry.also)
        parts += [_titled(f"Keys of {entry.also}=true", _columns(map(_row, page.keys if page else ())))]
    if entry.examples:
        rows = [(f"seqlm {line}", text) for line, text in entry.examples]
        parts += [_titled("Examples", _columns(rows, _width() - 26))]
    return "\n\n".join(parts)


def keys_of(verb: str, words: Sequence[str], reference: Reference) -> dict[str, Key]:
    """The keys that a verb takes as key=value, by name."""
    source = VERBS[verb].keys
    if source not in ("train", "resume"):
        return reference.verb_keys(source) if source else {}
    keys = reference.keys(words)
    return keys if source == "train" else {name: key for name, key in keys.items() if may_change(name)}


def _groups(reference: Reference) -> Iterable[tuple[str, str]]:
    defaults = reference.defaults()
    for group, options in reference.groups.items():
        default = defaults.get(group, "")
        others = ", ".join(option for option in options if option != default)
        yield f"{group}={default}", f"or {others}" if default else others


def _row(key: Key) -> tuple[str, str]:
    return (f"{key.name}={key.value}" if key.value else f"{key.name}.*"), key.comment


def _titled(title: str, lines: Iterable[str]) -> str:
    return "\n".join([f"{title}:", *lines])


def _columns(rows: Iterable[tuple[str, str]], most: int = LEFT) -> list[str]:
    """Two columns, the right one wrapped to the width of the terminal; a long word at the left has its own line."""
    rows = list(rows)
    left = min(max((len(word) for word, _ in rows), default=0), most)
    lines = []
    for word, text in rows:
        wrapped = textwrap.wrap(text, _width() - left - 4, break_on_hyphens=False) or [""]
        if len(word) > left:
            lines.append(f"  {word}")
        else:
            lines.append(f"  {word:<{left}}  {wrapped.pop(0)}".rstrip())
        lines += [f"  {'':<{left}}  {line}" for line in wrapped if line]
    return lines


def _filled(text: str) -> str:
    return "\n".join(textwrap.wrap(text, _width(), break_on_hyphens=False))


def _width() -> int:
    return max(40, min(120, columns(sys.stdout)))
