"""The YAML files as people read them: their groups, options and keys, with the comments that explain them.

Help, shell completion and docs/config.md are made of this. It reads text only, which takes a few milliseconds;
tests hold it to what hydra composes of the same files. Imports neither torch nor hydra nor omegaconf.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from ..files import MB, read_bounded
from .tree import find_configs

# The keys that help names first.
MOST_USED = (
    "run.name", "seed", "device", "precision", "model.hidden_size", "model.num_layers", "model.dropout.output",
    "optim.lr", "train.batch_size", "train.bptt", "train.steps", "train.epochs", "train.minutes", "train.eval_every",
)  # fmt: skip
BASE_PRESETS = {"language_model", "sequence_model"}  # presets are made of these, which are none themselves
KEY = re.compile(r"( *)([\w/@.-]+):(?: +(?!#)(.*?))?(?: +# *(.*))?")
VALUE = re.compile(r"[\w.+-]+(:\d+)?")


class Key(NamedTuple):
    """A key as it is typed, its default as YAML has it, and the comment behind it. A section has no value."""

    name: str
    value: str
    comment: str

    @property
    def choices(self) -> list[str]:
        """Values that the comment lists: `a | b (detail) | c: detail`, perhaps behind `of something: `."""
        if " | " not in self.comment:
            return ["true", "false"] if self.value in ("true", "false") else []
        first, *others = self.comment.split(" | ")
        last_word = re.sub(r" \(.*\)$", "", first.rpartition(": ")[2])
        texts = [last_word if VALUE.fullmatch(last_word) else first, *others]
        return [found[0] for text in texts if (found := VALUE.match(text.strip()))]


class Page(NamedTuple):
    """A YAML file: what its first comment says, its defaults list, and the keys that it holds itself."""

    about: list[str]
    defaults: list[str]
    keys: list[Key]
    is_global: bool  # whether its keys are top-level ones: `@package _global_`

    @property
    def summary(self) -> str:
        """The first comment up to the command in it, if there is one."""
        lines: list[str] = []
        for line in self.about:
            if line.startswith((" ", "Published:")):
                break
            lines.append(line.partition("   seqlm ")[0].strip())
        return " ".join(lines)


def read_page(path: Path) -> Page:
    """The lines of a YAML file whose values stand on the line of their key, as all of ours do."""
    about: list[str] = []
    defaults: list[str] = []
    keys: list[Key] = []
    sections = [(-1, "")]  # (indentation, prefix of the keys in it)
    is_global = False
    for line in read_bounded(path, MB).decode("utf-8", "replace").splitlines():
        text = line.strip()
        if text.startswith("#"):
            comment = text[1:].removeprefix(" ")
            if comment.startswith("@package"):
                is_global = comment.split()[-1] == "_global_"
            elif keys:
                keys[-1] = keys[-1]._replace(comment=f"{keys[-1].comment} {comment.strip()}")
            elif len(sections) == 1:
                about.append(comment)
        elif text.startswith("- "):
            item, section = text[2:].partition(" #")[0].strip(), sections[-1][1].removesuffix(".")
            if section == "defaults":
                defaults.append(item)
            else:  # a list of mappings
                keys.append(Key(section, f"[{{{item}}}]", ""))
        elif found := KEY.fullmatch(line):
            indent, name, value, comment = len(found[1]), found[2], found[3] or "", found[4] or ""
            while sections[-1][0] >= indent:
                sections.pop()
            prefix = sections[-1][1]
            if name == "defaults" and value:
                defaults += value.strip("[]").split(", ")
            elif inner := re.findall(r"(\w+): ([^,{}]+)", value if value.startswith("{") else ""):
                keys += [Key(f"{prefix}{name}.{key}", item, comment) for key, item in inner]
            elif value:
                keys.append(Key(f"{prefix}{name}", value, comment))
            else:
                sections.append((indent, f"{prefix}{name}."))
                keys += [Key(f"{prefix}{name}", "", comment)] * bool(comment)
    kept = [key for key in keys if not key.name.startswith("hydra.") and not key.name.endswith("_target_")]
    return Page(about, defaults, kept, is_global)


class Reference:
    """The YAML files in the folder of the package, and in `folders`, a user's own, which come first.

    Args:
        folders: what was given by --config-dir.
    """

    def __init__(self, folders: Iterable[Path] = ()) -> None:
        self.folders = [*folders, find_configs()]

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Every group with its options: {"model/cell": ["elman", ...]}."""
        found: dict[str, set[str]] = {}
        for folder in self.folders:
            for path in folder.rglob("*.yaml"):
                group = path.parent.relative_to(folder).as_posix()
                if group not in (".", "local") and path.stem not in BASE_PRESETS:
                    found.setdefault(group, set()).add(path.stem)
        return {group: sorted(options) for group, options in sorted(found.items())}

    def page(self, name: str) -> Page | None:
        """The file `name`.yaml, such as model/gru."""
        path = next((path for folder in self.folders if (path := folder / f"{name}.yaml").is_file()), None)
        return None if path is None else read_page(path)

    def defaults(self) -> dict[str, str]:
        """The option of each group that `seqlm train` takes without being told; null for none."""
        items = self._page("train").defaults
        return dict(_option(item) for item in items if ": " in item and not item.startswith(("optional", "override")))

    def taken(self, words: Sequence[str]) -> dict[str, str]:
        """The options that words of a command line choose, by themselves and by an experiment."""
        typed = dict(word.split("=", 1) for word in words if word.partition("=")[0].partition("@")[0] in self.groups)
        chosen: dict[str, str] = {}
        for group in ("debug", "experiment"):
            if self.page(f"{group}/{typed.get(group)}"):
                chosen |= self._overrides(f"{group}/{typed[group]}")
        return chosen | typed

    def keys(self, words: Sequence[str] = ()) -> dict[str, Key]:
        """Every key of the configuration that the words of `seqlm train` choose, by name, section by section."""
        keys = self._keys("train", "", self.taken(words))
        sections = list(dict.fromkeys(name.partition(".")[0] for name in keys))
        order = sorted(keys, key=lambda name: (sections.index(name.partition(".")[0]), name.count(".")))
        return {name: keys[name] for name in order}

    def verb_keys(self, verb: str) -> dict[str, Key]:
        """The keys of a verb with a YAML file of its own, and of the files that it names; none for others."""
        page = self.page(verb)
        pages = [page, *(self._page(name) for name in page.defaults)] if page else []
        return {key.name: key for one in pages for key in one.keys}

    def _page(self, name: str) -> Page:
        return self.page(name) or Page([], [], [], False)

    def _overrides(self, name: str) -> dict[str, str]:
        """The options that an experiment, and those it builds on, choose."""
        found: dict[str, str] = {}
        for item in self._page(name).defaults:
            if item.startswith("override /"):
                group, option = _option(item.removeprefix("override /"))
                found[group] = option
            elif item != "_self_":
                found = self._overrides(f"{name.rpartition('/')[0]}/{item}") | found
        return found

    def _keys(self, name: str, package: str, chosen: Mapping[str, str]) -> dict[str, Key]:
        """Keys of a file and of those in its defaults list; `chosen` decides over its own options, as in hydra."""
        page, group = self._page(name), name.rpartition("/")[0]
        prefix = "" if page.is_global or not package else f"{package}."
        own = dict(_option(item.removeprefix("override ")) for item in page.defaults if item.startswith("override "))
        chosen = {f"{group}/{inner}": option for inner, option in own.items()} | dict(chosen)
        found: dict[str, Key] = {}
        for item in [*page.defaults, *(["_self_"] if "_self_" not in page.defaults else [])]:
            place, option = _option(item.removeprefix("optional "))
            file, _, at = place.partition("@")
            file = file[1:] if file.startswith("/") else f"{group}/{file}".lstrip("/")
            inner = "" if at == "_global_" else f"{prefix}{at or file.rpartition('/')[2]}"
            if item == "_self_":
                _merge(found, {f"{prefix}{key.name}": key._replace(name=f"{prefix}{key.name}") for key in page.keys})
            elif item.startswith("override "):
                continue
            elif not option:
                _merge(found, self._keys(file, inner if at else package, chosen))
            else:
                option = chosen.get(f"{file}@{inner}" if at else file, option)
                for name in names_in(option):
                    _merge(found, self._keys(f"{file}/{name}", inner, chosen))
        return found


def names_in(option: str) -> list[str]:
    """The options in a list of them, `[tensorboard,wandb]`, or the one that there is."""
    return [name.strip() for name in option.strip("[]").split(",")]


def _option(item: str) -> tuple[str, str]:
    """Group and option of an item of a defaults list; no option if the item is a file."""
    group, _, option = item.partition(": ")
    return group, option


def _merge(keys: dict[str, Key], more: Mapping[str, Key]) -> None:
    """Let later values decide; a comment stays where the later key has none."""
    for name, key in more.items():
        for section in [name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)]:
            if keys.get(section, key).value in ("null", "{}"):  # characters: null, then characters.hidden_size: 25
                keys.pop(section, None)
        known = keys.get(name)
        keys[name] = key if key.comment or known is None else key._replace(comment=known.comment)
