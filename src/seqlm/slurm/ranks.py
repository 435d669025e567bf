"""Ranks of data parallel training in one batch job: torchrun, which lets the job's warning through to them."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def run_ranks(count: int, command: Sequence[str]) -> int:
    """Run `torchrun --standalone --nproc-per-node=COUNT COMMAND` here; returns the exit code of its ranks.

    torchrun itself would die of SIGUSR1 and leave with code 1 whatever its ranks did. Here they all get the signal,
    and the first of them that did not end with 0 decides the code.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    before = signal.signal(signal.SIGUSR1, lambda number, frame: _tell_ranks(number))
    try:
        run(parse_args(["--standalone", f"--nproc-per-node={count}", *command]))
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code
    except SignalException as error:
        return 128 + error.sigval
    finally:
        signal.signal(signal.SIGUSR1, before)
    return 0


def _tell_ranks(number: int) -> None:
    """Send a signal to each process that this one has started."""
    for file in Path("/proc/self/task").glob("*/children"):
        for child in file.read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), number)
