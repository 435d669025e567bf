"""Regression: numbers for every sequence, or for each of its steps."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Literal

import torch

from ..cells import Carry, padding_mask
from ..config.metrics import Metric
from ..data.batching.bucketed import Bucketed, ExampleBatch
from ..data.dataset import Data
from ..data.tokenizers.examples import ExampleTokenizer
from ..models.sequence_model import SequenceModel
from ..models.value_head import ValueHead
from .base import Score
from .examples import Encoded, ExampleTask, Prediction

SUMS = ("known", "missing", "absolute", "squared", "target", "target squared")  # for each output


class Regression(ExampleTask):
    """Numbers for every sequence or step: the loss is that of the head, squared errors or nats of a Gaussian.

    A target that is NaN is missing: it has no part in loss and metrics, and is counted. `monitor` is the metric that
    weights are chosen by on valid: rmse, mae, r2 or loss. All are sums over the targets of a split, divided once.
    """

    head = ValueHead
    targets = ("value",)
    metrics = (
        Metric("rmse", higher_is_better=False, title="RMSE"),
        Metric("mae", higher_is_better=False, title="MAE"),
        Metric("r2", title="R2"),
    )
    reported = ("rmse", "mae", "r2")

    def __init__(self, *, monitor: Literal["rmse", "mae", "r2", "loss"] = "rmse") -> None:
        self.monitor = monitor

    def predict(self, model: SequenceModel, encoded: Encoded, tokenizer: ExampleTokenizer) -> list[Prediction]:
        """`value` of each example, and `deviation` of a Gaussian: a number, K of them, or a list of either."""
        names = ("value", "deviation")
        found = {name: one for name, one in zip(names, model.head.values(*encoded), strict=True) if one is not None}
        lengths = encoded[1].tolist() if model.head.steps else [1] * len(encoded[1])
        return [
            {name: shaped(one[:length, index], model.head.steps) for name, one in found.items()}
            for index, length in enumerate(lengths)
        ]

    def score(self, model: SequenceModel, batch: ExampleBatch, carry: Carry, batches: Bucketed) -> tuple[Carry, Score]:
        ys, lengths = model.encode(batch)
        target, prediction = batch["value"].double(), model.head.values(ys, lengths)[0].double()
        known = ~target.isnan()
        there = torch.ones_like(known)
        if model.head.steps:
            there &= ~padding_mask(len(target), lengths).unsqueeze(-1)
        target = target.nan_to_num()
        error = (prediction - target).masked_fill(~known, 0)
        sums = (known, there & ~known, error.abs(), error.square(), target, target.square())
        counts: Counter[Any] = Counter()
        for name, one in zip(SUMS, sums, strict=True):
            counts.update({(name, k): number for k, number in enumerate(one.double().sum((0, 1)).tolist())})
        return carry, Score(model.head.loss_sum(ys, lengths, batch).item(), batch.tokens, counts)

    def compute_metrics(self, score: Score, data: Data, split: str) -> dict[str, float]:
        """loss (of the head, per number), rmse, mae, r2 over all numbers; R2 = 1 - squared errors / squares about the
        mean of each output."""
        return {"loss": score.loss, **_errors(_outputs(score))}

    def facts(self, score: Score, data: Data, split: str) -> dict[str, float]:
        """`missing`: how many targets are NaN."""
        return {"missing": int(sum(one["missing"] for one in _outputs(score)))}

    def report(self, score: Score) -> dict[str, Any]:
        """`outputs`: the metrics of each, its number of targets (`support`) and of those `missing`."""
        rows = [
            {"output": k, **_errors([one]), "support": int(one["known"]), "missing": int(one["missing"])}
            for k, one in enumerate(_outputs(score))
        ]
        return {"outputs": rows}


def shaped(values: torch.Tensor, steps: bool) -> Any:
    """Numbers (T, K) as lists, without the axes of one: of time for the whole, of outputs if there is one."""
    values = values if values.shape[1] > 1 else values.squeeze(1)
    return values.tolist() if steps else values[0].tolist()


def _outputs(score: Score) -> list[dict[str, float]]:
    """The sums of each output."""
    count = 1 + max(k for _, k in score.counts)
    return [{name: float(score.counts[name, k]) for name in SUMS} for k in range(count)]


def _errors(outputs: list[dict[str, float]]) -> dict[str, float]:
    """rmse, mae and r2 of some outputs together; of targets that are all alike r2 is 1 without errors, else 0."""
    known = sum(one["known"] for one in outputs)
    if not known:
        return {"rmse": math.nan, "mae": math.nan, "r2": math.nan}
    squared = sum(one["squared"] for one in outputs)
    spread = sum(one["target squared"] - one["target"] ** 2 / one["known"] for one in outputs if one["known"])
    return {
        "rmse": math.sqrt(squared / known),
        "mae": sum(one["absolute"] for one in outputs) / known,
        "r2": 1 - squared / spread if spread > 0 else float(squared == 0),
    }
