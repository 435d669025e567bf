"""docs/config.md and docs/recipes.md, made from the YAML files of configs/ and their comments.

python scripts/config_docs.py           rewrite the pages
python scripts/config_docs.py --check   fail if they do not show what configs/ says
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from textwrap import dedent

from seqlm.commands.verbs import VERBS
from seqlm.config.reference import Key, Page, Reference, read_page
from seqlm.config.tree import find_configs

DOCS = Path(__file__).resolve().parents[1] / "docs"
HEAD = """# Keys and options

<!-- Made by scripts/config_docs.py from the comments in configs/; change those. -->

`seqlm train group=option key=value` chooses the option of a group, whose keys join those of `configs/train.yaml`, and
overrides keys. A folder of your own with the same layout, `--config-dir DIR`, adds options. `seqlm VERB --help` shows
the keys of a verb on the terminal, `seqlm train model=gru --help` those of other options, and `--cfg job` what is
composed.
"""
RECIPES = """# Recipes

<!-- Made by scripts/config_docs.py from configs/experiment/; change those. -->

A recipe is a file of `configs/experiment/`: the settings of a paper, or of the code of its authors, with the published
numbers and how these are counted ([protocols](protocols.md)). `seqlm train experiment=NAME` takes one, keys behind
it override what it sets, and [Results](results.md) has what each reached here. One that names another recipe in its
`defaults` is that recipe with the differences below.
"""


def page() -> str:
    """The whole page: each verb with keys, each group with its options."""
    reference = Reference()
    parts = [HEAD, _section("seqlm train", "", _page("train").keys)]
    for group, options in reference.groups.items():
        default = reference.defaults().get(group)
        parts.append(f"## {group}=\n\n{_options(group, options, default)}")
        if group != "experiment":
            parts += _keys_of_options(group, options)
    dropout = [key._replace(name=f"model.dropout.{key.name}") for key in _page("dropout").keys]
    parts.append(_section("model.dropout", _page("dropout").summary, dropout))
    for also in dict.fromkeys(entry.also for entry in VERBS.values() if entry.also):
        parts.append(_section(f"{also}=true", _page(also).summary, _page(also).keys))
    for verb, entry in VERBS.items():
        if entry.keys == verb != "train":
            shown = reference.verb_keys(verb).values()
            parts.append(_section(f"seqlm {verb} {entry.usage}", f"{entry.sentence.capitalize()}.", shown))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _keys_of_options(group: str, options: Sequence[str]) -> Iterable[str]:
    """Tables of the keys that files of a group hold; files with the same keys share one."""
    base = [path.stem for path in sorted((find_configs() / group).glob("*.yaml")) if path.stem not in options]
    tables: dict[str, list[str]] = {}
    for option in [*base, *options]:
        prefix = "" if _page(f"{group}/{option}").is_global else group.replace("/", ".") + "."
        keys = [key._replace(name=f"{prefix}{key.name}") for key in _page(f"{group}/{option}").keys]
        if keys:
            tables.setdefault(_table(keys), []).append(option)
    for table, names in tables.items():
        yield f"### {group}={', '.join(names)}\n\n{table}\n"


def _options(group: str, options: Sequence[str], default: str | None) -> str:
    rows = []
    for option in options:
        found = _page(f"{group}/{option}")
        rows.append((f"`{option}`{' (default)' * (option == default)}", _text(found.summary)))
    return _markdown(("option", "what it is"), rows)


def _section(title: str, text: str, keys: Iterable[Key]) -> str:
    return "\n".join([f"## {title}", "", *([_text(text), ""] if text else []), _table(keys), ""])


def _table(keys: Iterable[Key]) -> str:
    rows = [(f"`{key.name}`" if key.value else f"`{key.name}.*`", _code(key.value), _text(key.comment)) for key in keys]
    return _markdown(("key", "default", "meaning"), rows)


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [" | ".join(cells) for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _text(text: str) -> str:
    """Text in a cell of a table, where | ends one and <x> would be HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def recipes() -> str:
    """Each recipe: the comment at the head of its file, as prose and commands, then all that it sets."""
    parts = [RECIPES]
    for path in sorted((find_configs() / "experiment").glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        count = next(index for index, line in enumerate(lines) if not line.startswith("#"))
        keys = "\n".join(lines[count:]).strip()
        about = "\n".join(_prose(_page(f"experiment/{path.stem}").about))
        parts.append(f"## {path.stem}\n\n{about}\n```yaml\n{keys}\n```\n")
    return "\n".join(parts)


def _prose(lines: Sequence[str]) -> Iterator[str]:
    """Paragraphs, with indented lines as code."""
    for indented, part in groupby(lines, lambda line: line.startswith(" ")):
        text = list(part)
        yield from ["```text", dedent("\n".join(text)), "```"] if indented else map(_text, text)


def _page(name: str) -> Page:
    return read_page(find_configs() / f"{name}.yaml")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if a page is stale")
    check = parser.parse_args().check
    made = {DOCS / "config.md": page(), DOCS / "recipes.md": recipes()}
    stale = [path for path, text in made.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if check:
            print(f"{path} is stale: python scripts/config_docs.py", file=sys.stderr)
        else:
            path.write_text(made[path], encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
