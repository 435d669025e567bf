"""The batch script that is submitted: a person can read it, and submit it again by hand."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence

from ..config.verb_schema import SlurmConfig
from .options import Options

WARNED = "trap 'scontrol requeue \"$SLURM_JOB_ID\"; exit' USR1  # until seqlm is there to answer it"


def batch_script(
    config: SlurmConfig, options: Options, about: Sequence[str], command: Sequence[str], before: Sequence[str] = ()
) -> str:
    """The whole script.

    Args:
        about: lines that say what it runs, as comments.
        command: a line of shell behind `python -m seqlm.batch`, its words quoted already.
        before: lines of shell that the command needs.
    """
    ranks = [f"--ranks={config.gpus}"] if config.gpus and config.gpus > 1 else []
    python = config.python or shlex.quote(sys.executable)
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {option_line(key, value)}" for key, value in options.items()),
            *(f"# {comment(line)}" for line in about),
            WARNED,
            *config.setup,
            *before,
            " ".join(["exec", python, "-m seqlm.batch", *ranks, *command]),
            "",
        ]
    )


def option_words(options: Options) -> list[str]:
    """Options as words of a command line, where they decide over variables such as SBATCH_PARTITION."""
    return [f"--{key}" if value is None else f"--{key}={value}" for key, value in options.items()]


def option_line(key: str, value: str | None) -> str:
    """An option as sbatch reads it in a script: quoted where a space would end it, or # begin a comment."""
    if value is None:
        return f"--{key}"
    if re.fullmatch(r"[\w.,:+@%/*&|()\[\]=-]+", value, re.ASCII):
        return f"--{key}={value}"
    escaped = re.sub(r'(["\\])', r"\\\1", value)
    return f'--{key}="{escaped}"'


def comment(text: str) -> str:
    """A text on one line, whatever is in it: behind a line feed the rest would be a command."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
