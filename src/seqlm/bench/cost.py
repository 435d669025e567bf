"""Parameters, arithmetic, memory and traffic of a training step, by formulas that tests hold to real models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..layers.softmax import CHUNK_BYTES
from .steps import Recipe

FLOAT = 4  # bytes of a weight, a gradient, an activation in float32
# Floats that the engine `fused` keeps of each step and unit of an LSTM layer until its backward pass, and those that it
# needs beside them while it works on one layer; both measured (tests/bench/test_cost.py).
KEPT, WORKING = 5.1, 5.6
# Times that the logits of a chunk are there at once, where one chunk holds them all, and where there are several.
ONE_CHUNK, SEVERAL_CHUNKS = 1.25, 2.1
STATES = {"sgd": 0, "momentum": 1, "adam": 2}  # floats that an optimizer keeps of each weight


class Parameters(NamedTuple):
    """Weights of a language model; the output has those of the embedding if they are tied, and a bias for each word."""

    embedding: int
    recurrent: int
    output: int

    @property
    def total(self) -> int:
        return self.embedding + self.recurrent + self.output


class Memory(NamedTuple):
    """Bytes that a training step needs at its peak: two of everything in float32 that is learned, and what comes of it.

    Args:
        optimizer: its state, at every moment.
        output: activations while logits are there.
        layers: activations and gradients while the layers learn.
    """

    weights: int
    optimizer: int
    output: int
    layers: int

    @property
    def total(self) -> int:
        return self.weights + self.optimizer + max(self.output, self.layers)


def parameters(recipe: Recipe) -> Parameters:
    """V E + sum over layers of 4 H (I + H + 2) + V (H + 1), the last V H not again if the weights are tied."""
    recurrent, inputs = 0, recipe.embedding
    for hidden in recipe.sizes:
        recurrent += 4 * hidden * (inputs + hidden + 2)
        inputs = hidden
    output = recipe.vocabulary * (1 if recipe.tied else inputs + 1)
    return Parameters(recipe.vocabulary * recipe.embedding, recurrent, output)


def step_flops(recipe: Recipe) -> float:
    """Additions and multiplications of matrices: 6 T B (sum over layers of 4 H (I + H) + H V), backwards twice."""
    weights, inputs = 0, recipe.embedding
    for hidden in recipe.sizes:
        weights += 4 * hidden * (inputs + hidden)
        inputs = hidden
    return 6.0 * recipe.bptt * recipe.batch * (weights + inputs * recipe.vocabulary)


def memory(recipe: Recipe, optimizer: str = "sgd") -> Memory:
    """Bytes at the peak, in float32 on the engine `fused`: 4 P and 4 s P, and the larger of two moments.

    While the output works: KEPT T B sum(H), its gradient 4 V H, and logits, of which CHUNK_BYTES are there at once.
    While the layers do: KEPT T B sum(H), WORKING T B max(H), and the gradients of all, 4 P.
    """
    total, rows = parameters(recipe).total, recipe.bptt * recipe.batch
    kept = KEPT * rows * sum(recipe.sizes) * FLOAT
    logits = rows * recipe.vocabulary * FLOAT
    held = ONE_CHUNK * logits if logits <= CHUNK_BYTES else SEVERAL_CHUNKS * CHUNK_BYTES
    return Memory(
        weights=FLOAT * total,
        optimizer=FLOAT * total * STATES[optimizer],
        output=round(kept + held + FLOAT * recipe.vocabulary * recipe.sizes[-1]),
        layers=round(kept + WORKING * rows * max(recipe.sizes) * FLOAT + FLOAT * total),
    )


def exchanged(count: int, ranks: int) -> float:
    """Bytes that each rank sends in a step: a ring passes on 2 (N - 1) / N of the gradients of `count` weights."""
    return FLOAT * count * 2 * (ranks - 1) / ranks


def with_projections(vocabulary: int, cells: int, projection: int, layers: int) -> int:
    """Parameters of the largest published models: layers 4 C (2 R) + C R, whose C cells are projected to R, 2 V R."""
    layer = 4 * cells * (2 * projection + 1) + cells * projection
    return layers * layer + vocabulary * (2 * projection + 1)


class Largest(NamedTuple):
    """A published recurrent language model, with the parameters that its paper counts."""

    name: str
    source: str
    parameters: int
    published: float


def largest() -> Sequence[Largest]:
    """The largest single recurrent language models: those of R. Jozefowicz et al., with their 793,471 words."""
    words, source = 793_471, "arXiv 1602.02410"
    return [
        Largest("LSTM-8192-2048", source, with_projections(words, 8192, 2048, 1), 3.3e9),
        Largest("2-layer LSTM-8192-1024", source, with_projections(words, 8192, 1024, 2), 1.8e9),
    ]
