"""The language model, and the stack of layers it is built on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from ..cells import Carry, Cell, RecurrentDropout, require_positive, require_probability
from ..engines import Engine
from ..errors import ConfigError
from ..layers import (
    AdaptiveSoftmax,
    Bidirectional,
    DropoutKind,
    Features,
    Layer,
    Mixture,
    OutputLayer,
    Recurrent,
    Softmax,
    Stack,
    WordEmbedding,
    exact,
    make_dropout,
    target_log_probabilities,
)


class Dropouts(TypedDict, total=False):
    """Dropout probabilities by place, and their kind; what is left out is 0, and locked.

    `embedding_tied`: words dropped from the embedding are dropped from tied softmax weights as well. `weight` to
    `zoneout_memory` act inside the recurrence: see RecurrentDropout. With `per_gate` locked masks of `input` and
    `hidden` differ from gate to gate as well.
    """

    kind: DropoutKind
    embedding: float
    embedding_tied: bool
    input: float
    hidden: float
    output: float
    weight: float
    state: float
    per_gate: bool
    zoneout: float
    zoneout_memory: float
    latent: float


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


class LayerSpec(TypedDict, total=False):
    """What one layer has of its own; what is left out is that of the model."""

    cell: Callable[..., Cell]
    hidden_size: int
    engine: Engine


class LanguageModel(nn.Module):
    """Recurrent language model: embedding -> dropout -> stack -> dropout -> softmax over the vocabulary.

    p(w_{t+1} | w_1..w_t) = softmax(W_o P y_t + b_o),  y = stack(dropout(E[w]))

    tokens (T, B) int64 -> logits (T, B, V). With `tied`, W_o is E itself (one Parameter; O. Press and
    L. Wolf, arXiv 1608.05859); P is the identity unless `projection` adds a linear map from the stack's
    width to the embedding's. More than one of `softmaxes` are a Mixture, with `latent_dropout` inside; `cutoffs` and
    `div_value` are those of an AdaptiveSoftmax, for words in the order of their frequency. Dropout
    probabilities: `embedding_dropout` of word types, `input_dropout` on the embedded input, `output_dropout` before the
    softmax; with `embedding_tied` words that the embedding drops are dropped from tied softmax weights too.
    `init_range` w draws every parameter from U(-w, w); by default cells use torch's own range and embedding and softmax
    U(-0.1, 0.1). Raises ValueError if the stack is not causal, tied widths differ, or an option has nothing to do.
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
        if not stack.causal:
            raise ValueError(
                "the stack is not causal: a layer that runs backward sees the token to be predicted; "
                "a language model needs layers that run forward only"
            )
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
                "embedding_tied=true does nothing unless weights are tied and embedding dropout is above 0"
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

    def init_carry(self, batch_size: int) -> Carry:
        """The state before the first token: zeros."""
        return self.stack.init_carry(batch_size)

    def read(self, tokens: Tensor, carry: Carry) -> Reading:
        """Read a window of tokens (T, B)."""
        words = self.embedding.draw_mask()
        carry, top = self.stack(self.input_dropout(self.embedding.look_up(tokens, words)), carry)
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


def cells_of(model: nn.Module) -> list[Cell]:
    """Every cell inside `model`, lowest layer first."""
    return [module for module in model.modules() if isinstance(module, Cell)]


def build_stack(
    *,
    input_size: int,
    cell: Callable[..., Cell],
    hidden_size: int,
    num_layers: int,
    layers: Sequence[LayerSpec] | None,
    bidirectional: bool,
    residual: bool,
    skip_sum: bool,
    dropout: Dropouts,
    engine: Engine,
    where: str = "model.",
) -> Stack:
    """A stack of `num_layers` equal layers, or one layer for each entry of `layers`.

    A bidirectional layer has two cells of `hidden_size` each. Of `dropout` it does what is between layers and inside.
    Messages speak of keys below `where`.
    """
    kind, between, gatewise = dropout.get("kind", "locked"), dropout.get("hidden", 0.0), drops_gatewise(dropout)
    inside = {key: value for key, value in dropout.items() if key in RecurrentDropout._fields and key != "input"}
    specs: Sequence[LayerSpec] = [{} for _ in range(num_layers)] if layers is None else layers
    built: list[Layer] = []
    for index, spec in enumerate(specs):
        make = spec.get("cell", cell)
        sizes = {"input_size": input_size, "hidden_size": spec.get("hidden_size", hidden_size)}
        cells = [make(**sizes) for _ in range(1 + bidirectional)]
        drop = RecurrentDropout(**inside)  # type: ignore[arg-type]
        if gatewise:
            entering = between if index else dropout.get("input", 0.0)
            drop = drop._replace(input=entering, per_gate=bool(drop.state or entering))
        for one in cells:
            try:
                one.regularise(drop)
            except ValueError as error:
                raise ConfigError(f"layer {index}: {where}dropout.{error}") from error
        try:
            directions = [
                Recurrent(one, reverse, spec.get("engine", engine))
                for one, reverse in zip(cells, (False, True), strict=False)
            ]
        except ValueError as error:
            raise ConfigError(f"layer {index}: {error}") from error
        built.append(Bidirectional(*directions) if bidirectional else directions[0])
        input_size = built[-1].output_size
    outside = make_dropout(kind, 0.0 if gatewise else between)
    return Stack(built, dropout=outside, residual=residual, skip_sum=skip_sum)


def drops_gatewise(dropout: Dropouts) -> bool:
    """Whether what enters a layer is dropped inside its cells, by a locked mask for each gate. Raises ConfigError."""
    if not dropout.get("per_gate"):
        return False
    locked = dropout.get("kind", "locked") == "locked"
    if not dropout.get("state") and not (locked and (dropout.get("input") or dropout.get("hidden"))):
        raise ConfigError("model.dropout.per_gate=true does nothing without state, or input or hidden with kind=locked")
    return locked


def build_language_model(
    *,
    vocab_size: int,
    cell: Callable[..., Cell],
    hidden_size: int,
    num_layers: int = 1,
    embedding_size: int | None = None,
    layers: list[LayerSpec] | None = None,
    bidirectional: bool = False,
    residual: bool = False,
    skip_sum: bool = False,
    tied: bool = False,
    projection: bool = False,
    softmaxes: int = 1,
    cutoffs: list[int] | None = None,
    div_value: float = 4.0,
    dropout: Dropouts | None = None,
    init_range: float | None = None,
    num_params: int | str | None = None,
    engine: Engine = "auto",
) -> LanguageModel:
    """The language model a `model=` preset describes; `cell` is a class or factory called with its sizes.

    `embedding_size` is `hidden_size` unless given. With `num_params` (24_000_000, "24M", "500k") the hidden size is the
    largest whose model has no more parameters than that. Messages speak of `model.` keys.
    """
    if num_params is not None:
        given = dict(locals())
        given |= {"num_params": None, "engine": "scan"}
        if layers is not None:
            raise ConfigError(
                "model.num_params solves one hidden size for all layers; use model.num_layers, not layers"
            )

        def count(size: int) -> int:
            with torch.device("meta"):
                sized: LanguageModel = build_language_model(**{**given, "hidden_size": size})
            return sum(parameter.numel() for parameter in sized.parameters())

        # A cluster of an adaptive softmax has 1 feature at least.
        least = (
            1 if cutoffs is None or (projection and embedding_size) else math.ceil(max(1, div_value) ** len(cutoffs))
        )
        hidden_size = solve_size(count, budget(num_params), least)
    embedding_size = hidden_size if embedding_size is None else embedding_size
    require_positive(hidden_size=hidden_size, embedding_size=embedding_size, num_layers=num_layers, softmaxes=softmaxes)
    if bidirectional:
        raise ConfigError(
            "model.bidirectional=true cannot be a language model: the backward half sees the token to be predicted; "
            "use model.bidirectional=false"
        )
    drop: Dropouts = {"kind": "locked", **(dropout or {})}
    for place in ("embedding", "input", "hidden", "output", "latent"):
        require_probability(f"dropout.{place}", drop.get(place, 0.0))  # type: ignore[arg-type]
    stack = build_stack(
        input_size=embedding_size,
        cell=cell,
        hidden_size=hidden_size,
        num_layers=num_layers,
        layers=layers,
        bidirectional=bidirectional,
        residual=residual,
        skip_sum=skip_sum,
        dropout=drop,
        engine=engine,
    )
    if tied and not projection and softmaxes == 1 and cutoffs is None and stack.output_size != embedding_size:
        raise ConfigError(
            f"model.tied=true needs equal widths, but model.embedding_size={embedding_size} and the last layer has "
            f"{stack.output_size}; set model.embedding_size={stack.output_size}, or model.projection=true to map one "
            "to the other"
        )
    return LanguageModel(
        vocab_size,
        stack,
        tied=tied,
        projection=projection,
        softmaxes=softmaxes,
        latent_dropout=drop.get("latent", 0.0),
        cutoffs=cutoffs,
        div_value=div_value,
        embedding_dropout=drop.get("embedding", 0.0),
        embedding_tied=drop.get("embedding_tied", False),
        input_dropout=0.0 if drops_gatewise(drop) else drop.get("input", 0.0),
        output_dropout=drop.get("output", 0.0),
        dropout_kind=drop["kind"],
        init_range=init_range,
    )


def budget(text: int | str) -> int:
    """A number of parameters as people write it: 24000000, "24M", "1.5M", "500k". Raises ConfigError."""
    units = {"k": 1e3, "M": 1e6, "G": 1e9}
    try:
        number, unit = (text[:-1], units[text[-1]]) if isinstance(text, str) and text[-1:] in units else (text, 1)
        return round(float(number) * unit)
    except ValueError:
        raise ConfigError(f"model.num_params={text} should be a number, as 24M, 500k or 1000000") from None


def solve_size(count: Callable[[int], int], most: int, least: int = 1) -> int:
    """The largest size >= least with count(size) <= most, for a count that rises with it."""
    if count(least) > most:
        raise ConfigError(
            f"model.num_params={most} is too small: with hidden size {least} there are {count(least):,} parameters"
        )
    low, high = least, 2 * least
    while count(high) <= most:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= most else (low, middle)
    return low
