"""Which checkpoint of a run is meant: `last`, `best`, one of a step, the newest few; and what is told if none is there.

Whoever trains the run may delete a checkpoint at any moment of the reading: then it is the next one's turn. No torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ConfigError
from ..files import MB, read_bounded
from .checkpoint import Checkpoint, Damaged, Deleted, digests, open_verified, parse_meta
from .pointers import pointed, step_name, steps

ATTEMPTS = 5  # to read a checkpoint of a run that is being trained, which deletes older ones
T = TypeVar("T")


class NoneWhole(ConfigError):
    """No checkpoint of a run is whole."""


def find(folder: Path, which: str, warn: Callable[[str], None]) -> Checkpoint:
    """The checkpoint `last` (the newest that is whole), `best`, or of a step number.

    Damaged ones are skipped with a word to `warn` when looking for `last`, refused otherwise. Raises
    ConfigError if there is none, or if one was written by another format version.
    """
    if which == "last":
        return newest(folder, 1, warn)[0]

    def read() -> Checkpoint:
        path = locate(folder, which)
        try:
            return open_verified(path)
        except Damaged as damage:
            raise ConfigError(
                f"{path} is damaged ({damage}); use checkpoint=last for the newest that is whole"
            ) from None

    return while_it_is_there(read, lambda text: None)


def while_it_is_there(read: Callable[[], T], warn: Callable[[str], None]) -> T:
    """The result of `read`, which finds checkpoints and reads them; done anew where one is deleted meanwhile.

    Raises ConfigError if that happens again and again.
    """
    for _ in range(ATTEMPTS):
        try:
            return read()
        except Deleted as error:
            gone = error
            warn(f"{gone}; trying the next one")
    raise ConfigError(f"{gone}, {ATTEMPTS} times in turn; try again")


def check_exists(folder: Path, which: str) -> None:
    """Raise ConfigError if `find` would find nothing to read; what is there is not verified."""
    if which != "last":
        locate(folder, which)
    elif not steps(folder):
        raise _none_whole(folder)


def locate(folder: Path, which: str) -> Path:
    """The folder of the checkpoint `best`, or of a step, not verified; raises ConfigError if there is none."""
    name = step_name(int(which)) if which.isdecimal() else pointed(folder, "best") if which == "best" else None
    if name is None or not (folder / name).is_dir():
        pointers = [pointer for pointer in ("best", "last") if pointed(folder, pointer)]
        there = ", ".join([*pointers, *(str(step) for step in steps(folder))]) or "none"
        raise ConfigError(f"checkpoint={which} does not exist in {folder}; there are: {there}")
    return folder / name


def newest(folder: Path, count: int, warn: Callable[[str], None]) -> list[Checkpoint]:
    """The newest `count` checkpoints that are whole, oldest first; damaged ones are skipped with a word to `warn`.

    Raises ConfigError if there are fewer.
    """
    found = list(islice(whole(folder, warn), count))[::-1]
    if len(found) == count:
        return found
    if count == 1:
        raise _none_whole(folder)
    there = f"{len(found)} whole checkpoints ({', '.join(str(one.step) for one in found) or 'none'})"
    raise ConfigError(
        f"average_last={count} needs more than the {there} in {folder}; use average_last={len(found)}, or train with "
        f"checkpoint.keep_last={count} or with checkpoint.keep_every=STEPS"
    )


def whole(folder: Path, warn: Callable[[str], None]) -> Iterator[Checkpoint]:
    """Every checkpoint that is whole, the newest first; damaged ones are skipped with a word to `warn`."""
    for step in reversed(steps(folder)):
        path = folder / step_name(step)
        try:
            found = open_verified(path)
        except Deleted:
            continue
        except Damaged as damage:
            warn(f"checkpoint {path} is damaged ({damage}); trying the one before")
        else:
            yield found


def best_step(folder: Path) -> int:
    """The step of the best checkpoint; raises ConfigError if there is none."""
    try:
        return int((pointed(folder, "best") or "").removeprefix("step-"))
    except ValueError:
        raise ConfigError(f"{folder.parent} has no best checkpoint yet: it has not been evaluated") from None


def newest_meta(folder: Path) -> dict[str, Any] | None:
    """The newest meta.json that is as its manifest says, without a look at the weights; None if there is none."""
    for step in reversed(steps(folder)):
        path = folder / step_name(step)
        with suppress(OSError, ValueError, ConfigError):
            text = read_bounded(path / "meta.json", 16 * MB)
            if digests(path).get("meta.json") == hashlib.sha256(text).hexdigest():
                return parse_meta(text)
    return None


def _none_whole(folder: Path) -> ConfigError:
    return NoneWhole(f"{folder} holds no whole checkpoint; seqlm resume {folder.parent} starts it from step 0")
