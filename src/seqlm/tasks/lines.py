"""Predictions for lines that people write: reading their fields, and the reasons why one cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from ..data.examples import Example
from ..errors import ConfigError

EMPTY = "empty"  # the error of a line that holds nothing to read, which is no mistake
Given = TypeVar("Given")
Predict = Callable[[Sequence[Given]], list[dict[str, Any]]]


def predicted(
    lines: Sequence[Example], read: Callable[[Example], Given | None], predict: Predict[Given]
) -> list[dict[str, Any]]:
    """Predictions for lines, in order.

    Args:
        lines: the fields that stood in each.
        read: makes of a line what is predicted for; None if it is empty. Raises ValueError if it cannot be read.
        predict: predictions for several of them together. Raises ConfigError.
    """
    answers: list[dict[str, Any]] = [{"error": EMPTY} for _ in lines]
    full: dict[int, Given] = {}  # by place, those with something to read
    for place, line in enumerate(lines):
        try:
            given = read(line)
        except ValueError as error:
            answers[place] = {"error": str(error)}
        else:
            if given is not None:
                full[place] = given
    for place, answer in zip(full, _together(list(full.values()), predict), strict=True):
        answers[place] = answer
    return answers


def _together(given: Sequence[Given], predict: Predict[Given]) -> list[dict[str, Any]]:
    """Predictions for all together; if that fails one by one, as the others are not to blame."""
    if not given:
        return []
    try:
        return predict(given)
    except ConfigError as error:
        if len(given) == 1:
            return [{"error": str(error)}]
        return [answer for one in given for answer in _together([one], predict)]


def _numbers(value: Any) -> Any:
    """A value of two dimensions that holds numbers, as it is if it is an array; None for any other."""
    try:
        numbers = value if hasattr(value, "shape") else np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if len(numbers.shape) == 2 and numbers.dtype.kind in "fiub" else None


def read_field(name: str, line: Example, tokenizer: Any) -> Any:
    """A field that a prediction needs: words, features or a label. Raises ValueError if the line has no such thing."""
    other = {"words": "text", "label": "words"}.get(name)  # a line that is no object is its text
    value = line.get(name, line.get(other) if other else None)
    if name == "label":
        value = value if isinstance(value, str) else json.dumps(value)  # as the data read it
        if not value or value in tokenizer.vocabularies["label"]:
            return value
    if name == "words" and (
        isinstance(value, str) or (isinstance(value, list) and all(isinstance(word, str) for word in value))
    ):
        return value
    if name == "features" and (features := _numbers(value)) is not None:
        return features
    labels = tokenizer.vocabularies.get("label", []) if name == "label" else []
    needed = {
        "words": "a text or a list of words, which this run reads",
        "features": "numbers for each step, [[...], ...], which this run reads",
        "label": f"a label of this run ({', '.join(labels[:20])}{' ...' * (len(labels) > 20)})",
    }[name]
    raise ValueError(line.get("error") or f"{name} should be {needed}")
