"""One to many: a text for a label, for a vector, or for nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ..cells import Carry, Cell, require_positive, require_probability
from ..data.batching.batches import IGNORE_INDEX
from ..data.batching.bucketed import ExampleBatch
from ..engines import Engine
from ..errors import ConfigError
from .decoder import Context, Decoder
from .sequence_model import size_of
from .stack import Dropouts, parameters_in_words

Condition = Literal["label", "features", "nothing"]


class ConditionalModel(nn.Module):
    """A condition and a decoder that writes under it: p(w | c) = prod_t p(w_t | w_<t, c).

    `condition` "label": c is a vector of `size` numbers for each of `inputs` labels | "features": a linear map of a
    vector of `inputs` numbers | "nothing": one vector for all. While training c is the empty condition, a vector that
    is learned as well, with probability `empty`: so the model also knows p(w).
    """

    def __init__(self, condition: Condition, inputs: int, size: int, head: Decoder, *, empty: float = 0.0) -> None:
        super().__init__()
        self.condition, self.size, self.head, self.empty = condition, size, head, empty
        self.reader = {"label": nn.Embedding, "features": nn.Linear}[condition](inputs, size) if inputs else None
        learned = empty or self.reader is None
        self.nothing = nn.Parameter(torch.empty(size).uniform_(-0.1, 0.1)) if learned else None

    def extra_repr(self) -> str:
        """The number of parameters, for print(model)."""
        return f"parameters: {parameters_in_words(self)}"

    def init_carry(self, batch_size: int) -> Carry:
        """Nothing is remembered from batch to batch."""
        return ()

    def encode(self, batch: ExampleBatch, *, empty: bool = False) -> tuple[Tensor, Tensor]:
        """The condition of the decoder, (1, B, size) of one step; with `empty`, the empty condition for all."""
        weight = self.head.linear.weight
        lengths = torch.ones(batch.batch_size, dtype=torch.long, device=weight.device)
        nothing = weight.new_zeros(self.size) if self.nothing is None else self.nothing
        if self.reader is None or empty:
            return nothing.expand(1, batch.batch_size, -1), lengths
        if self.condition == "label":
            labels = batch["label"]
            known = self.reader(labels.clamp(min=0)).unsqueeze(0)
            without = labels == IGNORE_INDEX  # train lacks that one
        else:
            one_vector(batch["features"])
            known, without = self.reader(batch["features"]), torch.zeros_like(lengths, dtype=torch.bool)
        if self.training and self.empty:
            without = without | (torch.rand(batch.batch_size, device=weight.device) < self.empty)
        return torch.where(without.unsqueeze(-1), nothing, known), lengths

    def loss_sum(self, batch: ExampleBatch) -> Tensor:
        """Summed nats of the texts of a batch and of their ends."""
        return self.head.loss_sum(*self.encode(batch), batch)


def one_vector(features: Any) -> None:
    """Raise ConfigError if `features` are a sequence of vectors."""
    if len(features) != 1:
        where = getattr(features, "path", "an example")
        raise ConfigError(
            f"{where}: {len(features)} vectors, but model=conditional reads one; use task=seq2seq for more"
        )


def build_conditional_model(
    *,
    sizes: Mapping[str, int],
    cell: Callable[..., Cell],
    hidden_size: int,
    num_layers: int = 1,
    embedding_size: int | None = None,
    condition: Condition | None = None,
    condition_size: int = 32,
    context: Context = "both",
    empty: float | None = None,
    tied: bool = False,
    dropout: Dropouts | None = None,
    engine: Engine = "auto",
) -> ConditionalModel:
    """The model that `model=conditional` describes; `sizes` come from the data.

    `condition` is what texts are written for, by default the label if the data has labels, else its vectors, else
    nothing; it becomes `condition_size` numbers, which the decoder takes as `context` says. `empty` is 0.1 by default,
    where there is a condition. Raises ConfigError.
    """
    require_positive(condition_size=condition_size)
    require_probability("empty", empty or 0.0)
    if "target_size" not in sizes:
        raise ConfigError(
            "model=conditional writes the field target, and this data has none; data.rename={words: target} makes it "
            "of the words"
        )
    fields = {"label": "num_labels", "features": "num_features"}
    if condition is None:
        condition = cast("Condition", next((field for field, size in fields.items() if size in sizes), "nothing"))
    if condition == "nothing" and empty:
        raise ConfigError(f"model.empty={empty} does nothing: there is no condition that could be left out; use 0")
    what = "labels" if condition == "label" else "vectors"
    inputs = 0 if condition == "nothing" else size_of(sizes, fields[condition], what, f"model.condition={condition}")
    head = Decoder(
        condition_size,
        sizes,
        engine,
        cell=cell,
        hidden_size=hidden_size,
        num_layers=num_layers,
        embedding_size=embedding_size,
        attention="none",
        input_feeding=False,
        context=context,
        tied=tied,
        dropout=dropout,
        where="model.",
    )
    if empty is None:
        empty = 0.1 if inputs else 0.0
    return ConditionalModel(condition, inputs, condition_size, head, empty=empty)
