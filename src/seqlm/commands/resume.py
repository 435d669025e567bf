"""seqlm resume: resume a run from its newest checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from ..config.schema import Config
from ..config.values import with_words
from ..runs.changes import check_changes
from ..runs.folder import RunFolder
from ..runs.sealed import saved_config
from ..slurm.options import slurm_words
from ..slurm.single import submit_run
from ..terminal import status
from ..training.torchrun import launched
from .words import run_and_words


def main(words: Sequence[str]) -> None:
    """`seqlm resume RUN [key=value ...] [slurm=true slurm.key=value ... [--print]]`."""
    slurm, words, print_only = slurm_words(words)
    if slurm is not None:
        folder, changes = _checked(words)
        submit_run(RunFolder.open(folder).path, slurm, None, changes, print_only)
        return
    if not launched():
        folder, changes = _checked(words)
        with status("loading torch"):  # once the run is there, and the words are known to be right
            from ..training.launch import resume
        resume(folder, changes)
        return
    from ..training.joining import joined
    from ..training.launch import resume

    with joined() as ranks:
        folder, changes = _checked(words)
        resume(folder, changes, ranks=ranks)


def _checked(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The run's folder and the words that change its keys, once they are known to be right."""
    folder, changes = run_and_words("resume", words)
    run = RunFolder.open(folder)
    saved = saved_config(run)
    check_changes(run, saved, with_words(Config, asdict(saved), changes))
    return folder, changes
