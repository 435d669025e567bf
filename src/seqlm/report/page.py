"""A comparison as one HTML file: table, learning curves, samples. It loads nothing; what users wrote is only text."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from .curves import AXES, curve
from .svg import chart, legend

MOST_SAMPLES, SAMPLE_CHARACTERS = 12, 1200
LONG, WRAPPED, BEST = 32, ' class="text wrap"', ' class="best"'  # cells of the table
DRAWN = 24  # settings whose curves are drawn: more lines are not told apart


@dataclass
class Shown:
    """A setting on a page.

    Args:
        name: of the setting
        paths: of its runs
        records: what each of them logged
        sample: the last text that was kept of the first of them
    """

    name: str
    paths: list[str]
    records: Sequence[Sequence[Mapping[str, Any]]]
    sample: str = ""


@dataclass
class Page:
    """A comparison, the best setting first.

    Args:
        title: of the page
        summary: a sentence
        columns: of the table, each with its title first; the first column has the names
        settings: in the order of the rows
        charts: titles of charts, by the tag that each shows
        notes: sentences below the table
    """

    title: str
    summary: str
    columns: Sequence[Sequence[str]]
    settings: Sequence[Shown]
    charts: Mapping[str, str]
    notes: Sequence[str] = field(default_factory=list)
    ranked: bool = True  # whether the first row is the best


def html(page: Page, version: str) -> str:
    """The page as text."""
    drawn = page.settings[:DRAWN]
    more = len(page.settings) - len(drawn)
    about = (
        "A line is the mean over seeds, the band around it reaches from the least to the largest; both end with the "
        "shortest run. Each point is the mean of what was logged since the one before; nothing else is smoothed."
    ) + f" Drawn are the {'best' if page.ranked else 'first'} {DRAWN} of {len(page.settings)} settings." * (more > 0)
    template = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(page.title),
        summary=escape(page.summary),
        made=escape(f"seqlm {version}, {time.strftime('%Y-%m-%d %H:%M')}"),
        table=_table(page.columns, page.ranked),
        notes="".join(f"<p>{escape(note)}</p>" for note in page.notes),
        about_curves=escape(about),
        legend=legend([one.name for one in drawn]),
        charts="".join(_section(axis, name, page, drawn) for axis, name in AXES.items()),
        samples=_samples(page.settings),
        count=f"{sum(len(one.paths) for one in page.settings)} runs",
        paths="".join(f"<li>{escape(path)}</li>" for one in page.settings for path in one.paths),
    )


def _table(columns: Sequence[Sequence[str]], ranked: bool) -> str:
    titles, *rows = zip(*columns, strict=True)
    head = "".join(f'<th scope="col"><button>{_with_breaks(title)}</button></th>' for title in titles)
    lines = []
    for place, row in enumerate(rows):
        cells = "".join(f"<td{WRAPPED * (len(cell) > LONG)}>{escape(cell)}</td>" for cell in row)
        lines.append(f"<tr{BEST * (ranked and place == 0)}>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _with_breaks(key: str) -> str:
    """A key that may be broken behind its dots and underscores, which a narrow sheet of paper asks for."""
    return re.sub(r"([._])", r"\1<wbr>", escape(key))


def _section(axis: str, x_title: str, page: Page, drawn: Sequence[Shown]) -> str:
    figures = [
        f"<figure>{chart({one.name: curve(one.records, tag, axis) for one in drawn}, title, x_title)}"
        f"<figcaption>{escape(title)}</figcaption></figure>"
        for tag, title in page.charts.items()
    ]
    return f'<section class="by-{axis}"><div class="charts">{"".join(figures)}</div></section>'


def _samples(settings: Sequence[Shown]) -> str:
    shown = [one for one in settings if one.sample][:MOST_SAMPLES]
    if not shown:
        return ""
    parts = [
        f"<div><strong>{escape(one.name)}</strong><pre>{escape(one.sample[:SAMPLE_CHARACTERS])}</pre></div>"
        for one in shown
    ]
    about = '<p class="soft">The last one of the first run of each setting.</p>'
    return f'<h2>Samples</h2>{about}<div class="samples">{"".join(parts)}</div>'
