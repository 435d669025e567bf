"""Features of words besides their ids: their characters, and the states of language models that read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from ..cells import Cell
from ..data import ExampleBatch, Tokenizer
from ..errors import ConfigError
from ..layers import Layer
from .language_model import BidirectionalLanguageModel, LanguageModel


class CharacterSpec(TypedDict, total=False):
    """The network that reads the characters of a word; `cell` is that of the model unless given."""

    embedding_size: int
    hidden_size: int
    cell: Callable[..., Cell]


class LanguageModelSpec(TypedDict, total=False):
    """A run of seqlm whose states are features; `reverse` for one that was trained on reversed text.

    A run of task=bilm has states in both directions. `sha256`, which a run that was trained with it keeps, is that of
    the checkpoint's manifest.
    """

    run: str
    reverse: bool
    checkpoint: int
    sha256: str


class CharacterReader(nn.Module):
    """Reads a word letter by letter, in both directions: r = [h_L forward; h_1 backward].

    characters (T, B, L) of lengths (T, B) -> (T, B, 2H), 0 for words without characters. `layer` is bidirectional.
    G. Lample et al., arXiv 1603.01360; W. Ling et al., arXiv 1508.02096.
    """

    def __init__(self, num_chars: int, embedding_size: int, layer: Layer) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_chars, embedding_size)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.layer, self.output_size = layer, layer.output_size

    def forward(self, batch: ExampleBatch) -> Tensor:
        spelt = torch.cat([batch["character_lengths"].unsqueeze(-1), batch["characters"]], -1)  # (T, B, 1 + L)
        words, places = spelt.flatten(0, 1).unique(dim=0, return_inverse=True)  # each word is read once
        lengths, xs = words[:, 0], self.embedding(words[:, 1:].t())  # (W,), (L, W, E)
        _, ys = self.layer(xs, self.layer.init_carry(len(words)), lengths)
        forward, backward = ys.chunk(2, -1)
        last = forward[(lengths - 1).clamp(min=0), torch.arange(len(words), device=lengths.device)]
        ends = torch.cat([last, backward[0]], -1) * (lengths > 0).unsqueeze(-1)
        read: Tensor = ends[places].view(*spelt.shape[:2], -1)
        return read


class LanguageModelReader(nn.Module):
    """The state of a trained language model at each word: y_t of its last layer, having read w_1 .. w_t.

    With `reverse`, having read w_n .. w_t, by a model of reversed text. The words are looked up in the model's own
    vocabulary; one that knows characters or bytes reads a space between words, and its state is that at a word's last
    one. The model is not trained, and not part of what is saved. M. E. Peters et al., arXiv 1705.00108; A. Akbik,
    D. Blythe and R. Vollgraf (COLING 2018).
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, reverse: bool) -> None:
        super().__init__()
        self._frozen = (model.requires_grad_(False).eval(),)  # in a tuple it is not one of our modules
        self.tokenizer, self.reverse, self.output_size = tokenizer, reverse, model.stack.output_size

    def _apply(self, fn: Any, recurse: bool = True) -> LanguageModelReader:
        """Go where the rest of the model goes: to a device, or to another type."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._frozen[0]._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @torch.no_grad()
    def forward(self, batch: ExampleBatch) -> Tensor:
        model, device = self._frozen[0], batch["words"].device
        read = [self._tokens(batch.tokenizer.split(example["words"])) for example in batch.originals]
        tokens = torch.full((max(len(ids) for ids, _ in read), len(read)), self.tokenizer.eos_id)
        ends = torch.zeros_like(batch["words"], device="cpu")  # (T, B): where in `tokens` each word has been read
        for column, (ids, places) in enumerate(read):
            tokens[: len(ids), column] = torch.tensor(ids)
            ends[: len(places), column] = torch.tensor(places)
        top = model.read(tokens.to(device), model.init_carry(len(read))).top
        return top.gather(0, ends.to(device).unsqueeze(-1).expand(-1, -1, top.shape[2]))

    def _tokens(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        """The ids the model reads, and for each word the place of the last of them that is its own."""
        gap = [] if self.tokenizer.kind == "word" else self.tokenizer.encode(" ")
        ids: list[int] = [self.tokenizer.eos_id]
        ends: list[int] = []
        for word in reversed(words) if self.reverse else words:
            own = self.tokenizer.encode(word)
            ids += (gap if ends else []) + (own[::-1] if self.reverse else own)
            ends.append(len(ids) - 1)
        return ids, ends[::-1] if self.reverse else ends


def language_model_reader(
    spec: LanguageModelSpec, where: str, load: Callable[[str, str, str | None], tuple[nn.Module, Any]]
) -> list[LanguageModelReader]:
    """The readers that an entry of model.language_models describes; `load` gives the model and tokenizer of a run.

    Two of them for a run of task=bilm, one in each direction.
    """
    if not spec.get("run"):
        raise ConfigError(f"{where}.run is not set: give the folder of a run")
    try:
        model, tokenizer = load(spec["run"], str(spec.get("checkpoint", "best")), spec.get("sha256"))
    except ConfigError as error:
        raise ConfigError(f"{where}.run: {error}") from error
    if isinstance(model, BidirectionalLanguageModel):
        if "reverse" in spec:
            raise ConfigError(f"{where}.reverse={spec['reverse']} does nothing: {spec['run']} reads in both directions")
        return [LanguageModelReader(one, tokenizer, turned) for one, turned in ((model.fwd, False), (model.bwd, True))]
    if not isinstance(model, LanguageModel):
        raise ConfigError(f"{where}.run={spec['run']} trained a {type(model).__name__}, not a LanguageModel")
    return [LanguageModelReader(model, tokenizer, spec.get("reverse", False))]
