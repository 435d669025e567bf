"""Language modelling: predict the next token."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..cells import Carry
from ..data import IGNORE, Data, Lengths, Streams, Tokenizer, Window
from ..data.streams import Tokens
from ..models import LanguageModel
from ..schema import Config, SamplingConfig
from .base import Score
from .generation import check_prompt, generate
from .penalties import Penalty, make_penalties, total
from .text import TextTask, line_ids, perplexity

STEPS = 256  # of a line that are read at once: a long one needs no more memory


class LanguageModeling(TextTask):
    """Next-token prediction: loss = -sum_t ln p(w_t | w_1 .. w_{t-1}) over all targets of a window.

    Wants a causal model (a bidirectional one is refused when it is built).

    Args:
        penalties: weights by name of penalties in training, {"activation": 2.0, "temporal": 1.0}, or their factories
    """

    model, writes = LanguageModel, True

    def __init__(self, *, penalties: Mapping[str, float | Callable[..., Penalty]] | None = None) -> None:
        self.penalties = make_penalties(penalties)

    def check(self, config: Config, model: nn.Module, data: Data) -> None:
        super().check(config, model, data)
        check_prompt(data.tokenizer, config.sample.prompt, "sample.prompt")

    def training(self, data: Data, config: Config) -> Streams:
        return training_streams(data["train"].tokens, data, config)

    def batches(self, data: Data, split: str, batch_size: int, window: int, where: str = "") -> Streams:
        return scoring_streams(data[split].tokens, data, batch_size, window, where)

    def objective(self, model: LanguageModel, window: Window, carry: Carry) -> tuple[Carry, Tensor, Tensor | None]:
        reading = model.read(window.inputs, carry)
        nats, penalty = model.score(reading, window.targets, ignore_index=IGNORE), total(self.penalties, reading)
        return reading.carry, nats, None if penalty is None else penalty * window.targets.numel()

    def score(self, model: LanguageModel, window: Window, carry: Carry) -> tuple[Carry, Score]:
        carry, nats = model.nats(window.inputs, window.targets, carry, ignore_index=IGNORE)
        return carry, Score(nats.item(), window.tokens)

    def metrics(self, score: Score, data: Data, split: str) -> dict[str, float]:
        """loss (nats per token), ppl, and bpc: bits per character of the text."""
        characters = data[split].counts.characters
        return {
            "loss": score.loss,
            "ppl": perplexity(score.nats, score.tokens),
            "bpc": score.nats / math.log(2) / characters,
        }

    def show(self, model: LanguageModel, data: Data, how: SamplingConfig) -> str:
        return how.prompt + "".join(generate(model, data.tokenizer, how)) if how.tokens else ""

    def write(self, model: LanguageModel, tokenizer: Tokenizer, how: SamplingConfig) -> Iterator[str]:
        return generate(model, tokenizer, how)

    def answers(self, model: LanguageModel, tokenizer: Tokenizer, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Nats and tokens of each, having read nothing before it."""
        lines = [line_ids(tokenizer, text) for text in texts]
        return [
            {
                "nats": nats,
                "tokens": len(ids),
                "ppl": perplexity(nats, len(ids)),
                "unknown": sum(token == tokenizer.unk_id for token in ids),
            }
            for ids, nats in zip(lines, line_nats(model, tokenizer, lines), strict=True)
        ]


def training_streams(tokens: Tokens, data: Data, config: Config) -> Streams:
    """A text cut to learn from it."""
    how = config.train
    lengths = Lengths(how.window, how.window_spread, how.window_halved, config.seed)
    return Streams(tokens, how.batch_size, lengths, first=data.tokenizer.eos_id, where="train.")


def scoring_streams(tokens: Tokens, data: Data, batch_size: int, window: int, where: str) -> Streams:
    """A text cut to score it."""
    return Streams(tokens, batch_size, window, first=data.tokenizer.eos_id, where=where, clip=True)


def line_nats(model: LanguageModel, tokenizer: Tokenizer, lines: Sequence[Sequence[int]]) -> list[float]:
    """Summed nats of the tokens of each line, the first of which stands behind the end of another."""
    longest, device = max(map(len, lines)), next(model.parameters()).device
    read = torch.full((longest + 1, len(lines)), tokenizer.eos_id)
    targets = torch.full((longest, len(lines)), IGNORE)
    for column, ids in enumerate(lines):
        read[1 : len(ids) + 1, column] = targets[: len(ids), column] = torch.tensor(ids)
    carry, nats = model.init_carry(len(lines)), torch.zeros(len(lines), dtype=torch.float64)
    for inputs, wanted in zip(read[:-1].split(STEPS), targets.split(STEPS), strict=True):
        reading = model.read(inputs.to(device), carry)
        carry, logs = reading.carry, model.log_probabilities(reading, wanted.to(device), 1.0, IGNORE)
        nats -= logs.double().sum(0).cpu()
    return nats.tolist()
