"""seqlm resume: resume a run from its newest checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from ..config.schema import Config
from ..config.values import with_words
from ..runs.changes import check_changes
from ..runs.folder import RunFolder
from ..runs.sealed import saved_config
from ..terminal import status
from .words import run_and_words


def main(words: Sequence[str]) -> None:
    """`seqlm resume RUN [key=value ...]`."""
    folder, changes = run_and_words("resume", words)
    run = RunFolder.open(folder)
    saved = saved_config(run)
    check_changes(run, saved, with_words(Config, asdict(saved), changes))
    with status("loading torch"):  # once the run is there, and the words are known to be right
        from ..training.launch import resume
    resume(folder, changes)
