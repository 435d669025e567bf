"""Sources of known entropy rate: the loss of a perfect model on them is computed, not assumed."""

from __future__ import annotations

import hashlib
import inspect
import math
import string
from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ..corpus import SPLITS, Corpus

ALPHABET = string.ascii_lowercase + string.ascii_uppercase
Floats = NDArray[np.float64]


def _stationary(transitions: Floats) -> Floats:
    """The distribution p with p P = p, for an irreducible P."""
    equations = transitions.T - np.eye(len(transitions))
    equations[-1] = 1.0  # one equation follows from the others; the sum of p takes its place
    right = np.zeros(len(transitions))
    right[-1] = 1.0
    return np.asarray(np.linalg.solve(equations, right), dtype=np.float64)


def _entropy(p: Floats) -> Floats:
    """-sum p ln p over the last axis, in nats."""
    return np.asarray(-np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1))


class SymbolSource(Corpus):
    """A stationary random source over the letters a, b, c, ...; valid and test get a tenth of `tokens` each."""

    def __init__(self, *, symbols: int, tokens: int, seed: int) -> None:
        if not 2 <= symbols <= len(ALPHABET):
            raise ConfigError(f"data.symbols={symbols} must be from 2 to {len(ALPHABET)}")
        if tokens < 100:
            raise ConfigError(f"data.tokens={tokens} must be at least 100")
        self.symbols, self.tokens, self.seed = symbols, tokens, seed

    def read(self, split: str) -> Iterator[str]:
        length = self.tokens if split == "train" else self.tokens // 10
        rng = np.random.default_rng([self.seed, 1 + SPLITS.index(split)])
        yield "".join(ALPHABET[symbol] for symbol in self._draw(length, rng))

    def fingerprint(self, split: str) -> str:
        return hashlib.sha256(f"{type(self).__name__} {self._settings()} {split}".encode()).hexdigest()

    def _settings(self) -> list[tuple[str, object]]:
        """The arguments, which decide the text: vars() also holds what was computed from them."""
        return sorted((name, vars(self)[name]) for name in inspect.signature(type(self)).parameters)

    def _draw(self, length: int, rng: np.random.Generator) -> list[int]:
        raise NotImplementedError


class MarkovChain(SymbolSource):
    """Markov chain of `order` k over `symbols` letters, transition rows drawn from Dirichlet(`concentration`).

    Entropy rate H = sum_s p(s) sum_a -P(a|s) ln P(a|s) nats a symbol, p the stationary distribution of
    the contexts s: exact (T. M. Cover and J. A. Thomas, Elements of Information Theory, theorem 4.2.4).
    """

    def __init__(
        self, *, symbols: int = 8, order: int = 1, concentration: float = 0.5, tokens: int = 200_000, seed: int = 0
    ) -> None:
        super().__init__(symbols=symbols, tokens=tokens, seed=seed)
        if order < 1 or symbols**order > 4096:
            raise ConfigError(f"data.order={order} must be at least 1, and symbols**order at most 4096 contexts")
        if concentration <= 0:
            raise ConfigError(f"data.concentration={concentration} must be greater than 0")
        self.order, self.concentration = order, concentration
        rng = np.random.default_rng([seed, 0])
        rows = rng.dirichlet([concentration] * symbols, size=symbols**order)
        # Every letter stays possible, so that the chain has one stationary distribution.
        self._next: Floats = 0.99 * rows + 0.01 / symbols

    @cached_property
    def entropy_rate(self) -> float:
        """Nats a symbol of the best possible model."""
        contexts = len(self._next)
        chain = np.zeros((contexts, contexts))
        for context in range(contexts):
            for symbol in range(self.symbols):
                chain[context, (context * self.symbols + symbol) % contexts] += self._next[context, symbol]
        return float(_stationary(chain) @ _entropy(self._next))

    def note(self) -> str:
        return f"entropy rate {self.entropy_rate:.4f} nats a symbol (perplexity {np.exp(self.entropy_rate):.3f})"

    def _draw(self, length: int, rng: np.random.Generator) -> list[int]:
        contexts, cumulative, uniforms = len(self._next), np.cumsum(self._next, axis=1), rng.random(length + 100)
        context, drawn = 0, []
        for uniform in uniforms:
            symbol = min(int(np.searchsorted(cumulative[context], uniform)), self.symbols - 1)
            drawn.append(symbol)
            context = (context * self.symbols + symbol) % contexts
        return drawn[100:]  # the first hundred forget the start


class HiddenMarkov(SymbolSource):
    """Hidden Markov source: `states` that are never seen emit `symbols` letters.

    Its entropy rate has no closed form; `entropy_bounds(n)` encloses it:
    H(Y_n | Y_1..Y_{n-1}, X_1) <= rate <= H(Y_n | Y_1..Y_{n-1})   (Cover and Thomas, theorem 4.5.1).
    """

    def __init__(
        self, *, states: int = 3, symbols: int = 4, concentration: float = 0.3, tokens: int = 200_000, seed: int = 0
    ) -> None:
        super().__init__(symbols=symbols, tokens=tokens, seed=seed)
        if states < 1 or concentration <= 0:
            raise ConfigError(
                f"data.states={states} must be at least 1 and data.concentration={concentration} positive"
            )
        self.states, self.concentration = states, concentration
        rng = np.random.default_rng([seed, 0])
        self._move: Floats = 0.99 * rng.dirichlet([concentration] * states, size=states) + 0.01 / states
        self._emit: Floats = 0.99 * rng.dirichlet([concentration] * symbols, size=states) + 0.01 / symbols

    def entropy_bounds(self, length: int | None = None) -> tuple[float, float]:
        """Lower and upper bound of the entropy rate in nats a symbol, over all words of `length` letters.

        By default as long as a table of a million numbers allows; longer words give tighter bounds.
        """
        if length is None:
            length = max(1, int(math.log(1e6 / self.states**2) / math.log(self.symbols)))
        start = _stationary(self._move)
        # joint[x1, words, x]: probability of first state x1, the letters so far, and the present state x.
        joint = np.diag(start)[:, None, :]
        for _ in range(length - 1):
            joint = self._extend(joint) @ self._move
        longer = self._extend(joint)

        def block_entropy(words: Floats) -> float:
            return float(_entropy(words.ravel()))

        upper = block_entropy(longer.sum((0, 2))) - block_entropy(joint.sum((0, 2)))
        lower = block_entropy(longer.sum(2)) - block_entropy(joint.sum(2))
        return lower, upper

    def note(self) -> str:
        low, high = self.entropy_bounds()
        return f"entropy rate between {low:.4f} and {high:.4f} nats a symbol"

    def _extend(self, joint: Floats) -> Floats:
        """One more letter: (X1, W, X) -> (X1, W*symbols, X)."""
        emitted = joint[:, :, None, :] * self._emit.T[None, None, :, :]
        return emitted.reshape(joint.shape[0], -1, joint.shape[2])

    def _draw(self, length: int, rng: np.random.Generator) -> list[int]:
        move, emit = np.cumsum(self._move, axis=1), np.cumsum(self._emit, axis=1)
        state, drawn = 0, []
        for to, out in rng.random((length + 100, 2)):
            state = min(int(np.searchsorted(move[state], to)), self.states - 1)
            drawn.append(min(int(np.searchsorted(emit[state], out)), self.symbols - 1))
        return drawn[100:]
