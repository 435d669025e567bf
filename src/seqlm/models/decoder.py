"""The decoder: a head that writes another sequence, word by word."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..cells import Carry, Cell, Step, carry_tensors, map_carry, require_positive
from ..data.batching.batches import IGNORE_INDEX
from ..data.batching.bucketed import ExampleBatch
from ..data.fields import END
from ..engines import Engine
from ..errors import NonFiniteError
from ..layers import Attention, Memory, WordEmbedding, linear_cross_entropy, make_dropout
from .beam_search import beam_search, greedy
from .sequence_model import checked_dropouts, last_outputs, size_of
from .stack import Dropouts, build_stack, drops_gatewise

Context = Literal["state", "input", "both"]


class State(NamedTuple):
    """The state of a decoder between two words."""

    carry: Carry
    fed: Tensor  # (B, H): the output before, where it is fed back; else (B, 0)
    known: Tensor  # (B, O): of the source, where it is read at every step; else (B, 0)


class Decoder(nn.Module):
    """Writes the target word by word: p(w_t | w_<t, x) = softmax(W_o o_t + b_o), until it writes `<eos>`.

    h_t = stack([E[w_{t-1}]; o_{t-1}]),  o_t = tanh(W_c [c_t; h_t]),  c_t = attention(h_t) over the encoder's outputs
    y_1 .. y_S,  w_0 = <eos>,  carry_0 = tanh(W_0 s + b_0)

    with s the last output of the encoder in each direction. Without `input_feeding` the stack reads E[w_{t-1}] alone.
    With `attention` "none" o_t = h_t. `context`: what s is for, "state": carry_0 | "input": the stack reads it at every
    step, and carry_0 = 0 | "both" (K. Cho et al., arXiv 1406.1078). `tied`: W_o is E itself. Dropout `input` is on what
    the stack reads, `output` before the softmax. I. Sutskever, O. Vinyals and Q. V. Le, arXiv 1409.3215; carry_0: D.
    Bahdanau, K. Cho and Y. Bengio, arXiv 1409.0473; attention after the step, input feeding: M.-T. Luong, H. Pham and
    C. D. Manning, arXiv 1508.04025.
    """

    def __init__(
        self,
        input_size: int,
        sizes: Mapping[str, int],
        engine: Engine = "auto",
        *,
        cell: Callable[..., Cell],
        hidden_size: int,
        num_layers: int = 1,
        embedding_size: int | None = None,
        attention: Literal["none", "dot", "general", "additive"] = "general",
        attention_size: int | None = None,
        input_feeding: bool = True,
        context: Context = "state",
        tied: bool = False,
        dropout: Dropouts | None = None,
        where: str = "model.head.",
    ) -> None:
        super().__init__()
        embedding_size = hidden_size if embedding_size is None else embedding_size
        require_positive(hidden_size=hidden_size, embedding_size=embedding_size)
        if attention == "none" and (input_feeding or attention_size is not None):
            key, value, none = (
                ("input_feeding", "true", "false") if input_feeding else ("attention_size", attention_size, "null")
            )
            raise ValueError(f"{key}={value} does nothing with attention=none; use {key}={none}")
        if context not in get_args(Context):
            raise ValueError(f"context={context} must be one of {', '.join(get_args(Context))}")
        drop, vocab_size = checked_dropouts(dropout, where), size_of(sizes, "target_size", "targets", where.rstrip("."))
        if drops_gatewise(drop) and (drop.get("input") or drop.get("hidden")):  # they would be drawn at every step
            raise ValueError("dropout.per_gate=true: in a decoder gates share the masks of input and hidden; use false")
        self.stack = build_stack(
            embedding_size + hidden_size * input_feeding + input_size * (context != "state"),
            drop,
            where,
            cell=cell,
            hidden_size=hidden_size,
            num_layers=num_layers,
            engine="scan" if input_feeding else engine,  # each step waits for the one before
        )
        states = self.stack.output_size
        size = states if attention == "none" else hidden_size
        if tied and embedding_size != size:
            raise ValueError(
                f"tied=true needs equal widths, but embedding_size={embedding_size} and outputs have {size}"
            )
        self.input_feeding = input_feeding
        self.embedding = WordEmbedding(vocab_size, embedding_size, dropout=drop.get("embedding", 0.0))
        self.input_dropout = make_dropout(drop["kind"], drop.get("input", 0.0))
        self.attention = None if attention == "none" else Attention(states, input_size, attention, attention_size)
        self.combine = nn.Linear(input_size + states, size, bias=False) if self.attention else None
        self.output_dropout = make_dropout(drop["kind"], drop.get("output", 0.0))
        self.linear = nn.Linear(size, vocab_size)
        self.widths = [tensor.shape[1] for tensor in carry_tensors(self.stack.init_carry(1))]
        if context != "input" and not self.widths:
            raise ValueError(f"context={context} needs a state, and these cells remember nothing; use context=input")
        self.context, self.backward_size = context, sizes.get("backward_size", 0)
        self.bridge = nn.Linear(input_size, sum(self.widths)) if context != "input" else None
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.linear.weight, -0.1, 0.1)
        nn.init.zeros_(self.linear.bias)
        if tied:
            self.linear.weight = self.embedding.weight

    def start(self, ys: Tensor, lengths: Tensor) -> tuple[Memory | tuple[()], State]:
        """The memory of the attention, and the state before the first word: ys (S, B, O) of `lengths` (B,)."""
        summary, carry = last_outputs(ys, lengths, self.backward_size), self.stack.init_carry(ys.shape[1])
        if self.bridge is not None:
            parts = iter(self.bridge(summary).tanh().split(self.widths, -1))
            carry = map_carry(lambda like: next(parts).to(like.dtype), carry)
        fed = ys.new_zeros(ys.shape[1], self.linear.in_features if self.input_feeding else 0)
        known = summary if self.context != "state" else summary[:, :0]
        return () if self.attention is None else self.attention.remember(ys, lengths), State(carry, fed, known)

    def _read(self, tops: Tensor, memory: Any) -> tuple[Tensor, Tensor]:
        """Outputs of the stack (T, B, H) -> o (T, B, H), weights of the attention (T, B, S) (S = 0 without)."""
        if self.attention is None or self.combine is None:
            return tops, tops.new_zeros(*tops.shape[:2], 0)
        contexts, weights = self.attention(tops, memory)
        return self.combine(torch.cat([contexts, tops], -1)).tanh(), weights

    def bind(self, memory: Any, state: State) -> Callable[[State, Tensor], tuple[State, Tensor, Tensor]]:
        """One word at a time, masks drawn for ONE batch: (state, words (B)) -> (state, o (B, H), weights (B, S))."""
        step, words, drop = self.stack.bind(state.carry), self.embedding.draw_mask(), self.input_dropout.bind()

        def write(state: State, tokens: Tensor) -> tuple[State, Tensor, Tensor]:
            embedded = self.embedding.look_up(tokens, words)
            carry, top = step(state.carry, drop(torch.cat([embedded, state.fed, state.known], -1)))
            o, weights = (part.squeeze(0) for part in self._read(top.unsqueeze(0), memory))
            return State(carry, o if self.input_feeding else state.fed, state.known), o, weights

        return write

    def read(self, ys: Tensor, lengths: Tensor, inputs: Tensor, sampled: float = 0.0) -> tuple[Tensor, Tensor]:
        """Read words (T, B) that are known: o (T, B, H) and weights of the attention (T, B, S).

        With probability `sampled` a word but the first is replaced by one drawn from the decoder's own distribution
        (S. Bengio et al., arXiv 1506.03099). Where no step depends on the one before but through the cells, they
        run over all steps at once.
        """
        memory, state = self.start(ys, lengths)
        if not (self.input_feeding or sampled):
            known = state.known.expand(len(inputs), -1, -1)
            xs = torch.cat([self.embedding(inputs), known], -1)
            _, tops = self.stack(self.input_dropout(xs), state.carry)
            return self._read(tops, memory)
        write = self.bind(memory, state)
        outputs: list[Tensor] = []
        maps: list[Tensor] = []
        for words in inputs:
            if sampled and outputs:
                own = torch.rand(words.shape, device=words.device) < sampled
                words = torch.where(own, self._draw(outputs[-1]), words)
            state, o, weights = write(state, words)
            outputs.append(o)
            maps.append(weights)
        return torch.stack(outputs), torch.stack(maps)

    @torch.no_grad()
    def _draw(self, o: Tensor) -> Tensor:
        """A word for each row of o (B, H)."""
        try:
            return torch.multinomial(self.linear(o).float().softmax(-1), 1).squeeze(1)
        except RuntimeError as error:
            raise NonFiniteError(f"no word can be drawn: {error}") from None

    def loss_sum(self, ys: Tensor, lengths: Tensor, batch: ExampleBatch, sampled: float = 0.0) -> Tensor:
        """Summed nats of the target words of a batch and of the end of each target."""
        inputs, goals = shifted(batch["target"], batch.lengths["target"])
        outputs = self.output_dropout(self.read(ys, lengths, inputs, sampled)[0]).flatten(0, 1)
        return linear_cross_entropy(
            outputs, self.linear.weight, self.linear.bias, goals.flatten(), ignore_index=IGNORE_INDEX
        )

    @torch.no_grad()
    def write(
        self,
        ys: Tensor,
        lengths: Tensor,
        *,
        beam: int = 1,
        length_penalty: float = 0.0,
        max_length: int | None = None,
        unk: bool = False,
    ) -> list[list[int]]:
        """The target of each source, as ids without the end: greedily, or the best found by a beam.

        At most `max_length` words, or twice as many as the source has and ten; `<unk>` is written only if `unk`.
        """
        limits = 2 * lengths + 10 if max_length is None else torch.full_like(lengths, max_length)
        memory, state = self.start(ys, lengths)
        found = greedy(self.scores(memory, state), state, limits, unk)
        if beam > 1:
            memory, state = map_carry(lambda tensor: tensor.repeat_interleave(beam, 0), (memory, state))
            found = beam_search(self.scores(memory, state), state, limits, found, beam, length_penalty, unk)
        return [words for words, _ in found]

    def scores(self, memory: Any, state: State) -> Step:
        """The step of a search: (state, words (B)) -> (state, ln p of the next word (B, V))."""
        write = self.bind(memory, state)

        def step(state: State, words: Tensor) -> tuple[State, Tensor]:
            state, o, _ = write(state, words)
            return state, F.linear(o, self.linear.weight, self.linear.bias).log_softmax(-1)

        return step

    @torch.no_grad()
    def attend(self, ys: Tensor, lengths: Tensor, words: list[list[int]]) -> list[Tensor]:
        """Attention for each of `words` and the end after them: weights (len + 1, S) for each source."""
        sizes = torch.tensor([len(row) for row in words])
        padded = torch.full((int(sizes.max()), len(words)), IGNORE_INDEX)
        for index, row in enumerate(words):
            padded[: len(row), index] = torch.tensor(row, dtype=padded.dtype)
        inputs, _ = shifted(padded.to(ys.device), sizes.to(ys.device))
        maps = self.read(ys, lengths, inputs)[1]
        return [
            maps[: len(row) + 1, i, :length]
            for i, (row, length) in enumerate(zip(words, lengths.tolist(), strict=True))
        ]


def shifted(target: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Targets (T, B) of `lengths` (B,) -> what is read, the end first, and the targets, the end last."""
    row = target.new_full((1, target.shape[1]), IGNORE_INDEX)
    goals = torch.cat([target, row]).scatter(0, lengths.unsqueeze(0), END)
    return torch.cat([torch.full_like(row, END), target.clamp(min=0)]), goals
