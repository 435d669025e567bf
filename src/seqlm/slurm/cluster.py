"""SLURM's own commands: sbatch, squeue and scontrol, called with words and never through a shell."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import SeqlmError
from .options import Options
from .script import option_words

SECONDS = 60.0  # that a command may take: a busy controller takes some
SMALLEST_LIMIT = 1001  # of the size of an array, where the cluster does not say: SLURM's default
# States in which a job has ended; in any other it waits, runs or is about to.
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip


class SlurmError(SeqlmError):
    """A command of SLURM is missing, or has refused; told in its own words."""


class Task(NamedTuple):
    """A job as squeue sees it: its state, its node if it has one, and why it waits or has ended."""

    state: str
    node: str
    reason: str

    @property
    def ended(self) -> bool:
        return self.state in ENDED


def submit(script: Path, options: Options) -> str:
    """Submit a script; returns the number of the job. Raises SlurmError."""
    answer = _call(["sbatch", "--parsable", *option_words(options), str(script)])
    number = answer.strip().splitlines()[-1].partition(";")[0] if answer.strip() else ""
    if not number.isdigit():
        raise SlurmError(f"sbatch answered {answer.strip()!r} instead of the number of a job")
    return number


def queue(numbers: Collection[str]) -> dict[tuple[str, int | None], Task]:
    """The jobs of these numbers that SLURM still knows, by number and place in the array. Raises SlurmError."""
    if not numbers:
        return {}
    words = ["squeue", "--me", "--array", "--noheader", "--states=all", "--format=%F|%K|%T|%N|%r"]
    found: dict[tuple[str, int | None], Task] = {}
    for line in _call(words).splitlines():
        number, place, state, node, reason = (f"{line}||||".split("|"))[:5]
        if number.strip() in numbers:
            index = int(place) if place.strip().isdigit() else None
            found[number.strip(), index] = Task(state.strip(), node.strip(), reason.strip())
    return found


def requeue(number: str) -> None:
    """Put a job that runs back into the queue: it is stopped, and starts again later. Raises SlurmError."""
    _call(["scontrol", "requeue", number])


def largest_array() -> int:
    """How many tasks an array may have here."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _call(["scontrol", "show", "config"]), re.M)
    return int(found[1]) if found else SMALLEST_LIMIT


def _call(words: Sequence[str]) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except FileNotFoundError:
        raise SlurmError(f"{words[0]} is not on the PATH: this machine does not submit to SLURM") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{words[0]} did not answer within {SECONDS:.0f} seconds") from None
    except OSError as error:
        raise SlurmError(f"{words[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise SlurmError("\n".join(said[:4] or [f"{words[0]} ended with code {done.returncode}"]))
    return done.stdout
