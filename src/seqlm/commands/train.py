"""seqlm train: compose a configuration from words and train it, or several with -m."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..config.compose import Choices, run_jobs
from ..config.schema import Config
from ..errors import SeqlmError, Stopped, broken_pipe, print_error
from ..runs.folder import check_free
from ..terminal import status


def main(words: Sequence[str]) -> None:
    """`seqlm train [group=option] [key=value] [-m]`."""
    exit_codes: list[int] = []

    def job(make: Callable[[], Config], choices: Choices, typed: list[str]) -> float | None:
        try:
            config = make()
            if config.resume != "auto":
                check_free(Path(config.run.root), config.run.name)
            with status("loading torch"):  # once the words are known to be right
                from ..training.launch import train

            return train(config, choices, typed).best
        except BrokenPipeError:
            raise SystemExit(broken_pipe()) from None
        except (SeqlmError, OSError) as error:
            exit_codes.append(print_error(error))
            if isinstance(error, Stopped):
                sys.exit(exit_codes[-1])  # a signal ends a sweep, a failed run does not
            return None

    run_jobs(words, job)
    if exit_codes:
        sys.exit(exit_codes[0])
