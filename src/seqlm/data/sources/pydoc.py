"""The embedded default: English that every machine has, the documentation inside the running Python."""

from __future__ import annotations

import ast
import hashlib
import sysconfig
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from ...errors import ConfigError
from ..corpus import SPLITS, Corpus

# Not documentation, not part of Python, or not installed everywhere.
SKIPPED_FOLDERS = frozenset(
    ["test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "turtledemo", "_bundled", "pydoc_data",
     "encodings", "__pycache__"]
)  # fmt: skip
FRACTIONS = {"train": 0.9, "valid": 0.05, "test": 0.05}


class PydocCorpus(Corpus):
    """The topics of `pydoc_data` and the docstrings of the standard library, about 2 MB of English.

    Read by `ast`, never imported. A document is a topic or the docstrings of one module. Documents are
    put in a fixed order that mixes their kinds (by a hash of their names) and split whole: 90% of the
    text to train, 5% to valid, 5% to test. The text depends on the Python version. Raises ConfigError
    if the standard library is not there as source.
    """

    def __init__(self) -> None:
        self._root = Path(sysconfig.get_path("stdlib"))
        self._files = [
            file
            for file in sorted(self._root.rglob("*.py"))
            if not SKIPPED_FOLDERS.intersection(file.relative_to(self._root).parts)
        ]
        topics = self._root / "pydoc_data" / "topics.py"
        if topics.is_file():
            self._files.append(topics)
        if len(self._files) < 50:
            raise ConfigError(
                f"data=pydoc finds no Python sources in {self._root}; use data=text data.path=... with a text of yours"
            )

    def read(self, split: str) -> Iterator[str]:
        yield from self._documents[split]

    def fingerprint(self, split: str) -> str:
        # The sources stand for the text that is cut out of them: hashing is much faster than parsing.
        digest = hashlib.sha256(f"pydoc 1 {split}".encode())
        for file in self._files:
            digest.update(file.relative_to(self._root).as_posix().encode() + b"\0" + file.read_bytes())
        return digest.hexdigest()

    @cached_property
    def _documents(self) -> dict[str, list[str]]:
        documents: dict[str, str] = {}
        for file in self._files:
            if file.parent.name == "pydoc_data":
                documents |= _topics(file)
            else:
                name = ".".join(file.relative_to(self._root).with_suffix("").parts).removesuffix(".__init__")
                documents[name] = _docstrings(file, name)
        names = sorted(
            (name for name, text in documents.items() if text), key=lambda n: hashlib.sha256(n.encode()).digest()
        )
        total = sum(len(documents[name]) for name in names)
        split_texts: dict[str, list[str]] = {split: [] for split in SPLITS}
        seen = 0
        for name in names:
            share = seen / total
            split = "train" if share < FRACTIONS["train"] else "valid" if share < 1 - FRACTIONS["test"] else "test"
            split_texts[split].append(documents[name])
            seen += len(documents[name])
        return split_texts


def _docstrings(file: Path, module: str) -> str:
    """Every documented object of a module: its name as one would call it, and its docstring."""
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:  # the standard library ships a few files that are broken on purpose
        return ""
    parts = []
    for name, node in _named(tree, module):
        text = ast.get_docstring(node)
        if text:
            signature = (
                f"({ast.unparse(node.args)})" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else ""
            )
            parts.append(f"{name}{signature}\n\n{text}\n\n")
    return "".join(parts)


Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _named(node: Documented, name: str) -> Iterator[tuple[str, Documented]]:
    yield name, node
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _named(child, f"{name}.{child.name}")


def _topics(file: Path) -> dict[str, str]:
    """The help topics: `topics = {name: text}` in pydoc_data/topics.py."""
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            return {f"topic {name}": text + "\n\n" for name, text in ast.literal_eval(node.value).items()}
    return {}
