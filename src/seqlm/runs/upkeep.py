"""Upkeep of a run's checkpoints by who holds it: old ones deleted, leftovers of kills cleared, pointers corrected.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..files import remove
from .pointers import point, pointed, ranked, step_name, steps

OLD = ".old-"  # a checkpoint that is being replaced by one of the same step


def prune(folder: Path, *, keep_last: int, keep_best: int, keep_every: int | None) -> None:
    """Delete old checkpoints, never what `last` or `best` name."""
    saved = steps(folder)
    kept = {*saved[-keep_last:], *ranked(folder)[:keep_best]}
    kept |= {step for step in saved if keep_every and step and step % keep_every == 0}
    named = {pointed(folder, pointer) for pointer in ("last", "best")}
    for step in saved:
        if step not in kept and step_name(step) not in named:
            aside = folder / f".{step_name(step)}-old"  # hidden first: a kill leaves no part of it to be seen
            with suppress(OSError):
                (folder / step_name(step)).rename(aside)
            remove(aside)


def tidy(folder: Path) -> None:
    """Clear what a process that was killed while saving left behind; for who holds the run, not for readers."""
    for old in folder.glob(f"{OLD}step-*"):
        final = folder / old.name.removeprefix(OLD)
        if not final.exists():
            old.rename(final)
    for stale in folder.glob(".*step-*"):
        remove(stale)
    for stale in (*folder.glob(".last.*"), *folder.glob(".best.*")):
        stale.unlink(missing_ok=True)


def correct_pointers(
    folder: Path, newest: int, best_step: int | None, damage: Callable[[Path], str], warn: Callable[[str], None]
) -> None:
    """Make `last` and `best` say what is true at a resume from step `newest`, whose progress knows the best, if any.

    A kill may have come between a checkpoint and its pointer; either may be damaged. For who holds the run.

    Args:
        damage: that of a checkpoint, or an empty text, as `checkpoint.verify` tells it; the newest was verified
        warn: called with a line for a best one that is damaged: the next best takes its place
    """
    point(folder, "last", newest)
    there = [step for step in dict.fromkeys([best_step, *ranked(folder)]) if step is not None]
    there = [step for step in there if (folder / step_name(step)).is_dir()]
    for step in there:
        if step == newest or not (found := damage(folder / step_name(step))):
            point(folder, "best", step)
            return
        warn(f"checkpoint {folder / step_name(step)}, the best so far, is damaged ({found}); trying the next best")
    if there:  # a damaged one is refused with its damage, and gives way to the next that is better
        point(folder, "best", there[0])
    else:
        (folder / "best").unlink(missing_ok=True)
