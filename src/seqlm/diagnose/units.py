"""Units: what each does on a text, and which of them follow a simple property of it better than chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..cells import carry_tensors
from ..files import replacing
from ..models.language_model import LanguageModel
from .properties import properties
from .unrolled import named_states, unroll

MOST = 20_000  # tokens that are read for the ranking: states of all of them are held at once
SHOWN = 5  # units of a ranking
SHIFTS = 100
LONGEST = 64  # characters of a token that are kept: an array of texts is as wide as its longest
RAREST = 20  # tokens with a property, in either half of the text


class UnitScore(NamedTuple):
    """A unit of a layer's state, and its correlation with a property on the half of the text it was not chosen on."""

    layer: int
    state: str
    unit: int
    score: float


@dataclass
class Ranking:
    """The units that follow a property most closely.

    Args:
        name: of the property of tokens
        share: of tokens that have it; the mean for a property that is a number
        units: the most telling on one half of the text, with their scores on the other
        chance: the highest score that the best unit has for labels of 100 other places
    """

    name: str
    share: float
    units: list[UnitScore]
    chance: float

    @property
    def telling(self) -> bool:
        """Whether the best unit says more than chance would."""
        return self.units[0].score > self.chance

    def record(self) -> dict[str, Any]:
        """All of it as JSON."""
        units = [one._asdict() for one in self.units]
        return {**asdict(self), "units": units, "telling": self.telling}


@dataclass
class States:
    """States of every layer on a text.

    Args:
        pieces: (T, B) tokens as they are written, of very long ones the beginning
        tokens: (T, B) their numbers
        states: (T, B, H) of each layer and tensor of its carry, after the token was read
    """

    pieces: NDArray[np.str_]
    tokens: NDArray[np.int64]
    states: dict[tuple[int, str], NDArray[np.float32]]

    def save(self, path: Path) -> None:
        """Write them as .npz: `pieces`, `tokens`, and `layer0.h`, `layer0.c`, ... Raises OSError."""
        arrays = {f"layer{layer}.{state}": values for (layer, state), values in self.states.items()}
        with replacing(path) as file:
            np.savez(file, pieces=self.pieces, tokens=self.tokens, **arrays)  # type: ignore[arg-type]


def states_of(model: LanguageModel, tokens: Tensor, vocabulary: list[str]) -> States:
    """The states of a model that reads tokens (T, B) from the zero carry."""
    with torch.no_grad():
        carries = unroll(model, tokens).carries
    parts = [torch.stack(of_one) for of_one in zip(*(carry_tensors(carry) for carry in carries), strict=True)]
    names = [(layer, state) for layer, state, _ in named_states(model)]
    ids = tokens.cpu().numpy()
    states = {name: values.flatten(2).float().cpu().numpy() for name, values in zip(names, parts, strict=True)}
    return States(np.array([piece[:LONGEST] for piece in vocabulary])[ids], ids, states)


def rank_units(found: States) -> list[Ranking]:
    """Rank the units of all layers by how well each predicts each property of the text.

    score = sign(r_1) r_2, r_1 and r_2 the correlations of the unit with the property on the first and the second half
    of the text. A unit is chosen on the first half alone. The best of many units always seems to tell something:
    `chance` is the most that the same choice gives for the labels of 100 other places, which keeps their runs.
    """
    rows = found.tokens.shape[1]
    if rows < 2 or not found.states:
        return []
    by_row = [properties(found.pieces[:, row].tolist()) for row in range(rows)]
    every = {name: np.stack([one[name] for one in by_row], 1) for name in by_row[0]}
    half = rows // 2
    values = np.concatenate(list(found.states.values()), -1)
    every_unit = [UnitScore(*name, unit, 0.0) for name, part in found.states.items() for unit in range(part.shape[-1])]
    halves = [_standard(values[:, part]) for part in (slice(0, half), slice(half, 2 * half))]
    rankings = []
    for name, labels in every.items():
        parts = [labels[:, :half], labels[:, half : 2 * half]]
        if any(min((part > 0).sum(), (part == 0).sum()) < RAREST for part in parts):
            continue
        first, second = (_correlations(one, part) for one, part in zip(halves, parts, strict=True))
        best = np.argsort(-np.abs(first), kind="stable")[:SHOWN].tolist()
        scores = np.sign(first) * second
        units = [every_unit[at]._replace(score=float(scores[at])) for at in best]
        rankings.append(Ranking(name, float(labels.mean()), units, _by_chance(halves, parts)))
    return rankings


def _by_chance(halves: list[NDArray[np.float32]], parts: list[NDArray[np.float64]]) -> float:
    """The same choice for labels of other places: each row gets those of another, moved along the text besides."""
    steps, rows = parts[0].shape
    scores = []
    for number, distance in enumerate(np.linspace(0, steps, SHIFTS, endpoint=False).astype(int)):
        other = number % (rows - 1) + 1 if rows > 1 else 0
        moved = [np.roll(part, (distance, other), (0, 1)) for part in parts]
        first, second = (_correlations(one, part) for one, part in zip(halves, moved, strict=True))
        scores.append(abs(second[np.abs(first).argmax()]))
    return float(max(scores))


def _standard(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(T, B, U) as (T B, U), each unit with mean 0 and length 1; zeros for one that never changes."""
    flat = values.reshape(-1, values.shape[-1])
    flat = flat - flat.mean(0)
    lengths = np.linalg.norm(flat, axis=0)
    return np.asarray(flat / np.where(lengths > 1e-6, lengths, np.inf), dtype=np.float32)


def _correlations(standard: NDArray[np.float32], labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each unit (U) with labels (T, B)."""
    flat = labels.reshape(-1) - labels.mean()
    return np.asarray((flat / np.linalg.norm(flat)).astype(np.float32) @ standard, dtype=np.float64)


def shown_units(found: States, rankings: list[Ranking], most: int = 24) -> dict[str, NDArray[np.float32]]:
    """Activations (T) of the units to draw on a text of one row, by name: the best of each ranking, and then others."""
    names: dict[tuple[int, str, int], str] = {}
    for rank in range(SHOWN):
        for ranking in (one for one in rankings if one.telling):
            layer, state, unit, _ = ranking.units[rank]
            names.setdefault((layer, state, unit), f"{ranking.name}: layer {layer}, {state} {unit}")
    for (layer, state), values in reversed(found.states.items()):
        for unit in range(values.shape[-1]):
            names.setdefault((layer, state, unit), f"layer {layer}, {state} {unit}")
    chosen = list(names.items())[:most]
    return {name: found.states[layer, state][:, 0, unit] for (layer, state, unit), name in chosen}


def record_of(rankings: list[Ranking], shown: Mapping[str, NDArray[np.float32]], pieces: list[str]) -> dict[str, Any]:
    """Rankings, and the activations that are drawn, as JSON."""
    return {
        "rankings": [one.record() for one in rankings],
        "pieces": pieces,
        "activations": {name: [round(float(value), 4) for value in values] for name, values in shown.items()},
    }
