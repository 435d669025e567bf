"""The processes that train one model together, each with its rows of every batch: ranks, as torch.distributed says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from ..errors import CallbackError, ConfigError, NonFiniteError, OutOfMemory, SeqlmError
from .watch import Watch

T = TypeVar("T")
KINDS = {kind.__name__: kind for kind in (SeqlmError, ConfigError, NonFiniteError, CallbackError, OutOfMemory)}
LOOK = timedelta(seconds=1)  # how often a rank that waits looks whether the others are still there, and for signals


class Ranks:
    """The ranks of one training, as seen from rank `rank` of `count`; what they say to each other.

    Rank 0 alone owns the folder, the logs and the terminal. A training in one process is rank 0 of 1, for which all
    of this is free. Every method but the properties must be called by all ranks, in the same order. They raise
    RankFailed if a rank has failed or is gone, which `watch` knows.
    """

    def __init__(self, rank: int = 0, count: int = 1, watch: Watch | None = None, store: Any = None) -> None:
        self.rank, self.count, self.watch, self._store = rank, count, watch, store

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def add(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all ranks, in place; the bits are the same in all of them."""
        if self.count > 1:
            self.begin_adding(tensor).wait()

    def begin_adding(self, tensor: Tensor) -> Pending:
        """`add` beside the computation: done once `wait()` of what it returns is back. Not for one rank alone."""
        return Pending(dist.all_reduce(tensor, async_op=True), self.watch if tensor.device.type == "cpu" else None)

    def highest(self, numbers: Sequence[float]) -> list[float]:
        """The highest of each of these numbers on all ranks."""
        if self.count == 1:
            return list(numbers)
        held = torch.tensor(numbers, dtype=torch.float64)
        Pending(dist.all_reduce(held, dist.ReduceOp.MAX, async_op=True), self.watch).wait()
        return held.tolist()

    def all(self, value: Any) -> list[Any]:
        """The values of all ranks, by rank: what JSON can hold."""
        if self.count == 1:
            return [value]
        text = json.dumps(value).encode()
        mine = torch.zeros(int(self.highest([len(text)])[0]), dtype=torch.uint8)
        mine[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        found = [torch.empty_like(mine) for _ in range(self.count)]
        Pending(dist.all_gather(found, mine, async_op=True), self.watch).wait()
        return [json.loads(bytes(one.tolist()).rstrip(b"\0")) for one in found]

    def first(self, value: Any) -> Any:
        """The value of rank 0: what JSON can hold."""
        return self.all(value if self.leads else None)[0]

    def settle(self, name: str, value: str) -> str:
        """The value that the first rank to come has given to this name; each comes when it likes, or never."""
        return value if self._store is None else self._store.compare_set(name, "", value).decode()

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
        """The tensors of all ranks, by rank, on the CPU of rank 0; None elsewhere. Their shapes may differ."""
        if self.count == 1:
            return [tensor]
        # As bytes: any type will do. Not by send and receive, which gloo cannot wait for a second at a time.
        mine = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        shapes = self.all(list(tensor.shape))
        sent = torch.zeros(int(self.highest([len(mine)])[0]), dtype=torch.uint8)
        sent[: len(mine)] = mine
        found = [torch.empty_like(sent) for _ in shapes] if self.leads else None
        Pending(dist.gather(sent, found, async_op=True), self.watch).wait()
        if found is None:
            return None
        size = tensor.element_size()
        return [
            one[: size * math.prod(shape)].view(tensor.dtype).reshape(shape)
            for one, shape in zip(found, shapes, strict=True)
        ]


class Pending:
    """An operation of all ranks that has begun. `watch` is left out where a GPU waits for it, not this thread."""

    def __init__(self, work: Any, watch: Watch | None) -> None:
        self._work, self._watch = work, watch

    def wait(self) -> None:
        """Wait for its end. Raises RankFailed if a rank is gone meanwhile."""
        if self._watch is None:
            self._work.wait()
            return
        while True:
            try:
                self._work.wait(LOOK)
                return
            except RuntimeError as error:  # a second is over, or a connection is broken
                broken = self._work.is_completed() and "timed out" not in str(error).lower()
                self._watch.check(5.0 if broken else 0.0)
                if broken:
                    raise SeqlmError(f"the ranks cannot reach each other any more ({error})") from None


ALONE = Ranks()
