"""The part of a training that each rank has for itself: rows of every batch, their carry, random numbers.

All ranks have the same weights, averages, optimizer and schedule, and the same batches: the order of examples and the
lengths of chunks follow from the seed and the epoch alone. Each reads its rows, in order of rank, and draws all that
belongs to rows from torch's generator, of which every rank has one of its own: masks of dropout, words that become
unknown, conditions that are left out, states that are dropped (train.drop_state), words that a decoder draws
(scheduled sampling; how many follows from the schedule, alike on all ranks). A mask that holds for a whole chunk, of
word types or of recurrent weights, is one for each rank, as it is one for each part with train.accumulate. Penalties
are means over rows times their number, so that those of ranks add up, as those of parts do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..cells import Carry, carry_tensors
from ..config.schema import Config
from ..device import random_state, set_random_state
from ..errors import ConfigError, SeqlmError
from ..runs.checkpoint import weights_of
from ..tasks.base import Score
from .distributed import Ranks

RandomState = dict[str, Tensor]  # of the generators of a rank, by kind of device
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes, to add up bits


def check_batch_size(config: Config, ranks: Ranks) -> None:
    """Raise ConfigError unless every rank gets as many rows as any other."""
    size, count = config.train.batch_size, ranks.count
    if size % count:
        below = size - size % count
        sizes = (below, below + count) if below else (count, 2 * count)
        raise ConfigError(
            f"train.batch_size={size} cannot be shared out evenly over {count} ranks; "
            f"use train.batch_size={sizes[0]} or {sizes[1]}, or another --nproc-per-node"
        )


def check_model(model: nn.Module, ranks: Ranks) -> None:
    """Raise ConfigError for a module whose gradient is not the sum of those of its rows, or cannot be added up."""
    for name, module in model.named_modules() if ranks.count > 1 else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(
                f"{name} is a {type(module).__name__}: its statistics would be those of one rank's rows instead of the "
                "batch's; train it in one process, or normalise each row by itself (LayerNorm)"
            )
        if getattr(module, "sparse", False):
            raise ConfigError(f"{name} has sparse gradients, which ranks cannot add up; build it with sparse=False")


def draw_apart(seed: int, rank: int, step: int = 0) -> None:
    """Give torch's generators numbers of this rank's own. Rank 0 keeps those that a training in one process has."""
    if rank:
        torch.manual_seed(int(np.random.SeedSequence([seed, rank, step]).generate_state(1, np.uint64)[0]))


def own_rows(carry: list[Tensor], ranks: Ranks) -> Iterator[Tensor]:
    """This rank's rows of the tensors of a carry."""
    return (tensor.chunk(ranks.count)[ranks.rank] for tensor in carry)


def all_rows(carry: Carry, ranks: Ranks) -> list[Tensor]:
    """The tensors of the carry of all rows, on rank 0; nothing elsewhere."""
    gathered = [ranks.gather(tensor.cpu()) for tensor in carry_tensors(carry)]
    return [torch.cat(rows) for rows in gathered if rows is not None]


def random_states(device: torch.device, ranks: Ranks) -> list[RandomState]:
    """The states of all ranks' generators, by rank, on rank 0; nothing elsewhere."""
    gathered = {name: ranks.gather(state) or [] for name, state in random_state(device).items()}
    return [dict(zip(gathered, states, strict=True)) for states in zip(*gathered.values(), strict=True)]


def restore_random(states: list[RandomState], device: torch.device, ranks: Ranks, seed: int, step: int) -> str:
    """Put this rank's generators back to where they were; returns a line if there were more ranks, or fewer."""
    if ranks.rank < len(states):
        set_random_state(states[ranks.rank], device)
    else:
        draw_apart(seed, ranks.rank, step)
    if ranks.count == len(states):
        return ""
    before, now = (f"{count} ranks" if count > 1 else "one process" for count in (len(states), ranks.count))
    return (
        f"trained by {before} so far, now by {now}: the rows of the batch are shared out again; masks are drawn for "
        "other rows and sums added in another order, so from here on its bits will differ"
    )


def add_scores(score: Score, ranks: Ranks) -> Score:
    """The sums of all ranks; partial if any of them is."""
    if ranks.count == 1:
        return score
    total, counts = Score(), [[key, number] for key, number in score.counts.items()]
    for loss_sum, tokens, partial, pairs in ranks.all([score.loss_sum, score.tokens, score.partial, counts]):
        total.add(Score(loss_sum, tokens, Counter({_hashable(key): number for key, number in pairs})))
        total.partial |= partial
    return total


def _hashable(key: Any) -> Any:
    """A key of counts, of which JSON has made lists."""
    return tuple(map(_hashable, key)) if isinstance(key, list) else key


def check_same_weights(model: nn.Module, ranks: Ranks) -> None:
    """Raise SeqlmError if ranks have come to different weights: then they train different models."""
    if ranks.count == 1:
        return
    weights = weights_of(model)
    first, *others = ranks.all(_sums_of_bits(weights))
    for rank, sums in enumerate(others, 1):
        different = [name for name, one, another in zip(weights, first, sums, strict=True) if one != another]
        if different:
            raise SeqlmError(
                f"rank {rank} has other weights than rank 0 ({different[0]}): nothing is saved of them.\n"
                "A callback that changes what is trained has to do so on every rank (everywhere = True)"
            )


def _sums_of_bits(weights: Mapping[str, Tensor]) -> list[int]:
    """A number for each tensor, which differs if any bit does, but for a chance of 2^-32 or so."""
    sums = [one.contiguous().view(INTEGERS[one.element_size()]).sum(dtype=torch.int64) for one in weights.values()]
    return [int(one) for one in torch.stack(sums).tolist()]
