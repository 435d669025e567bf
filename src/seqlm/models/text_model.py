"""From tokens to probabilities of tokens: what models of text have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ..cells import Carry
from ..layers import (
    AdaptiveSoftmax,
    DropoutKind,
    Features,
    Layer,
    Mixture,
    OutputLayer,
    Softmax,
    WordEmbedding,
    exact,
    make_dropout,
    target_log_probabilities,
)
from .stack import cells_of


class Reading(NamedTuple):
    """A window as the model read it: every mask is drawn, the rest is arithmetic."""

    carry: Carry
    features: Features  # (T, B, ...): what the output layer reads
    top: Tensor  # (T, B, H): outputs of the last layer
    dropped: Tensor  # (T, B, H): and with dropout
    words: Tensor | None  # (V, 1): the mask on word types, where it is also that of the softmax weights

    def part(self, steps: slice) -> Reading:
        """The same at some of the steps, for the output layer alone."""
        return self._replace(features=[feature[steps] for feature in self.features])


class TextModel(nn.Module):
    """What reads tokens and says which: embedding -> dropout -> stack -> dropout -> softmax over the vocabulary.

    p_t = softmax(W_o P y_t + b_o),  y = stack(dropout(E[w]))

    tokens (T, B) int64 -> logits (T, B, V). With `tied`, W_o is E itself (one Parameter; O. Press and
    L. Wolf, arXiv 1608.05859); P is the identity unless `projection` adds a linear map from the stack's
    width to the embedding's. More than one of `softmaxes` are a Mixture, with `latent_dropout` inside; `cutoffs` and
    `div_value` are those of an AdaptiveSoftmax, for words in the order of their frequency. Dropout
    probabilities: `embedding_dropout` of word types, `input_dropout` on the embedded input, `output_dropout` before the
    softmax; with `embedding_tied` words that the embedding drops are dropped from tied softmax weights too.
    `init_range` w draws every parameter from U(-w, w); by default cells use torch's own range and embedding and softmax
    U(-0.1, 0.1). Raises ValueError if tied widths differ, or an option has nothing to do.
    """

    def __init__(
        self,
        vocab_size: int,
        stack: Layer,
        *,
        tied: bool = False,
        projection: bool = False,
        softmaxes: int = 1,
        latent_dropout: float = 0.0,
        cutoffs: Sequence[int] | None = None,
        div_value: float = 4.0,
        embedding_dropout: float = 0.0,
        embedding_tied: bool = False,
        input_dropout: float = 0.0,
        output_dropout: float = 0.0,
        dropout_kind: DropoutKind = "locked",
        init_range: float | None = None,
    ) -> None:
        super().__init__()
        embedding_size = stack.input_size
        self.check_stack(stack)
        if softmaxes > 1 and projection:
            raise ValueError(f"projection=true does nothing with softmaxes={softmaxes}: each has a map of its own")
        if latent_dropout and softmaxes == 1:
            raise ValueError(f"dropout.latent={latent_dropout} does nothing with one softmax; set softmaxes=15, say")
        if cutoffs is None and div_value != 4:
            raise ValueError(f"div_value={div_value} does nothing without cutoffs; set cutoffs=[2000,10000], say")
        if cutoffs is not None and softmaxes > 1:
            raise ValueError(
                f"cutoffs={list(cutoffs)} and softmaxes={softmaxes} are two output layers; set one of them"
            )
        if cutoffs is not None and tied:
            raise ValueError(
                f"tied=true cannot be with cutoffs={list(cutoffs)}: the weights of rare words are narrower than an "
                "embedding; set tied=false"
            )
        narrow = projection or softmaxes > 1  # a map to the embedding's width comes before the softmax
        if tied and not narrow and stack.output_size != embedding_size:
            raise ValueError(
                f"tied=true needs equal widths, but the embedding has {embedding_size} and the last layer "
                f"{stack.output_size}; make them equal, or set projection=true to map one to the other"
            )
        if embedding_tied and not (tied and embedding_dropout):
            raise ValueError(
                "dropout.embedding_tied=true does nothing unless weights are tied and embedding dropout is above 0"
            )
        self.vocab_size, self.embedding_tied = vocab_size, embedding_tied
        self.embedding = WordEmbedding(vocab_size, embedding_size, dropout=embedding_dropout)
        self.input_dropout = make_dropout(dropout_kind, input_dropout)
        self.stack = stack
        self.output_dropout = make_dropout(dropout_kind, output_dropout)
        self.projection = nn.Linear(stack.output_size, embedding_size, bias=False) if projection else None
        width = embedding_size if projection else stack.output_size
        self.decoder: OutputLayer
        if cutoffs is not None:
            self.decoder = AdaptiveSoftmax(width, vocab_size, cutoffs, div_value=div_value)
        elif softmaxes != 1:
            self.decoder = Mixture(stack.output_size, embedding_size, vocab_size, softmaxes, dropout=latent_dropout)
        else:
            self.decoder = Softmax(width, vocab_size)
        self._reset_parameters(init_range)
        if tied:
            assert isinstance(self.decoder, Softmax)
            self.decoder.weight = self.embedding.weight

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

    def check_stack(self, stack: Layer) -> None:
        """Raise ValueError if this kind of model cannot be made of `stack`."""

    def init_carry(self, batch_size: int) -> Carry:
        """The state before the first token: zeros."""
        return self.stack.init_carry(batch_size)

    def embed(self, tokens: Tensor, words: Tensor | None) -> Tensor:
        """The vectors of tokens (T, B), with the mask on word types."""
        return self.embedding.look_up(tokens, words)

    def read(self, tokens: Tensor, carry: Carry) -> Reading:
        """Read a window of tokens (T, B)."""
        words = self.embedding.draw_mask()
        carry, top = self.stack(self.input_dropout(self.embed(tokens, words)), carry)
        dropped = self.output_dropout(top)
        ys = dropped if self.projection is None else self.projection(dropped)
        return Reading(carry, self.decoder.features(ys), top, dropped, words if self.embedding_tied else None)

    def score(self, reading: Reading, targets: Tensor, ignore_index: int = -100) -> Tensor:
        """Summed nats of targets (T, B) other than `ignore_index`, without ever holding all logits."""
        return self.decoder.nats(reading.features, targets, reading.words, ignore_index)

    def logits(self, reading: Reading, temperature: float = 1.0) -> Tensor:
        """What the softmax is taken of (T, B, V): scores, or the logarithms of probabilities."""
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
        return 4 * batch_size * self.vocab_size * self.decoder.softmaxes

    def forward(self, tokens: Tensor, carry: Carry) -> tuple[Carry, Tensor]:
        """Read a window: tokens (T, B), carry -> (carry, logits (T, B, V))."""
        reading = self.read(tokens, carry)
        return reading.carry, self.logits(reading)

    def nats(self, tokens: Tensor, targets: Tensor, carry: Carry, ignore_index: int = -100) -> tuple[Carry, Tensor]:
        """Read a window and score it: (carry, summed nats); as cross_entropy(forward(tokens))."""
        reading = self.read(tokens, carry)
        return reading.carry, self.score(reading, targets, ignore_index)
