"""The words that users read are those of the field: phrases that were once ours alone stay out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import seqlm

from .conftest import REPOSITORY

ROOT = Path(seqlm.__file__).parent
# Each with what is said instead; as whole words, in any case.
BANNED = {
    "say something of": "run inference on",
    "what a run says": "run inference on, the output",
    "(go|goes|going) on (with|without|from|after)": "resume, continue",
    "dead": "crashed, interrupted",
    "no better": "no improvement",
    "all in all": "overall",
    "another one": "name it: another run, cannot change on resume",
    "anew": "again",
    "by heart": "overfit",
    "is told": "is given, conditioned on",
    "is said by": "depends on",
    "said (again|backwards)": "copied, reversed",
    "judged by": "monitor",
    "look through|lens": "evaluation protocol",
    "certify|certificate": "reproduce",
    "carries": "stateful",
}


def printed() -> dict[str, str]:
    """Every text that users read, by where it stands: string constants, comments of YAML files, the README."""
    found = {"README.md": (REPOSITORY / "README.md").read_text(encoding="utf-8")}
    for path in ROOT.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        bodies = [node.body for node in ast.walk(tree) if isinstance(getattr(node, "body", None), list)]
        docs = {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
        for node in ast.walk(tree):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
            if is_text and id(node) not in docs:  # a single word may be the older name of a key
                place = f"{path.relative_to(ROOT)}:{node.lineno}:{node.col_offset}"  # one for all of an f-string
                found[place] = found.get(place, "") + node.value
    for path in (REPOSITORY / "configs").rglob("*.yaml"):
        found[str(path.relative_to(REPOSITORY))] = "\n".join(re.findall("#.*", path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("phrase", BANNED)
def test_banned_phrases(phrase):
    pattern = re.compile(rf"\b({phrase})\b", re.IGNORECASE)
    wrong = {place: found[0] for place, text in printed().items() if (found := pattern.search(" ".join(text.split())))}
    assert not wrong, f"write {BANNED[phrase]}: {wrong}"


def test_the_list_bites():
    for said in (
        "say something of each line", "go on with step 3", "crashed or dead", "valid 3.2  no better", "all in all 3 s",
        "these keys would make it another one", "goes on from there",
    ):  # fmt: skip
        assert any(re.search(rf"\b({phrase})\b", said, re.IGNORECASE) for phrase in BANNED), said
    texts = " ".join(printed().values())
    for shown in (
        "run inference on each line",
        "no improvement",
        "tokens/s overall",
        "these keys cannot change on resume",
    ):
        assert shown in texts
