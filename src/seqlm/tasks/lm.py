"""Language modelling: predict the next token."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..cells import Carry
from ..config.metrics import PERPLEXITY, Metric, readable
from ..config.schema import Config, SamplingConfig
from ..data.batching.batches import IGNORE_INDEX, Batches
from ..data.batching.streams import Chunk, Lengths, Streams, Tokens
from ..data.dataset import Data
from ..data.tokenizers.text import Tokenizer
from ..models.language_model import LanguageModel
from .base import Score
from .generation import check_prompt, generate
from .penalties import Penalty, make_penalties, total
from .text import TextTask, line_ids, perplexity

STEPS = 256  # of a line that are read at once: a long one needs no more memory


class LanguageModeling(TextTask):
    """Next-token prediction: loss = -sum_t ln p(w_t | w_1 .. w_{t-1}) over all targets of a chunk.

    Needs a causal model (a bidirectional one is refused when it is built).

    Args:
        penalties: weights by name of penalties in training, {"activation": 2.0, "temporal": 1.0}, or their factories
    """

    model, writes = LanguageModel, True
    cuda_graphs = True
    metrics = (PERPLEXITY, Metric("bpc", higher_is_better=False))
    eval_options = ("bptt", "protocol", "temperature", "dynamic", "cache", "ensemble", "monte_carlo", "mean")

    def __init__(self, *, penalties: Mapping[str, float | Callable[..., Penalty]] | None = None) -> None:
        self.penalties = make_penalties(penalties)

    def check(self, config: Config, model: nn.Module, data: Data) -> None:
        super().check(config, model, data)
        check_prompt(data.tokenizer, config.sample.prompt, "sample.prompt")

    def training(self, data: Data, config: Config) -> Streams:
        return training_streams(data["train"].tokens, data, config)

    def batches(self, data: Data, split: str, batch_size: int, bptt: int, where: str = "") -> Streams:
        return scoring_streams(data[split].tokens, data, batch_size, bptt, where)

    def objective(self, model: LanguageModel, chunk: Chunk, carry: Carry) -> tuple[Carry, Tensor, Tensor | None]:
        reading = model.read(chunk.inputs, carry)
        nll, penalty = model.score(reading, chunk.targets, ignore_index=IGNORE_INDEX), total(self.penalties, reading)
        return reading.carry, nll, None if penalty is None else penalty * chunk.targets.numel()

    def score(self, model: LanguageModel, chunk: Chunk, carry: Carry, batches: Batches) -> tuple[Carry, Score]:
        carry, nll = model.nll(chunk.inputs, chunk.targets, carry, ignore_index=IGNORE_INDEX)
        return carry, Score(nll.item(), chunk.tokens)

    def compute_metrics(self, score: Score, data: Data, split: str) -> dict[str, float]:
        """loss (nats per token), ppl, and bpc: bits per character of the text."""
        characters = data[split].counts.characters
        return {
            "loss": score.loss,
            "ppl": perplexity(score.loss_sum, score.tokens),
            "bpc": score.loss_sum / math.log(2) / characters,
        }

    def display(self, model: LanguageModel, data: Data, options: SamplingConfig) -> str:
        return options.prompt + "".join(generate(model, data.tokenizer, options)) if options.tokens else ""

    def facts(self, score: Score, data: Data, split: str) -> dict[str, float]:
        """Characters and words of the text, perplexity per word, and the share of tokens outside the vocabulary."""
        tokens, counts, unk_id = data[split].tokens, data[split].counts, data.tokenizer.unk_id
        assert score.tokens == len(tokens), "every target once"
        unknown = 0 if unk_id is None else int((tokens == unk_id).sum())
        return {
            "characters": counts.characters,
            "ppl_word": perplexity(score.loss_sum, counts.words),
            "words": counts.words,
            "oov_rate": unknown / score.tokens,
        }

    def rows(self, measured: Mapping[str, Any]) -> list[tuple[str, str]]:
        per_word = readable(measured["ppl_word"])
        return [
            ("tokens", f"{measured['tokens']:,}"),
            ("nats/token", f"{measured['loss']:.4f}"),
            ("perplexity", readable(measured["ppl"])),
            ("bits per character", f"{measured['bpc']:.4f}   ({measured['characters']:,} characters)"),
            (
                "perplexity per word",
                f"{per_word}   ({measured['words']:,} words, line ends included)",
            ),
            ("out of vocabulary", f"{100 * measured['oov_rate']:.2f}%"),
            ("tokens/s", f"{measured['tokens_per_s']:,.0f}"),
        ]

    def language_models(self, model: LanguageModel) -> dict[str, Any]:
        return {"forward": model}

    def write(self, model: LanguageModel, tokenizer: Tokenizer, options: SamplingConfig) -> Iterator[str]:
        return generate(model, tokenizer, options)

    def predict_texts(self, model: LanguageModel, tokenizer: Tokenizer, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Negative log-likelihood (nats) and tokens of each, having read nothing before it."""
        lines = [line_ids(tokenizer, text) for text in texts]
        return [
            {
                "nll": nll,
                "tokens": len(ids),
                "ppl": perplexity(nll, len(ids)),
                "unknown": sum(token == tokenizer.unk_id for token in ids),
            }
            for ids, nll in zip(lines, line_nll(model, tokenizer, lines), strict=True)
        ]


def training_streams(tokens: Tokens, data: Data, config: Config) -> Streams:
    """A text cut to learn from it."""
    options = config.train
    lengths = Lengths(options.bptt, options.bptt_std, options.bptt_half_prob, config.seed)
    return Streams(tokens, options.batch_size, lengths, first=data.tokenizer.eos_id, where="train.")


def scoring_streams(tokens: Tokens, data: Data, batch_size: int, bptt: int, where: str) -> Streams:
    """A text cut to score it."""
    return Streams(tokens, batch_size, bptt, first=data.tokenizer.eos_id, where=where, clip=True)


def line_nll(model: LanguageModel, tokenizer: Tokenizer, lines: Sequence[Sequence[int]]) -> list[float]:
    """Summed nats of the tokens of each line, the first of which stands behind the end of another."""
    longest, device = max(map(len, lines)), next(model.parameters()).device
    read = torch.full((longest + 1, len(lines)), tokenizer.eos_id)
    targets = torch.full((longest, len(lines)), IGNORE_INDEX)
    for row, ids in enumerate(lines):
        read[1 : len(ids) + 1, row] = targets[: len(ids), row] = torch.tensor(ids)
    carry, nll = model.init_carry(len(lines)), torch.zeros(len(lines), dtype=torch.float64)
    for inputs, goals in zip(read[:-1].split(STEPS), targets.split(STEPS), strict=True):
        reading = model.read(inputs.to(device), carry)
        carry, logs = reading.carry, model.log_probabilities(reading, goals.to(device), 1.0, IGNORE_INDEX)
        nll -= logs.double().sum(0).cpu()
    return nll.tolist()
