"""Pictures of diagnoses: titles that fit."""

from __future__ import annotations

import pytest

from seqlm.diagnose.figures import short_names


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["pydoc-elman-h96-s1-62d5d2", "pydoc-gru-h96-s1-895820"], ["elman", "gru"]),
        (["pydoc-gru-h96-s1-62d5d2", "pydoc-gru-h64-s2-895820"], ["h96 s1", "h64 s2"]),
        (["ptb-gru-62d5d2", "ptb-gru-895820"], ["62d5d2", "895820"]),
        (["first", "second"], ["first", "second"]),
        (["a-b", "a-b-c"], ["a-b", "a-b-c"]),
        (["alone-1"], ["alone-1"]),
    ],
)
def test_names_are_what_tells_them_apart(names, short):
    assert short_names(names) == short
