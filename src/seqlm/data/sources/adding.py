"""The adding problem: a number to be remembered over a distance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...errors import ConfigError
from ..corpus import SPLITS, check_sizes
from ..examples import Example, Examples


class Adding(Examples):
    """Sequences of `length` pairs: a number from U(0, 1), and a mark, 1 at one step of each half and 0 elsewhere.

    The value is the sum of the two marked numbers; always to predict 1, its mean, has an RMSE of sqrt(1 / 6) = 0.408.
    Memory for the first of them is needed over half the length on average. S. Hochreiter and J. Schmidhuber, "Long
    Short-Term Memory" (1997), experiment 4, in the form of Q. V. Le, N. Jaitly and G. E. Hinton, arXiv 1504.00941.
    """

    def __init__(self, *, length: int, sizes: Sequence[int], seed: int) -> None:
        if length < 2:
            raise ConfigError(f"data.length={length} must be at least 2: two numbers are added")
        self.length, self.sizes, self.seed = length, check_sizes(sizes), seed

    def examples(self, split: str) -> Iterator[Example]:
        rng = np.random.default_rng([self.seed, SPLITS.index(split)])
        for _ in range(self.sizes[split]):
            features = np.zeros((self.length, 2), dtype=np.float32)
            features[:, 0] = rng.random(self.length, dtype=np.float32)
            half = self.length // 2
            marked = [int(rng.integers(half)), int(rng.integers(half, self.length))]
            features[marked, 1] = 1
            yield {"features": features, "value": float(features[marked, 0].sum())}

    def note(self) -> str:
        return "to predict 1 always has an RMSE of 0.408"
