"""Docstrings of this project, plain text with equations, as reStructuredText."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

SIGN = re.compile(r" (=|<-|<=|~|:=) ")  # of an equation
WORD = re.compile(r"\b[a-z]{4,}\b(?!\()")
FEW = 6  # words in the line of an equation
ENUMERATED = re.compile(r"^(\w+)\. ")  # the initials of an author, which would begin a list
ARGUMENT = re.compile(r"^    (\*{0,2}\w+): (.*)$")
SPECIAL = re.compile(r"([\\*`|_<>])")


def to_rst(lines: Sequence[str]) -> list[str]:
    """Paragraphs as they are, equations and examples as blocks, `Args:` as a list."""
    found: list[str] = []
    for block in _blocks(lines):
        if block[0].startswith(">>>"):
            found += [".. code-block:: pycon", "", *(f"   {line}" for line in block), ""]
        elif block[0].strip() in ("Args:", "Attributes:"):
            found += [*_arguments(block[1:]), ""]
        else:
            for equations, part in groupby(block, _is_equation):
                if equations:
                    found += ["", ".. code-block:: text", "", *(f"   {line}" for line in part), ""]
                else:
                    found += [ENUMERATED.sub(r"\\\1. ", _escaped(line.strip())) for line in part]
            found.append("")
    return found


def _is_equation(line: str) -> bool:
    return bool(SIGN.search(line)) and len(WORD.findall(line)) < FEW


def _blocks(lines: Sequence[str]) -> list[list[str]]:
    """Paragraphs, without the empty lines between them."""
    blocks: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


def _arguments(lines: Sequence[str]) -> list[str]:
    found: list[str] = []
    for line in lines:
        if match := ARGUMENT.match(line):
            found += [f"- ``{match[1]}``: {_escaped(match[2])}"]
        else:
            found.append(f"  {_escaped(line.strip())}")
    return found


def _escaped(text: str) -> str:
    """Code between backquotes as code, all else as plain text."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backquote alone
        return SPECIAL.sub(r"\\\1", text)
    return "".join(
        f"\\ ``{part}``\\ " if odd and part.strip() else SPECIAL.sub(r"\\\1", part)
        for odd, part in ((index % 2, part) for index, part in enumerate(parts))
    )
