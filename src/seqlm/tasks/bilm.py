"""Language modelling from both ends of a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..cells import Carry
from ..config.schema import Config, SamplingConfig
from ..data.batching.both import Both, Pair
from ..data.dataset import Data
from ..data.tokenizers.text import Tokenizer
from ..models.language_model import BidirectionalLanguageModel
from .base import Score
from .generation import check_prompt
from .lm import LanguageModeling, line_nll, scoring_streams, training_streams
from .penalties import Penalty
from .text import TextTask, line_ids, perplexity

DIRECTIONS = ("forward", "backward")


class BidirectionalLanguageModeling(TextTask):
    """Two language models, one in each direction: loss = -sum_t [ln p(w_t | w_<t) + ln p(w_t | w_>t)].

    Over a chunk of the text and one of the same text backwards; nats are per token and direction. `penalties` are
    those of LanguageModeling, on each of the two. M. E. Peters et al., arXiv 1802.05365.
    """

    model, writes = BidirectionalLanguageModel, True

    def __init__(self, *, penalties: Mapping[str, float | Callable[..., Penalty]] | None = None) -> None:
        self.one = LanguageModeling(penalties=penalties)

    def check(self, config: Config, model: nn.Module, data: Data) -> None:
        super().check(config, model, data)
        check_prompt(data.tokenizer, config.sample.prompt, "sample.prompt")

    def training(self, data: Data, config: Config) -> Both:
        return Both(partial(training_streams, data=data, config=config), data["train"].tokens)

    def batches(self, data: Data, split: str, batch_size: int, bptt: int, where: str = "") -> Both:
        cut = partial(scoring_streams, data=data, batch_size=batch_size, bptt=bptt, where=where)
        return Both(cut, data[split].tokens)

    def objective(
        self, model: BidirectionalLanguageModel, batch: Pair, carry: Carry
    ) -> tuple[Carry, Tensor, Tensor | None]:
        fwd, bwd = (self.one.objective(*of) for of in zip((model.fwd, model.bwd), batch, carry, strict=True))
        penalty = fwd[2] if bwd[2] is None else bwd[2] if fwd[2] is None else fwd[2] + bwd[2]
        return (fwd[0], bwd[0]), fwd[1] + bwd[1], penalty

    def score(self, model: BidirectionalLanguageModel, batch: Pair, carry: Carry, batches: Both) -> tuple[Carry, Score]:
        carries, total = [], Score()
        both = (batches.forward, batches.backward)
        for name, *of in zip(DIRECTIONS, (model.fwd, model.bwd), batch, carry, both, strict=True):
            new, score = self.one.score(*of)
            carries.append(new)
            nll: Any = score.loss_sum
            total.add(Score(nll, score.tokens, Counter({name: nll})))
        return tuple(carries), total

    def compute_metrics(self, score: Score, data: Data, split: str) -> dict[str, float]:
        """loss (nats per token and direction), ppl, and the perplexity of each direction by itself."""
        each = {f"{name}_ppl": perplexity(score.counts[name], score.tokens // 2) for name in DIRECTIONS}
        return {"loss": score.loss, "ppl": perplexity(score.loss_sum, score.tokens), **each}

    def display(self, model: BidirectionalLanguageModel, data: Data, options: SamplingConfig) -> str:
        return self.one.display(model.fwd, data, options)

    def language_models(self, model: BidirectionalLanguageModel) -> dict[str, Any]:
        return {"forward": model.fwd, "backward": model.bwd}

    def write(self, model: BidirectionalLanguageModel, tokenizer: Tokenizer, options: SamplingConfig) -> Iterator[str]:
        return self.one.write(model.fwd, tokenizer, options)

    def predict_texts(
        self, model: BidirectionalLanguageModel, tokenizer: Tokenizer, texts: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Nats of each in both directions, having read nothing else, and the perplexity of both together."""
        lines = [line_ids(tokenizer, text) for text in texts]
        # Backwards a line begins at its end, and ends at the end of the line before.
        flipped = [ids[-2::-1] + ids[-1:] if ids[-1] == tokenizer.eos_id else ids[::-1] for ids in lines]
        predictions = self.one.predict_texts(model.fwd, tokenizer, texts)
        for one, backward in zip(predictions, line_nll(model.bwd, tokenizer, flipped), strict=True):
            forward = one.pop("nll")
            both = perplexity(forward + backward, 2 * one["tokens"])
            one |= {"ppl": both, "forward_nll": forward, "backward_nll": backward}
        return predictions
