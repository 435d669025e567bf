"""Language modelling: predict the next token."""

from __future__ import annotations

import math

from torch import Tensor, nn

from ..cells import Carry
from ..data import IGNORE, Data, Lengths, Streams, Window
from ..models import LanguageModel
from ..schema import Config, SamplingConfig
from .base import Score, Task
from .generation import check_prompt, generate


def perplexity(nats: float, units: int) -> float:
    """exp(nats / units); infinite, not an error, for a loss that has run away."""
    mean = nats / units
    return math.exp(mean) if mean < 700 else math.inf


class LanguageModeling(Task):
    """Next-token prediction: loss = -sum_t ln p(w_t | w_1 .. w_{t-1}) over all targets of a window.

    Wants a causal model (a bidirectional one is refused when it is built). While training two penalties, in nats per
    token, may be added: `activation_penalty` * mean(m * y)^2 on the outputs y of the last layer with their
    dropout mask m, and `temporal_penalty` * mean (y_t - y_{t-1})^2 on the same outputs without it; means over steps,
    columns and units (AR and TAR; S. Merity et al., arXiv 1708.01009).
    """

    model = LanguageModel

    def __init__(self, *, activation_penalty: float = 0.0, temporal_penalty: float = 0.0) -> None:
        for name, value in {"activation_penalty": activation_penalty, "temporal_penalty": temporal_penalty}.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value} must be at least 0")
        self.activation_penalty, self.temporal_penalty = activation_penalty, temporal_penalty

    def check(self, config: Config, model: nn.Module, data: Data) -> None:
        super().check(config, model, data)
        check_prompt(data.tokenizer, config.sample.prompt, "sample.prompt")

    def training(self, data: Data, config: Config) -> Streams:
        how = config.train
        lengths = Lengths(how.window, how.window_spread, how.window_halved, config.seed)
        return Streams(data["train"].tokens, how.batch_size, lengths, first=data.tokenizer.eos_id, where="train.")

    def batches(self, data: Data, split: str, batch_size: int, window: int, where: str = "") -> Streams:
        return Streams(data[split].tokens, batch_size, window, first=data.tokenizer.eos_id, where=where, clip=True)

    def objective(self, model: LanguageModel, window: Window, carry: Carry) -> tuple[Carry, Tensor, Tensor | None]:
        reading = model.read(window.inputs, carry)
        nats, penalty = model.score(reading, window.targets, ignore_index=IGNORE), None
        if self.activation_penalty:
            penalty = self.activation_penalty * reading.dropped.float().pow(2).mean()
        if self.temporal_penalty and len(reading.top) > 1:
            change = self.temporal_penalty * reading.top.float().diff(dim=0).pow(2).mean()
            penalty = change if penalty is None else penalty + change
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

    def headline(self, loss: float, data: Data) -> str:
        bits = {"char": "bpc", "byte": "bits/byte"}.get(data.tokenizer.kind)  # words are told in perplexity
        return f"{bits} {loss / math.log(2):.3f}" if bits else f"ppl {math.exp(min(loss, 700)):.2f}"

    def show(self, model: LanguageModel, data: Data, how: SamplingConfig) -> str:
        return how.prompt + "".join(generate(model, data.tokenizer, how)) if how.tokens else ""
