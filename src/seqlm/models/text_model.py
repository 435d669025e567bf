"""From tokens to probabilities of tokens: the base of all models of text."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from ..cells import Carry, Step, require_probability
from ..layers import (
    Features,
    Layer,
    OutputLayer,
    Softmax,
    WordEmbedding,
    exact,
    make_dropout,
    target_log_probabilities,
)
from .stack import Dropouts, cells_of, drops_gatewise, parameters_in_words


class Reading(NamedTuple):
    """A chunk as the model read it: every mask is drawn, the rest is arithmetic."""

    carry: Carry
    features: Features  # (T, B, ...): what the output layer reads
    top: Tensor  # (T, B, H): outputs of the last layer
    dropped: Tensor  # (T, B, H): and with dropout
    words: Tensor | None  # (V, 1): the mask on word types, where it is also that of the softmax weights

    def part(self, steps: slice) -> Reading:
        """The same at some of the steps, for the output layer alone."""
        return self._replace(features=[feature[steps] for feature in self.features])


def projects(output: Callable[..., OutputLayer]) -> bool:
    """Whether an output layer maps to the width of the embedding by itself."""
    return "embedding_size" in inspect.signature(output).parameters


class TextModel(nn.Module):
    """Embedding -> dropout -> stack -> dropout -> output layer over the vocabulary.

    p_t = softmax(W_o P y_t + b_o),  y = stack(dropout(E[w]))

    tokens (T, B) int64 -> logits (T, B, V). Raises ValueError if tied widths differ, or an option has nothing to do.

    Args:
        output: class or factory of the output layer, called with its sizes
        tied: W_o is E itself, one Parameter (O. Press and L. Wolf, arXiv 1608.05859)
        projection: P is a linear map from the stack's width to the embedding's, else the identity
        dropout: of word types (`embedding`), of the embedded `input`, and of the `output` of the stack; with
            `embedding_tied` word types are dropped from tied softmax weights too
        init_range: w, every parameter from U(-w, w); None: torch's range for cells, 0.1 for embedding and output layer
    """

    def __init__(
        self,
        vocab_size: int,
        stack: Layer,
        *,
        output: Callable[..., OutputLayer] = Softmax,
        tied: bool = False,
        projection: bool = False,
        dropout: Dropouts | None = None,
        init_range: float | None = None,
    ) -> None:
        super().__init__()
        embedding_size, drop = stack.input_size, dropout or {}
        kind = drop.get("kind", "locked")
        for place in ("embedding", "input", "output"):
            require_probability(f"dropout.{place}", drop.get(place, 0.0))  # type: ignore[arg-type]
        self.check_stack(stack)
        if projection and projects(output):
            raise ValueError("projection=true does nothing: the output layer has a map to the embedding's width itself")
        self.embedding_tied = drop.get("embedding_tied", False)
        if self.embedding_tied and not (tied and drop.get("embedding")):
            raise ValueError(
                "dropout.embedding_tied=true does nothing unless weights are tied and embedding dropout is above 0"
            )
        self.vocab_size, self.tied = vocab_size, tied
        self.embedding = WordEmbedding(vocab_size, embedding_size, dropout=drop.get("embedding", 0.0))
        self.input_dropout = make_dropout(kind, 0.0 if drops_gatewise(drop) else drop.get("input", 0.0))
        self.stack = stack
        self.output_dropout = make_dropout(kind, drop.get("output", 0.0))
        self.projection = nn.Linear(stack.output_size, embedding_size, bias=False) if projection else None
        sizes = {"input_size": embedding_size if projection else stack.output_size, "vocab_size": vocab_size}
        self.decoder = output(**sizes, embedding_size=embedding_size) if projects(output) else output(**sizes)
        self._reset_parameters(init_range)
        if tied:
            self.decoder.tie(self.embedding.weight)

    def _reset_parameters(self, init_range: float | None) -> None:
        if init_range is not None and init_range <= 0:
            raise ValueError(f"init_range={init_range} must be greater than 0")
        scale = 0.1 if init_range is None else init_range
        nn.init.uniform_(self.embedding.weight, -scale, scale)
        self.decoder.initialise(scale, every=init_range is not None)
        if init_range is None:
            return
        if self.projection is not None:
            nn.init.uniform_(self.projection.weight, -scale, scale)
        for cell in cells_of(self):
            cell.reset_parameters(init_range)

    def extra_repr(self) -> str:
        """The number of parameters, for print(model)."""
        return f"parameters: {parameters_in_words(self)}" + ", tied: decoder.weight is embedding.weight" * self.tied

    def check_stack(self, stack: Layer) -> None:
        """Raise ValueError if this kind of model cannot be made of `stack`."""

    def init_carry(self, batch_size: int) -> Carry:
        """The state before the first token: zeros."""
        return self.stack.init_carry(batch_size)

    def embed(self, tokens: Tensor, words: Tensor | None) -> Tensor:
        """The vectors of tokens (T, B), with the mask on word types."""
        return self.embedding.look_up(tokens, words)

    def read(self, tokens: Tensor, carry: Carry) -> Reading:
        """Read a chunk of tokens (T, B)."""
        words = self.embedding.draw_mask()
        carry, top = self.stack(self.input_dropout(self.embed(tokens, words)), carry)
        dropped = self.output_dropout(top)
        ys = dropped if self.projection is None else self.projection(dropped)
        return Reading(carry, self.decoder.features(ys), top, dropped, words if self.embedding_tied else None)

    def score(self, reading: Reading, targets: Tensor, ignore_index: int = -100) -> Tensor:
        """Summed nats of targets (T, B) other than `ignore_index`, without ever holding all logits."""
        return self.decoder.nll(reading.features, targets, reading.words, ignore_index)

    def logits(self, reading: Reading, temperature: float = 1.0) -> Tensor:
        """ln p (T, B, V), up to a constant of each row."""
        return self.decoder.logits(reading.features, reading.words, temperature)

    def log_softmax(self, reading: Reading, temperature: float = 1.0) -> Tensor:
        """ln p of every word (T, B, V), p = softmax(logits / temperature)."""
        return exact(self.logits(reading, temperature)).log_softmax(-1)

    def log_probabilities(
        self, reading: Reading, targets: Tensor, temperature: float = 1.0, ignore_index: int = -100
    ) -> Tensor:
        """ln p of every target (T, B), 0 for `ignore_index`, in pieces as `score`."""
        return target_log_probabilities(
            lambda steps: self.log_softmax(reading.part(steps), temperature),
            targets,
            self.row_bytes(targets.shape[1]),
            ignore_index,
        )

    def row_bytes(self, batch_size: int) -> int:
        """The size of the logits of one step."""
        return 4 * batch_size * self.vocab_size * self.decoder.num_softmaxes

    def forward(self, tokens: Tensor, carry: Carry) -> tuple[Carry, Tensor]:
        """Read a chunk: tokens (T, B), carry -> (carry, logits (T, B, V))."""
        reading = self.read(tokens, carry)
        return reading.carry, self.logits(reading)

    def bind(self, carry: Carry) -> Step:
        """To write word by word: step(carry, token (B,)) -> (carry, logits (B, V)), as `forward` without dropout."""
        step = self.stack.bind(carry)

        def one(carry: Carry, token: Tensor) -> tuple[Carry, Tensor]:
            carry, y = step(carry, self.embed(token, None))
            y = y if self.projection is None else self.projection(y)
            return carry, self.decoder.logits(self.decoder.features(y.unsqueeze(0)))[0]

        return one

    def nll(self, tokens: Tensor, targets: Tensor, carry: Carry, ignore_index: int = -100) -> tuple[Carry, Tensor]:
        """Read a chunk and score it: (carry, summed nats); as cross_entropy(forward(tokens))."""
        reading = self.read(tokens, carry)
        return reading.carry, self.score(reading, targets, ignore_index)
