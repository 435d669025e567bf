"""Cloze: masked tokens, seen from both sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..cells import Carry
from ..config.metrics import ACCURACY, PERPLEXITY
from ..config.schema import Config, SamplingConfig
from ..data.batching.batches import IGNORE_INDEX
from ..data.batching.gaps import Gaps
from ..data.batching.streams import Chunk
from ..data.dataset import Data
from ..data.tokenizers.text import Tokenizer
from ..errors import ConfigError
from ..models.cloze_model import ClozeModel
from .base import Score, evaluating, whole_sequences
from .text import TextTask, line_ids, perplexity

MASK = "<mask>"  # how a gap is written in a line
BEST = 5  # fillers predicted for each gap
SHOWN = 30  # tokens of valid at each evaluation
ROWS = 64  # of a line, each with another token masked, that are read together


class Cloze(TextTask):
    """Masked tokens of a text: loss = -sum ln p(w_t | the tokens that are not masked) over those that are.

    A text is read in pieces of `train.bptt` tokens, each by itself. To learn from, a share `mask` of each is masked,
    drawn anew in every epoch. To be scored, a piece is read round(1 / mask) times, with a share of it masked, so that
    every token of the text is a target once; its perplexity is no probability of the text, and lower than that of a
    language model, which sees one side only. `monitor`: the metric on valid that chooses weights: loss or accuracy.
    """

    model = ClozeModel
    stateful = False
    metrics = (PERPLEXITY, ACCURACY)
    inference_options = ("mask",)

    def __init__(self, *, mask: float = 0.15, monitor: Literal["loss", "accuracy"] = "loss") -> None:
        if not 0 < mask <= 0.5:
            raise ValueError(f"mask={mask} must be above 0, and 0.5 at most")
        self.mask, self.monitor = mask, monitor

    def check(self, config: Config, model: nn.Module, data: Data) -> None:
        super().check(config, model, data)
        whole_sequences(config, type(self).__name__, "pieces by themselves")
        if config.sample.prompt:
            raise ConfigError(
                f"sample.prompt={config.sample.prompt!r} does nothing: Cloze shows the beginning of valid"
            )

    def training(self, data: Data, config: Config) -> Gaps:
        options, gap = config.train, len(data.tokenizer)
        tokens, seed = data["train"].tokens, config.seed
        return Gaps(tokens, options.batch_size, options.bptt, mask=gap, share=self.mask, seed=seed, where="train.")

    def batches(self, data: Data, split: str, batch_size: int, bptt: int, where: str = "") -> Gaps:
        return Gaps(data[split].tokens, batch_size, bptt, mask=len(data.tokenizer), share=self.mask, where=where)

    def objective(self, model: ClozeModel, batch: Chunk, carry: Carry) -> tuple[Carry, Tensor, Tensor | None]:
        return (*model.nll(batch.inputs, batch.targets, carry, ignore_index=IGNORE_INDEX), None)

    def score(self, model: ClozeModel, batch: Chunk, carry: Carry, batches: Gaps) -> tuple[Carry, Score]:
        places = batch.targets != IGNORE_INDEX
        reading, targets = model.at(model.read(batch.inputs, carry), places), batch.targets[places].unsqueeze(1)
        logs = model.log_softmax(reading)
        right = int((logs.argmax(-1) == targets).sum())
        return carry, Score(-logs.gather(-1, targets.unsqueeze(-1)).sum().item(), batch.tokens, Counter(right=right))

    def compute_metrics(self, score: Score, data: Data, split: str) -> dict[str, float]:
        """loss (nats per token), ppl, accuracy: the share of tokens that the model finds most probable."""
        accuracy = score.counts["right"] / score.tokens
        return {"loss": score.loss, "ppl": perplexity(score.loss_sum, score.tokens), "accuracy": accuracy}

    def display(self, model: ClozeModel, data: Data, options: SamplingConfig) -> str:
        """The beginning of valid with its gaps, [target], or [target: prediction] where the two differ."""
        if not options.tokens:
            return ""
        chunk = self.batches(data, "valid", 1, SHOWN)[0].to(next(model.parameters()).device)
        with evaluating(model):
            predictions = model(chunk.inputs, ())[1].argmax(-1).squeeze(1).tolist()
        decode, shown = data.tokenizer.decoder(), []
        inputs, targets = chunk.inputs[:, 0].tolist(), chunk.targets[:, 0].tolist()
        for read, target, prediction in zip(inputs, targets, predictions, strict=True):
            text = decode(read if target == IGNORE_INDEX else target)
            right, filler = (one if one.strip() else repr(one) for one in (text, data.tokenizer.decode([prediction])))
            gap = f"[{right}]" if prediction == target else f"[{right}: {filler.strip()}]"
            shown.append(text if target == IGNORE_INDEX else gap)
        return "".join(shown)

    def predict_texts(self, model: ClozeModel, tokenizer: Tokenizer, texts: Sequence[str]) -> list[dict[str, Any]]:
        """One after the other: each is read many times."""
        return [self.answer(model, tokenizer, text) for text in texts]

    def answer(self, model: ClozeModel, tokenizer: Tokenizer, text: str) -> dict[str, Any]:
        """Of a line with gaps, written <mask>, the most probable fillers; of one without, the nats of its tokens.

        Nats are those of each token when it alone is masked.
        """
        if tokenizer.kind == "byte" and MASK in text:
            raise ConfigError(f"{MASK} fills words or characters; the vocabulary of this run is bytes")
        gap = len(tokenizer)
        pieces = [tokenizer.encode(piece) for piece in text.split(MASK)]
        ids = [token for piece in pieces[:-1] for token in (*piece, gap)] + line_ids(tokenizer, text.split(MASK)[-1])
        if not ids or ids == [tokenizer.eos_id]:
            return {"error": "empty"}
        ids = ids if ids[-1:] == [tokenizer.eos_id] else [*ids, tokenizer.eos_id]
        read = torch.tensor([tokenizer.eos_id, *ids], device=next(model.parameters()).device).unsqueeze(1)
        if MASK in text:
            found = model.log_softmax(model.at(model.read(read, ()), read == gap)).exp().squeeze(1).topk(min(BEST, gap))
            rows = zip(found.values.tolist(), found.indices.tolist(), strict=True)
            fillers = [[{"token": tokenizer.vocabulary[i], "p": p} for p, i in zip(*row, strict=True)] for row in rows]
            return {"fillers": fillers}
        nll = 0.0
        for some in torch.arange(1, len(ids), device=read.device).split(ROWS):  # token by token, the end excepted
            alone = torch.arange(len(read), device=read.device).unsqueeze(1) == some  # (T, B)
            targets = torch.where(alone, read, IGNORE_INDEX)
            nll += model.nll(read.masked_fill(alone, gap), targets, (), ignore_index=IGNORE_INDEX)[1].item()
        return {"nll": nll, "tokens": len(ids) - 1, "ppl": perplexity(nll, len(ids) - 1)}
