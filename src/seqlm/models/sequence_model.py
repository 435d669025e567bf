"""Models of whole sequences: an encoder that reads them, and a head that says something of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..cells import Carry, Cell, RecurrentDropout, require_positive, require_probability
from ..data import ExampleBatch
from ..engines import Engine
from ..errors import ConfigError
from ..layers import Layer, WordEmbedding, make_dropout
from .language_model import Dropouts, LayerSpec, build_stack, cells_of

PLACES = ("embedding", "input", "hidden", "output")


class WordReader(nn.Module):
    """Embeds the words of a batch: (T, B) -> (T, B, E). With dropout of word types, and of single words to `<unk>`."""

    def __init__(self, vocab_size: int, embedding_size: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.output_size = embedding_size
        self.embedding = WordEmbedding(vocab_size, embedding_size, dropout=dropout)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, batch: ExampleBatch) -> Tensor:
        embedded: Tensor = self.embedding(batch["words"])
        return embedded


class FeatureReader(nn.Module):
    """Vectors as they are, or by a linear map to `embedding_size`: (T, B, F) -> (T, B, E)."""

    def __init__(self, num_features: int, embedding_size: int | None) -> None:
        super().__init__()
        self.output_size = embedding_size or num_features
        self.projection = nn.Linear(num_features, embedding_size) if embedding_size else nn.Identity()

    def forward(self, batch: ExampleBatch) -> Tensor:
        features: Tensor = self.projection(batch["features"])
        return features


class SequenceModel(nn.Module):
    """Readers -> dropout -> stack -> dropout -> head: y = head(stack([r_1(x); ...; r_n(x)])).

    `readers` turn a batch into (T, B, E) each, which are concatenated; the stack sees `lengths`, so that padding
    changes nothing. What is learned and predicted is the head's matter. There is no carry from batch to batch.
    """

    def __init__(
        self,
        readers: Sequence[nn.Module],
        stack: Layer,
        head: Any,
        *,
        input_dropout: nn.Module,
        output_dropout: nn.Module,
    ) -> None:
        super().__init__()
        self.readers = nn.ModuleList(readers)
        self.stack, self.head = stack, head
        self.input_dropout, self.output_dropout = input_dropout, output_dropout

    def init_carry(self, batch_size: int) -> Carry:
        """Nothing is remembered from batch to batch."""
        return ()

    def encode(self, batch: ExampleBatch) -> tuple[Tensor, Tensor]:
        """What the head sees of a batch: outputs (T, B, O), and the lengths (B,) up to which they count."""
        xs = torch.cat([reader(batch) for reader in self.readers], -1)
        lengths = batch.lengths["words" if "words" in batch.lengths else "features"]
        _, ys = self.stack(self.input_dropout(xs), self.stack.init_carry(xs.shape[1]), lengths)
        return self.output_dropout(ys), lengths

    def nats(self, batch: ExampleBatch) -> Tensor:
        """Summed nats of the targets of a batch."""
        nats: Tensor = self.head.nats(*self.encode(batch), batch)
        return nats


def build_sequence_model(
    *,
    sizes: Mapping[str, int],
    cell: Callable[..., Cell],
    head: Callable[..., nn.Module],
    hidden_size: int,
    num_layers: int = 1,
    embedding_size: int | None = None,
    layers: list[LayerSpec] | None = None,
    bidirectional: bool = True,
    residual: bool = False,
    skip_sum: bool = False,
    dropout: Dropouts | None = None,
    init_range: float | None = None,
    engine: Engine = "auto",
) -> SequenceModel:
    """The model that a `model=` preset of whole sequences describes; `sizes` come from the data.

    `cell` and `head` are classes or factories, called with their sizes; a head is told `backward_size` among them, how
    many of its inputs, the last ones, come of reading backwards. Words are embedded in `embedding_size` numbers, by
    default `hidden_size`; features are read as they are, or mapped to `embedding_size` if it is given. A layer of a
    bidirectional model has two cells of `hidden_size` each. Raises ConfigError, speaking of `model.` keys.
    """
    width = hidden_size if embedding_size is None else embedding_size
    require_positive(hidden_size=hidden_size, embedding_size=width, num_layers=num_layers)
    drop: Dropouts = {"kind": "locked", **(dropout or {})}
    for place in PLACES:
        require_probability(f"dropout.{place}", drop.get(place, 0.0))  # type: ignore[arg-type]
    for key in ("embedding_tied", "latent"):
        if drop.get(key):
            raise ConfigError(f"model.dropout.{key}={drop[key]} does nothing here; leave it out")
    readers: list[Any] = []
    if "vocab_size" in sizes:
        readers.append(WordReader(sizes["vocab_size"], width, dropout=drop.get("embedding", 0.0)))
    elif drop.get("embedding"):
        raise ConfigError(
            f"model.dropout.embedding={drop['embedding']} does nothing: this data has no words; use input"
        )
    if "num_features" in sizes:
        readers.append(FeatureReader(sizes["num_features"], embedding_size))
    if not readers:
        raise ConfigError("this data has neither words nor features: there is nothing that model= could read")
    inside = RecurrentDropout(**{key: drop[key] for key in RecurrentDropout._fields if key in drop})  # type: ignore[literal-required]
    stack = build_stack(
        input_size=sum(reader.output_size for reader in readers),
        cell=cell,
        hidden_size=hidden_size,
        num_layers=num_layers,
        layers=layers,
        bidirectional=bidirectional,
        residual=residual,
        skip_sum=skip_sum,
        dropout=make_dropout(drop["kind"], drop.get("hidden", 0.0)),
        recurrent_dropout=inside,
        engine=engine,
    )
    model = SequenceModel(
        readers,
        stack,
        head(input_size=stack.output_size, sizes={**sizes, "backward_size": stack.backward_size}),
        input_dropout=make_dropout(drop["kind"], drop.get("input", 0.0)),
        output_dropout=make_dropout(drop["kind"], drop.get("output", 0.0)),
    )
    if init_range is not None:
        if init_range <= 0:
            raise ConfigError(f"model.init_range={init_range} must be greater than 0")
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -init_range, init_range)
        for one in cells_of(model):
            one.reset_parameters(init_range)
    return model


def size_of(sizes: Mapping[str, int], name: str, what: str) -> int:
    """A size that the data must have, for heads. Raises ConfigError if it has none."""
    if name not in sizes:
        raise ConfigError(
            f"model.head needs {what}, and this data has none; choose data with {what}, or another model="
        )
    return sizes[name]
