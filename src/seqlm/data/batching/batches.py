"""The interface of data to a training loop: batches, a number of them in an epoch, each target in one of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch

from ...errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Self

IGNORE_INDEX = -100  # a target that is not scored; the number of torch.nn.functional.cross_entropy


B = TypeVar("B", bound="Batch")


class Batch(Protocol):
    """The tensors that a model reads in one step. A task knows its fields, the loop only these."""

    @property
    def tokens(self) -> int:
        """Targets that count."""

    @property
    def batch_size(self) -> int:
        """Sequences read side by side."""

    def to(self, device: torch.device) -> Self:
        """The batch on the device that computes."""

    def parts(self, count: int) -> list[Self]:
        """`count` batches of some of the sequences each, cut as torch.chunk cuts."""


def share(batch: B, rank: int, count: int) -> B | None:
    """The rows of a batch that process `rank` of `count` reads; None if there are too few for all of them."""
    if count == 1:
        return batch
    parts = batch.parts(count)
    return parts[rank] if rank < len(parts) else None


class Batches(ABC):
    """The batches of a split, in an order that follows from the epoch's number."""

    batch_size: int  # sequences of a batch
    targets: Any  # target tokens of an epoch

    @abstractmethod
    def start_epoch(self, epoch: int) -> None:
        """Arrange the batches of this epoch."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of batches in this epoch."""

    @abstractmethod
    def __getitem__(self, index: int) -> Any:
        """A batch of this epoch."""

    def count(self, epoch: int) -> int:
        """The number of batches in an epoch: the same in all, unless overridden."""
        return len(self)

    def lr_scale(self, index: int) -> float:
        """The factor on the learning rate for this batch: 1, unless overridden."""
        return 1.0


def require_positive(where: str, **sizes: int) -> None:
    """Raise ConfigError, naming the key under `where`, unless every size is at least 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"{where}{name}={size} must be at least 1")
