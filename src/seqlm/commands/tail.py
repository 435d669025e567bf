"""seqlm tail: watch a run or a sweep from any machine that sees its folder. Locks nothing; imports no torch."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..config.values import verb_config
from ..config.verb_schema import TailConfig
from ..runs.folder import OUTPUTS, RunFolder
from ..sweep.tail import watch_sweep
from ..training.tail import watch_run
from .words import run_and_words


def main(words: Sequence[str]) -> None:
    """`seqlm tail RUN|SWEEP [key=value]`: exit code 1 if it ended in a failure."""
    place, others = run_and_words("tail", words)
    options = verb_config("tail", TailConfig, others)
    folder = _folder(place)
    while options.wait and folder is None:
        time.sleep(1.0)
        folder = _folder(place)
    if folder is not None and not (folder / "run.json").is_file():
        failed = watch_sweep(folder, options)
    else:
        failed = watch_run(RunFolder.open(place), options)
    if failed:
        sys.exit(1)


def _folder(place: str) -> Path | None:
    """The folder of a run or a sweep, or of this name in outputs; None if there is none yet."""
    for folder in (Path(place).expanduser(), OUTPUTS / place):
        if (folder / "run.json").is_file() or (folder / ".sweep").is_dir():
            return folder
    return None
