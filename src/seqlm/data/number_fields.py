"""Fields of examples that are numbers: features, which are read, and values, which are predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError
from .field import Field, padded


def as_float32(values: Any) -> NDArray[np.float32]:
    """Numbers to compute with: too large ones become infinite. Raises TypeError, ValueError or OverflowError."""
    with np.errstate(over="ignore"):
        return np.asarray(values, dtype=np.float32)


def _place(value: Any) -> str:
    """Where a value comes from, if it knows."""
    return str(getattr(value, "where", "an example"))


class Features(Field):
    """Instead of words, or beside them: an array (T, F) of numbers, or what becomes one when it is read."""

    name = source = "features"
    title, dtype = "numbers a step", np.float32
    sequence = aligned = True
    width = 0

    def see(self, value: Any) -> None:
        self.width = int(np.shape(value)[-1])

    @property
    def sizes(self) -> dict[str, int]:
        return {"num_features": self.width}

    def save(self, data: dict[str, Any]) -> None:
        data["num_features"] = self.width

    def load(self, data: Mapping[str, Any]) -> bool:
        self.width = size_in("num_features", data["num_features"])
        return self.width > 0

    def encode(self, value: Any) -> Any:
        values = np.asarray(value)
        if values.shape[1:] != (self.width,):
            raise ConfigError(f"{_place(value)}: features {values.shape}, but in train {self.width} numbers a step")
        bad = ~np.isfinite(as_float32(values))
        if bad.any():
            step, place = np.argwhere(bad)[0]
            too_large = ", which is too large for float32" if np.isfinite(values[step, place]) else ""
            raise ConfigError(
                f"{_place(value)}: features hold {values[step, place]} at step {step}, number {place}{too_large}"
            )
        return value  # not `values`: what is read from a file stays there until a batch needs it

    @staticmethod
    def digest(value: Any) -> bytes:
        return str(value.shape).encode() + np.asarray(value).tobytes()


class Value(Field):
    """Numbers to predict: K for the whole, (1, B, K), or for each step, (T, B, K); NaN where one is missing.

    An example has a number, a list of K, an array (T, K), or a text of K numbers.
    """

    name = source = "value"
    title, dtype, fill = "numbers to predict", np.float32, math.nan
    width = 0

    def see(self, value: Any) -> None:
        rows, self.width = self.numbers(value).shape
        self.sequence = self.aligned = self.sequence or rows != 1

    @property
    def sizes(self) -> dict[str, int]:
        return {"num_values": self.width, "value_steps": int(self.sequence)}

    def save(self, data: dict[str, Any]) -> None:
        data["value"] = {"size": self.width, "steps": self.sequence}

    def load(self, data: Mapping[str, Any]) -> bool:
        if "value" in data:
            if not isinstance(data["value"], dict):
                raise ValueError(f"value={data['value']!r:.80} should be a mapping")
            self.width, self.sequence = size_in("value.size", data["value"]["size"]), bool(data["value"]["steps"])
            self.aligned = self.sequence
        return "value" in data

    def numbers(self, value: Any) -> NDArray[Any]:
        """A value as an array (1, K) or (T, K)."""
        try:
            array = as_float32([float(one) for one in value.split()] if isinstance(value, str) else value)
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(
                f"{_place(value)} has value {value!r:.80}; it should be a number, numbers, or nan"
            ) from None
        if array.ndim > 2 or 0 in array.shape or np.isinf(array).any():
            raise ConfigError(
                f"{_place(value)} has value {value!s:.80}; it should be finite numbers, (K,) or (T, K), or nan"
            )
        return array if array.ndim == 2 else array.reshape(1, -1)

    def encode(self, value: Any) -> NDArray[Any]:
        numbers = self.numbers(value)
        if numbers.shape[1] != self.width or not (self.sequence or len(numbers) == 1):
            each = "at each step" if self.sequence else "for the whole"
            raise ConfigError(f"an example has a value {numbers.shape}, but in train there are {self.width} {each}")
        return numbers

    def lacks(self, encoded: Any) -> str:
        return "every value is missing" if np.isnan(encoded).all() else ""

    def pad(self, values: Sequence[Any]) -> dict[str, Tensor]:
        return {self.name: torch.from_numpy(padded(values, self.fill, self.dtype))}

    @staticmethod
    def targets(tensor: Tensor) -> int:
        return int((~tensor.isnan()).sum())

    @staticmethod
    def digest(value: Any) -> bytes:
        return Features.digest(np.asarray(value))


def size_in(name: str, value: object) -> int:
    """A number of features as it stands in a file under a key; raises ValueError if it is something else."""
    if not isinstance(value, int) or not 0 <= value < 1 << 24:
        raise ValueError(f"{name}={value!r:.80} should be a number of features")
    return value
