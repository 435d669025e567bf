"""Diagnoses in a line each, for people."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

Row = tuple[str, str]


def rows(found: Mapping[str, Any]) -> list[Row]:
    """A line or two for each diagnosis of `diagnose`."""
    shown = [("run", f"{found['run']}, step {found['checkpoint']:,}, {found['split']}")]
    return [*shown, *_through_time(found), *_weights(found), *_gates(found), *_units(found), *_training(found)]


def _through_time(found: Mapping[str, Any]) -> Iterator[Row]:
    for curve in found["gradients"]:
        start, end = curve["start"], curve["median"][-1]
        left = f"{end / start if start else 0.0:.2g} of its start"
        gone = left if curve["gone_at"] is None else f"under 1% from lag {curve['gone_at']} on"
        lags = len(curve["median"]) - 1
        yield f"gradient, layer {curve['layer']}, {curve['state']}", f"{gone}  (of {lags} lags)"
    context = found["context"]
    first, best = context["loss"][0], min(context["loss"])
    text = f"{first:.3f} nats with 1 token, {best:.3f} at best; {context['effective']} tokens bring 90% of that"
    yield "context", text


def _weights(found: Mapping[str, Any]) -> Iterator[Row]:
    for one in found["spectra"]:
        most, least = one["singular"][0], one["singular"][-1]
        text = f"singular values {most:.3g} to {least:.2g}, spectral radius {one['radius']:.3g}"
        yield f"layer {one['layer']}, {one['name']}", f"{text}, {one['orthogonality']:.2g} from orthogonal"


def _gates(found: Mapping[str, Any]) -> Iterator[Row]:
    for gate in found["gates"]:
        text = f"{100 * gate['closed']:.0f}% under 0.1, {100 * gate['open']:.0f}% over 0.9"
        if gate["half_lives"]:
            middle = statistics.median(gate["half_lives"])
            text += f"; half-lives of units {min(gate['half_lives']):.2g} to {max(gate['half_lives']):.2g} steps"
            text += f", median {middle:.2g}"
        yield f"gate, layer {gate['layer']}, {gate['name']}", text


def _units(found: Mapping[str, Any]) -> Iterator[Row]:
    for ranking in found["units"]["rankings"]:
        best = ranking["units"][0]
        name = f"layer {best['layer']}, {best['state']} {best['unit']}"
        text = f"{name}: r = {best['score']:.2f} held out"
        if not ranking["telling"]:
            text = f"none beyond chance: {text}"
        yield f"unit of {ranking['name']}", f"{text}  (chance {ranking['chance']:.2f})"


def _training(found: Mapping[str, Any]) -> Iterator[Row]:
    if clipped := found["clipping"]:
        share = f", {100 * clipped['clipped']:.0f}% above {clipped['clip_norm']:g}" if "clipped" in clipped else ""
        yield "norm of gradient", f"median {clipped['median']:.3g}, largest {clipped['largest']:.3g}{share}"
    if ratios := found["update_ratios"]:
        least, most = min(ratios, key=ratios.__getitem__), max(ratios, key=ratios.__getitem__)
        yield "update a step", f"{ratios[least]:.1e} of {least} to {ratios[most]:.1e} of {most}"
    words = found["words"]
    rare = f"{words['never_read']:,} of {words['vocabulary']:,} never read in train"
    yield "words", f"{rare}, {words['five_times']:,} five times at most"
