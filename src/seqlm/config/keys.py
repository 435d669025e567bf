"""Nested mappings and dotted keys: {"train": {"steps": 3}} and {"train.steps": 3}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one flat mapping with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def with_text_keys(value: Any) -> Any:
    """A value with texts as the keys of its mappings, however deep: to YAML the 1 of {1: 2.0} is a number."""
    if isinstance(value, Mapping):
        return {
            str(key).lower() if isinstance(key, bool) else str(key): with_text_keys(item) for key, item in value.items()
        }
    return [with_text_keys(item) for item in value] if isinstance(value, list) else value


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted key as nested mappings: the inverse of `dotted`."""
    result: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        node = result
        for name in path:
            node = node.setdefault(name, {})
        node[last] = value
    return result
