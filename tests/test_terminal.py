"""Bars and lines of status: on terminals only, gone in the end, and never wider than the screen."""

from __future__ import annotations

import io
import sys

import pytest

from seqlm import terminal
from seqlm.terminal import Part, bar, fit, labelled, line, paint, status, track

from .pseudo_terminal import left_on_screen

PARTS = [Part("45%", 9), Part("eta 1:03", 8), Part("loss 1.234", 1), Part("", 10), Part("best ppl 3.4 @ 1,000", 5)]


@pytest.mark.parametrize(
    ("width", "shown"),
    [(80, "45% eta loss best"), (48, "45% eta loss best"), (46, "45% eta best"), (34, "45% eta"), (8, "45%"), (2, "")],
)
def test_parts_are_dropped_by_importance_and_never_cut(width, shown):
    kept = fit(PARTS, width)
    assert [part.text.split()[0] for part in kept] == shown.split()
    assert all(part in PARTS for part in kept) and len("  ".join(part.text for part in kept)) <= width


def test_a_line_in_a_file_holds_every_part():
    parts = [Part("x" * 50, 1, "green"), Part("y" * 50, 2)]
    assert line(parts, io.StringIO()) == f"{'x' * 50}  {'y' * 50}"


def test_rows_are_broken_between_words_on_a_terminal(screen):
    rows = [("run", "/a" * 50), ("a label", "word " * 30), ("none", ""), ("next", f"seqlm eval {'/a' * 50}")]
    lines = labelled(rows, screen).splitlines()
    assert lines[0] == f"\x1b[1mrun    \x1b[0m  {'/a' * 50}"
    assert lines[2] == f"         {'word ' * 13}word" and len(lines) == 5
    assert len(labelled(rows, io.StringIO()).splitlines()) == 3


def test_colours_are_for_terminals_that_want_them(screen, monkeypatch):
    assert paint("good", "green", screen) == "\x1b[32mgood\x1b[0m"
    assert paint("good", "green", io.StringIO()) == "good"
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("good", "green", screen) == "good"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert paint("good", "green", screen) == "good"


def test_a_status_is_shown_while_it_lasts_and_erased(screen):
    with status("loading torch"), status("compiling a kernel"):
        assert left_on_screen(screen.getvalue()) == ["compiling a kernel ..."]
    assert left_on_screen(screen.getvalue()) == [""]
    assert "loading torch ..." in screen.getvalue()


def test_a_status_ends_with_what_failed(screen):
    with pytest.raises(ValueError, match="wrong"), status("reading the data"):
        raise ValueError("wrong")
    assert left_on_screen(screen.getvalue()) == [""] and terminal._statuses == []


def test_a_bar_has_a_percentage_and_is_gone_in_the_end(screen, monkeypatch):
    monkeypatch.setattr(terminal, "DELAY", 0)
    with status("reading the data"), bar(4, "encoding", " texts", delay=0) as shown:
        shown.update(2)
        shown.refresh()
        (seen,) = left_on_screen(screen.getvalue())
        assert seen.startswith("encoding:  50%|") and "2/4" in seen and len(seen) <= 80
    assert left_on_screen(screen.getvalue()) == [""]


def test_a_tracked_sequence_is_the_same(screen):
    assert list(track(iter("abc"), "reading", " letters")) == ["a", "b", "c"]
    assert list(track(["a", "bc"], "reading", "B", 3, size=len)) == ["a", "bc"]


def test_nothing_is_written_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", made := io.StringIO())
    with status("loading torch"), bar(3, "encoding", " texts", delay=0) as shown:
        shown.update(3)
    assert made.getvalue() == ""
