"""The message for words that cannot be composed."""

from __future__ import annotations

from pathlib import Path

from ...errors import several
from ..flags import values_of
from ..keys import dotted
from ..reference import Reference
from ..suggest import unknown_option, unknown_word
from ..words import GRAMMAR, INIT_FROM, Words, quoted_paths
from .loading import compose_by_hydra


def explain(words: Words, error: Exception) -> str:
    """The message for a composition error: every key and choice that does not exist, else the message of hydra."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException, MissingConfigException

    parsed = []
    for word in quoted_paths(words):
        try:
            parsed += OverridesParser.create().parse_overrides([word])
        except HydraException:
            return (
                f"{word} cannot be read; write key=value without spaces around =, and quote a value with "
                "spaces, commas, = or brackets: 'key=\"a, b\"'"
            )
    reference = Reference(map(Path, values_of("--config-dir", words)))
    groups = [item for item in parsed if item.key_or_group.partition("@")[0] in reference.groups]
    if again := [item.input_line for item in groups if item.is_add() and "Multiple values" in str(error)]:
        return f"{again[0]} adds a group that is there; write {str(again[0]).lstrip('+')}"
    wrong = {item.input_line: _wrong_option(str(item.input_line), reference) for item in groups}
    if isinstance(error, MissingConfigException) and error.options is not None and not any(wrong.values()):
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return unknown_option(group, option, sorted(error.options))
    folders = ",".join(f"file://{folder.resolve()}" for folder in reference.folders[:-1])
    right = [str(item.input_line) for item in groups if not wrong[item.input_line]]
    try:
        known = dotted(compose_by_hydra([*right, f"hydra.searchpath=[{folders}]"], False)[0])
    except HydraException:  # not a matter of keys
        return " ".join(str(error).split())
    sections = {key.rsplit(".", depth)[0] for key in known for depth in range(1, key.count(".") + 1)}
    parts = {group.partition("/")[0] for group in reference.groups}  # whose keys depend on the option
    problems = [problem for problem in wrong.values() if problem] + [
        f"{item.input_line} needs the run too: init_from=RUN {item.input_line}"
        if item.key_or_group.startswith(INIT_FROM)
        else unknown_word(str(item.input_line), known, reference.groups)
        for item in parsed
        if item not in groups and not item.is_add() and item.key_or_group not in {*known, *sections, "hydra"}
        and not item.key_or_group.startswith("hydra.")
        and not (any(wrong.values()) and item.key_or_group.partition(".")[0] in parts)
    ]  # fmt: skip
    problems += [
        f"{item.input_line} should be a list"
        for item in parsed
        if isinstance(known.get(item.key_or_group), list)
        and not item.is_sweep_override() and not isinstance(item.value(), list)
    ]  # fmt: skip
    return str(several(problems)) if problems else " ".join(str(error).split("\n    full_key")[0].split())


def _wrong_option(word: str, reference: Reference) -> str:
    """The message for the first option in `group=a,b` that does not exist; empty if all do, or hydra must say."""
    group, _, options = word.lstrip("+").partition("=")
    folder = group.partition("@")[0]
    for option in options.split(","):
        if not GRAMMAR.match(option) and not reference.page(f"{folder}/{option}"):
            return unknown_option(group, option, reference.groups[folder])
    return ""
