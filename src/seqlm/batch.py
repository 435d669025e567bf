"""The command line inside a batch job: `python -m seqlm.batch [--ranks=N] VERB WORDS`, or `job FOLDER DIGEST`.

A run that SLURM has warned (SIGUSR1) saves and leaves with code 138; then the job is put back into the queue, and
resumes when it starts again. A job that ends with any other code is left as it is: finished, failed, or SLURM's matter.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

REQUEUED = 128 + signal.SIGUSR1  # the exit code of a run that the warning has stopped


def main() -> NoReturn:
    """Run the words of this command line, with N ranks if that is asked for, and requeue the job if it was warned."""
    signal.signal(signal.SIGUSR1, _leave)  # as long as nobody else answers it
    words, ranks = sys.argv[1:], 1
    if words and words[0].startswith("--ranks="):
        ranks = int(words.pop(0).partition("=")[2])
    code = 0
    try:
        _run(words, ranks)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # an interpreter that is ending would die of it, its run finished
    if code == REQUEUED and "RANK" not in os.environ:  # of several ranks, who started them does it
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM's answer ends this process, and scontrol with it
        code = _requeue()
    sys.exit(code)


def _run(words: list[str], ranks: int) -> None:
    if words[:1] == ["job"]:
        from .cli import exit_codes
        from .slurm.task import run_job
        from .training.signals import LeaveOnSignal

        with exit_codes(), LeaveOnSignal():
            run_job(words[1:], ranks)
    elif ranks > 1:
        from .slurm.ranks import run_ranks

        sys.exit(run_ranks(ranks, ["-m", "seqlm", *words]))
    else:
        from .cli import main as command_line

        sys.argv = ["seqlm", *words]
        command_line()


def _requeue() -> int:
    """Ask SLURM to start this job again; returns the exit code."""
    from .errors import print_error
    from .slurm.cluster import SlurmError, requeue

    sys.stdout.flush()
    try:
        requeue(os.environ.get("SLURM_JOB_ID", ""))
    except SlurmError as error:
        print_error(SlurmError(f"the run is saved, but its job cannot be requeued: {error}"))
        print("submit it again: it resumes", file=sys.stderr)
        return REQUEUED
    print(f"saved, and job {os.environ.get('SLURM_JOB_ID')} is requeued: it resumes when it starts again", flush=True)
    return REQUEUED


def _leave(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
