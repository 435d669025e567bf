"""Charts as inline SVG: lines that differ in colour and in dashes, so that grey paper shows them, too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from .curves import Curve
from .plotting import COLOURS

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 320, 64, 40, 12, 12
LINES = (*COLOURS, "#999999")  # in each of four dashes
DASHES = ("", "6 3", "2 2", "8 3 2 3")


def style(index: int) -> str:
    """Colour and dashes of the line of this number."""
    dash = DASHES[(index + 2 * (index // len(LINES))) % len(DASHES)]  # 28 that differ
    return f'stroke="{LINES[index % len(LINES)]}"' + f' stroke-dasharray="{dash}"' * bool(dash)


def chart(curves: Mapping[str, Curve], title: str, x_title: str) -> str:
    """A line for each name, over the band between its seeds; the scale is logarithmic where values differ by far."""
    shown = {name: one for name, one in curves.items() if one.x}
    number = {name: index for index, name in enumerate(curves)}  # as in the legend, whatever is left out here
    if not shown:
        return f'<p class="empty">{escape(title)}: nothing was logged</p>'
    xs = [x for one in shown.values() for x in one.x]
    ys = [y for one in shown.values() for y in (*one.low, *one.high)]
    log = min(ys) > 0 and max(ys) / min(ys) > 8
    scale = (lambda y: math.log10(y)) if log else (lambda y: y)
    low_x, high_x = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1
    low, high = scale(min(ys)), scale(max(ys))
    margin = 0.04 * (high - low) or 0.5
    low, high = low - margin, high + margin

    def place(x: float, y: float) -> str:
        across = LEFT + (x - low_x) / (high_x - low_x) * (WIDTH - LEFT - RIGHT)
        down = TOP + (high - scale(y)) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return f"{across:.1f},{down:.1f}"

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)} by {escape(x_title)}">',
        f"<title>{escape(title)} by {escape(x_title)}</title>",
    ]
    for y in _ticks(low, high, log):
        across, down = place(low_x, y).split(",")
        parts.append(f'<line class="grid" x1="{across}" x2="{WIDTH - RIGHT}" y1="{down}" y2="{down}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{down}" class="tick end">{_short(y)}</text>')
    for x in _ticks(low_x, high_x, False):
        across, _ = place(x, 10**low if log else low).split(",")
        parts.append(f'<text x="{across}" y="{HEIGHT - BOTTOM + 16}" class="tick">{_short(x)}</text>')
    for name, one in shown.items():
        if one.low != one.high:
            edge = [place(x, y) for x, y in zip(one.x, one.high, strict=True)]
            edge += [place(x, y) for x, y in zip(one.x[::-1], one.low[::-1], strict=True)]
            parts.append(
                f'<polygon points="{" ".join(edge)}" fill="{LINES[number[name] % len(LINES)]}" opacity="0.15"/>'
            )
    for name, one in shown.items():
        index = number[name]
        points = " ".join(place(x, y) for x, y in zip(one.x, one.mean, strict=True))
        if len(one.x) == 1:
            across, down = points.split(",")
            parts.append(f'<circle cx="{across}" cy="{down}" r="3" fill="none" {style(index)}/>')
        parts.append(
            f'<polyline points="{points}" class="curve" {style(index)}><title>{escape(name)}</title></polyline>'
        )
    parts.append(f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 6}" class="tick">{escape(x_title)}</text></svg>')
    return "".join(parts)


def legend(names: Sequence[str]) -> str:
    """A sample of each line beside its name."""
    sample = '<svg viewBox="0 0 36 8" width="36" height="8"><line x1="0" x2="36" y1="4" y2="4" class="curve" {}/></svg>'
    lines = [f"<li>{sample.format(style(index))} {escape(name)}</li>" for index, name in enumerate(names)]
    return f'<ul class="legend">{"".join(lines)}</ul>'


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """Round numbers between two, which are logarithms if `log`."""
    if log:
        every, digits = math.ceil((high - low) / 6), (1, 2, 5) if high - low < 2 else (1,)
        powers = [power for power in range(math.floor(low), math.ceil(high) + 1) if power % every == 0]
        found = [digit * 10.0**power for power in powers for digit in digits]
        inside = [value for value in found if low <= math.log10(value) <= high]
        return inside if len(inside) > 1 else [10**low, 10**high]
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= 6)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _short(value: float) -> str:
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):g}{letter}"
    return f"{value:.4g}"
