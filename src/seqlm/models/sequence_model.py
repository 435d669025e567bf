"""Models of whole sequences: an encoder that reads them, and a head that predicts something of them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..cells import Carry, Cell, require_positive, require_probability
from ..data.batching.bucketed import ExampleBatch
from ..data.field import Field
from ..data.fields import UNKNOWN
from ..data.tokenizers.examples import ExampleTokenizer
from ..engines import Engine
from ..errors import ConfigError
from ..layers import Layer, WordEmbedding, make_dropout
from .features import CharacterReader, CharacterSpec, LanguageModelReader, LanguageModelSpec, language_model_readers
from .stack import Dropouts, build_stack, cells_of, delegates, drops_gatewise, parameters_in_words

PLACES = ("embedding", "words", "input", "output")


class SequenceDropouts(Dropouts, total=False):
    """Dropout probabilities of a model of whole sequences; `words`: of a word that is read as `<unk>`.

    `rare_words`, a, instead: of a word that train has n times, a / (a + n).
    """

    words: float
    rare_words: float


class WordReader(nn.Module):
    """Embeds the words of a batch: (T, B) -> (T, B, E).

    While training, `dropout` drops word types from the embedding, and a word becomes `<unk>` with probability
    `unknown`: so the vector of `<unk>` is learned, and words are not trusted more than what stands around them. With
    `rare`, a, it is a / (a + n) for a word that train has n times, so that words that decide are kept (E. Kiperwasser
    and Y. Goldberg, arXiv 1603.04351, with a = 0.25).
    """

    def __init__(
        self, vocab_size: int, embedding_size: int, *, dropout: float = 0.0, unknown: float = 0.0, rare: float = 0.0
    ) -> None:
        super().__init__()
        self.output_size, self.unknown, self.rare = embedding_size, unknown, rare
        self.embedding = WordEmbedding(vocab_size, embedding_size, dropout=dropout)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, batch: ExampleBatch) -> Tensor:
        words = batch["words"]
        if self.training and (self.unknown or self.rare):
            p: float | Tensor = self.unknown
            if self.rare:
                p = self.rare / (self.rare + batch["word_counts"])
            words = words.masked_fill(torch.rand(words.shape, device=words.device) < p, UNKNOWN)
        embedded: Tensor = self.embedding(words)
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

    def extra_repr(self) -> str:
        """The number of parameters, for print(model)."""
        return f"parameters: {parameters_in_words(self)}"

    def init_carry(self, batch_size: int) -> Carry:
        """Nothing is remembered from batch to batch."""
        return ()

    def extra_fields(self, tokenizer: ExampleTokenizer) -> list[Field]:
        """The fields that its readers need of examples beside those of the data."""
        return [reader.field(tokenizer) for reader in self.readers if isinstance(reader, LanguageModelReader)]

    def encode(self, batch: ExampleBatch) -> tuple[Tensor, Tensor]:
        """The input of the head: outputs (T, B, O), and the lengths (B,) up to which they count."""
        xs = torch.cat([reader(batch) for reader in self.readers], -1)
        lengths = batch.lengths["words" if "words" in batch.lengths else "features"]
        _, ys = self.stack(self.input_dropout(xs), self.stack.init_carry(xs.shape[1]), lengths)
        return self.output_dropout(ys), lengths

    def loss_sum(self, batch: ExampleBatch) -> Tensor:
        """Summed loss of the targets of a batch."""
        total: Tensor = self.head.loss_sum(*self.encode(batch), batch)
        return total


@delegates(build_stack)
def build_sequence_model(
    *,
    sizes: Mapping[str, int],
    cell: Callable[..., Cell],
    head: Callable[..., nn.Module],
    hidden_size: int,
    embedding_size: int | None = None,
    bidirectional: bool = True,
    characters: CharacterSpec | None = None,
    language_models: list[LanguageModelSpec] | None = None,
    dropout: SequenceDropouts | None = None,
    init_range: float | None = None,
    engine: Engine = "auto",
    load: Callable[[str, str, str | None], tuple[nn.Module, Any]] | None = None,
    **stack_options: Any,
) -> SequenceModel:
    """Build the model of whole sequences that a `model=` preset describes. Raises ConfigError about `model.` keys.

    Args:
        sizes: of vocabularies and features, from the data
        head: class or factory, called with its sizes; `backward_size` among them is how many of its inputs, the last
            ones, come of reading backwards
        embedding_size: of words, `hidden_size` unless given; features are mapped to it, or read as they are
        load: gives the model and the tokenizer of a run by its folder and checkpoint, for `language_models`
        stack_options: those of build_stack
    """
    width = hidden_size if embedding_size is None else embedding_size
    require_positive(hidden_size=hidden_size, embedding_size=width)
    drop = checked_dropouts(dropout, "model.")
    readers: list[Any] = []
    types, words, rare = drop.get("embedding", 0.0), drop.get("words", 0.0), drop.get("rare_words", 0.0)
    if not 0 <= rare < math.inf:
        raise ConfigError(f"model.dropout.rare_words={rare} must be at least 0")
    if words and rare:
        raise ConfigError(f"model.dropout.words={words} and rare_words={rare} both forget words; use one of them")
    if "vocab_size" in sizes:
        readers.append(WordReader(sizes["vocab_size"], width, dropout=types, unknown=words, rare=rare))
    for place, value in {"embedding": types, "words": words, "rare_words": rare}.items():
        if value and "vocab_size" not in sizes:
            raise ConfigError(f"model.dropout.{place}={value} does nothing: this data has no words; use input")
    if "num_features" in sizes:
        readers.append(FeatureReader(sizes["num_features"], embedding_size))
    if not readers:
        raise ConfigError("this data has neither words nor features: there is nothing that model= could read")
    if characters is not None:
        readers.append(_character_reader(characters, sizes, cell, engine))
    for index, spec in enumerate(language_models or []):
        size_of(sizes, "vocab_size", "words", "model.language_models")
        assert load is not None, "who builds a model with language models says how to load them"
        readers += language_model_readers(spec, f"model.language_models.{index}", load)
    stack = build_stack(
        sum(reader.output_size for reader in readers),
        drop,
        cell=cell,
        hidden_size=hidden_size,
        bidirectional=bidirectional,
        engine=engine,
        **stack_options,
    )
    known = {"engine": engine} if "engine" in inspect.signature(head).parameters else {}  # of a head with layers
    model = SequenceModel(
        readers,
        stack,
        head(input_size=stack.output_size, sizes={**sizes, "backward_size": stack.backward_size}, **known),
        input_dropout=make_dropout(drop["kind"], 0.0 if drops_gatewise(drop) else drop.get("input", 0.0)),
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


def checked_dropouts(dropout: SequenceDropouts | Dropouts | None, where: str) -> SequenceDropouts:
    """With a kind; raises ValueError or ConfigError, naming keys below `where`, for what cannot be or does nothing."""
    drop = cast("SequenceDropouts", {"kind": "locked", **(dropout or {})})
    for place in PLACES:
        require_probability(f"dropout.{place}", drop.get(place, 0.0))  # type: ignore[arg-type]
    if drop.get("embedding_tied"):
        raise ConfigError(f"{where}dropout.embedding_tied={drop['embedding_tied']} does nothing here; leave it out")
    return drop


def _character_reader(
    spec: CharacterSpec, sizes: Mapping[str, int], cell: Callable[..., Cell], engine: Engine
) -> CharacterReader:
    num_chars = size_of(sizes, "num_chars", "words", "model.characters")
    if "hidden_size" not in spec:
        raise ConfigError("model.characters.hidden_size is not set: give the units of each direction")
    hidden_size = spec["hidden_size"]
    embedding_size = spec.get("embedding_size", hidden_size)
    require_positive(**{"characters.hidden_size": hidden_size, "characters.embedding_size": embedding_size})
    layer = build_stack(
        embedding_size, {}, cell=spec.get("cell", cell), hidden_size=hidden_size, bidirectional=True, engine=engine
    )
    return CharacterReader(num_chars, embedding_size, layer)


def last_outputs(ys: Tensor, lengths: Tensor, backward_size: int) -> Tensor:
    """Outputs where each direction has read everything (B, O), of ys (T, B, O): forward ones at the last step of
    `lengths` (B,), backward ones, the last `backward_size`, at the first."""
    forward_size = ys.shape[-1] - backward_size
    last = ys[lengths - 1, torch.arange(ys.shape[1], device=ys.device)]
    return torch.cat([last[:, :forward_size], ys[0, :, forward_size:]], -1)


def size_of(sizes: Mapping[str, int], name: str, what: str, who: str = "model.head") -> int:
    """A size that the data must have, for heads. Raises ConfigError if it has none."""
    if name not in sizes:
        raise ConfigError(f"{who} needs {what}, and this data has none; choose data with {what}, or another model=")
    return sizes[name]
