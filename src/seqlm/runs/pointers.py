"""The pointers `last` and `best` of a run: small files beside its checkpoints, each of which names one. No torch.

A kill can come between a checkpoint and its pointer, and a pointer can be damaged: then it is not believed, and who
holds the run writes it again.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import ConfigError
from ..files import free_path, read_bounded, read_json, write_atomically

NAME = re.compile(r"step-\d+")


def step_name(step: int) -> str:
    """The folder of a checkpoint, below `checkpoints`."""
    return f"step-{step:09d}"


def steps(folder: Path) -> list[int]:
    """The steps there are checkpoints of, whole or not, in order."""
    names = (path.name.removeprefix("step-") for path in folder.glob("step-*") if path.is_dir())
    return sorted(int(name) for name in names if name.isdecimal())


def pointed(folder: Path, pointer: str) -> str | None:
    """The checkpoint that a pointer names.

    None if there is no such pointer. One that names no checkpoint of the run, whatever is in it, is answered with
    what it should name: the newest checkpoint, or the best of those that were evaluated.
    """
    file = folder / pointer
    try:
        name = read_bounded(file, 100).decode().strip()
    except (OSError, ValueError, ConfigError):
        name = ""
    if NAME.fullmatch(name) and (folder / name).is_dir():
        return name
    if not file.exists():
        return None
    found = steps(folder)[-1:] if pointer == "last" else ranked(folder)[:1]
    return step_name(found[0]) if found else None


def point(folder: Path, pointer: str, step: int) -> None:
    """Make a pointer name the checkpoint of a step, whatever was in its place. For who holds the run."""
    file, text = folder / pointer, step_name(step) + "\n"
    if file.is_dir() and not file.is_symlink():
        file.rename(free_path(folder.parent / f"{pointer}.damaged"))
    try:
        if read_bounded(file, 100) == text.encode():
            return
    except (OSError, ConfigError):
        pass
    write_atomically(file, text)


def ranked(folder: Path) -> list[int]:
    """The steps of the checkpoints that were evaluated, the best first."""
    ranks = {step: _rank(folder / step_name(step)) for step in steps(folder)}
    return sorted((step for step in ranks if ranks[step]), key=lambda step: (ranks[step], step))


def _rank(path: Path) -> list[float]:
    """How good an evaluated checkpoint is, the best first; empty if it was not evaluated."""
    try:
        rank = read_json(path / "meta.json").get("rank")
        return [float(one) for one in rank or []]
    except (OSError, ValueError, TypeError, AttributeError, ConfigError):
        return []
