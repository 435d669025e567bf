"""The place among several processes that torchrun, or srun, gives this one in its environment. Imports no torch."""

from __future__ import annotations

import os
from typing import NamedTuple

from ..errors import ConfigError

USE = "start them with torchrun --standalone --nproc-per-node=N -m seqlm train ..."


class Launched(NamedTuple):
    """One of `world_size` processes that train together, and where they meet."""

    rank: int
    world_size: int
    address: str
    port: int


def launched() -> Launched | None:
    """The place of this process among several; None if it stands alone. Raises ConfigError for half a place."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    rank, count = _number("RANK"), _number("WORLD_SIZE")
    if not 0 <= rank < max(1, count):
        raise ConfigError(f"RANK={rank} should be from 0 to WORLD_SIZE-1={count - 1}; {USE}")
    if count == 1:
        return None
    if not os.environ.get("MASTER_ADDR"):
        raise ConfigError(f"RANK and WORLD_SIZE are set, but MASTER_ADDR, the machine of rank 0, is not; {USE}")
    return Launched(rank, count, os.environ["MASTER_ADDR"], _number("MASTER_PORT"))


def by_torchrun() -> bool:
    """Whether torchrun has started this process, and not srun or a shell."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdigit():
        raise ConfigError(f"{name}={text} in the environment should be a whole number; {USE}")
    return int(text)
