"""The processes that train one model together, each with its rows of every batch: ranks, as torch.distributed says."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from ..errors import CallbackError, ConfigError, NonFiniteError, OutOfMemory, SeqlmError

T = TypeVar("T")
KINDS = {kind.__name__: kind for kind in (SeqlmError, ConfigError, NonFiniteError, CallbackError, OutOfMemory)}


class Ranks:
    """The ranks of one training, as seen from rank `rank` of `count`; what they say to each other.

    Rank 0 alone owns the folder, the logs and the terminal. A training in one process is rank 0 of 1, for which all
    of this is free. Every method but the properties must be called by all ranks, in the same order.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def add(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all ranks, in place; the bits are the same in all of them."""
        if self.count > 1:
            dist.all_reduce(tensor)

    def begin_adding(self, tensor: Tensor) -> Any:
        """`add` beside the computation: done once `wait()` of what it returns is back. Not for one rank alone."""
        return dist.all_reduce(tensor, async_op=True)

    def highest(self, numbers: Sequence[float]) -> list[float]:
        """The highest of each of these numbers on all ranks."""
        if self.count == 1:
            return list(numbers)
        held = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(held, dist.ReduceOp.MAX)
        return held.tolist()

    def all(self, value: Any) -> list[Any]:
        """The values of all ranks, by rank: what JSON can hold."""
        if self.count == 1:
            return [value]
        texts: list[str] = [""] * self.count
        dist.all_gather_object(texts, json.dumps(value))
        return [json.loads(text) for text in texts]

    def first(self, value: Any) -> Any:
        """The value of rank 0: what JSON can hold."""
        return self.all(value if self.leads else None)[0]

    def lead(self, do: Callable[[], T]) -> T | None:
        """Call `do` on rank 0 alone, while the others wait; what it raises there is an error of all ranks."""
        if self.count == 1:
            return do()
        done, failed = None, None
        try:
            if self.leads:
                done = do()
        except Exception as error:
            failed = [type(error).__name__, str(error)]
            raise
        finally:
            told = self.first(failed)
        if told is not None:
            raise KINDS[told[0]](told[1]) if told[0] in KINDS else SeqlmError(f"rank 0: {told[0]}: {told[1]}")
        return done

    def gather(self, tensor: Tensor) -> list[Tensor] | None:
        """The tensors of all ranks, by rank, on rank 0; None elsewhere. They may differ in their first size."""
        if self.count == 1:
            return [tensor]
        sizes = self.all(list(tensor.shape))
        if not self.leads:
            dist.send(tensor.contiguous(), 0)
            return None
        found = [tensor]
        for rank in range(1, self.count):
            found.append(torch.empty(sizes[rank], dtype=tensor.dtype, device=tensor.device))
            dist.recv(found[-1], rank)
        return found


ALONE = Ranks()
