"""seqlm train: compose a configuration from words and train it, or several with -m."""

from __future__ import annotations

import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.compose import differing_words, expand, run_jobs
from ..config.flags import is_multirun
from ..config.schema import Config
from ..config.verb_schema import SlurmConfig
from ..config.words import Choices
from ..errors import ConfigError, SeqlmError, broken_pipe, print_error
from ..runs.folder import check_free
from ..runs.naming import run_name
from ..slurm import single
from ..slurm.options import slurm_words
from ..terminal import status
from ..training.torchrun import launched

if TYPE_CHECKING:
    from ..training.distributed import Ranks


class JobFailed(Exception):
    """A job of a multirun failed and has said why; hydra's launchers bring it home, from other processes, too."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def main(words: Sequence[str]) -> None:
    """`seqlm train [group=option] [key=value] [-m] [slurm=true slurm.key=value ... [--print]]`."""
    slurm, words, print_only = slurm_words(words)
    if slurm is not None:
        _submit(words, slurm, print_only)
    elif launched():
        from ..training.joining import joined

        with joined() as ranks:
            _main(words, ranks)
    else:
        _main(words, None)


def _main(words: Sequence[str], ranks: Ranks | None) -> None:
    if {"-m", "--multirun"} & {*words} and not {"-h", "--help", "--cfg", "-c", "--info", "-i"} & {*words}:
        _train_several(words, ranks)
    else:
        run_jobs(words, lambda make, choices, typed: _train(make, choices, typed, ranks)[1])


def _submit(words: Sequence[str], slurm: SlurmConfig, print_only: bool) -> None:
    """Check a configuration, decide the name of its run, and submit it."""
    from ..runs.assemble import check_parts  # which loads torch

    if is_multirun(words):
        raise ConfigError("slurm=true submits one run here; several: seqlm sweep NAME ... slurm=true")

    def job(make: Callable[[], Config], choices: Choices, typed: list[str]) -> None:
        try:
            config = make()
            check_parts(config)
            root, name = Path(config.run.root), config.run.name
            if config.resume != "auto":
                check_free(root, name)
            run = root / (name or single.free_name(root, run_name(config, choices, typed)))
            started = single.train_words(words, run, config.seed)
            single.submit_run(run, slurm, started, single.trust_words(words), print_only)
        except (SeqlmError, OSError) as error:
            sys.exit(print_error(error))

    run_jobs(words, job)


def _train(make: Callable[[], Config], choices: Choices, typed: list[str], ranks: Ranks | None) -> tuple[Path, float]:
    """Train one configuration; returns its run and what hydra's sweepers minimise. An error ends the process.

    `ranks` are all that train it, if they are several.
    """
    try:
        config = make()
        if config.resume != "auto" and (ranks is None or ranks.leads):
            check_free(Path(config.run.root), config.run.name)
        with status("loading torch"):  # once the words are known to be right
            from ..training.distributed import ALONE
            from ..training.launch import train

        trained = train(config, choices, typed, ranks=ranks or ALONE)
        return trained.run.path, trained.best
    except BrokenPipeError:
        raise SystemExit(broken_pipe()) from None
    except (SeqlmError, OSError) as error:
        if ranks is not None:
            from ..training.joining import Ended

            raise Ended(error) from None
        sys.exit(print_error(error))


def _train_several(words: Sequence[str], ranks: Ranks | None) -> None:
    """A multirun of hydra's: a line above each job, a table below them all, the exit code of the first that failed."""
    titles, here = _titles(words), os.getpid()
    failed = None
    with tempfile.TemporaryDirectory(prefix="seqlm-") as folder:  # jobs may run in other processes

        def job(make: Callable[[], Config], choices: Choices, typed: list[str]) -> float:
            title = titles.get(tuple(typed), " ".join(word for word in typed if word not in words))
            print(f"\n{title}", flush=True)
            try:
                run, best = _train(make, choices, typed, ranks)
            except SystemExit as leaving:
                if ranks is not None:  # all of them end
                    raise
                code = leaving.code if isinstance(leaving.code, int) else 1
                if code > 128 and os.getpid() == here:  # a signal ends a sweep, a failed run does not
                    raise
                print(f"{title} failed", file=sys.stderr, flush=True)
                raise JobFailed(code) from None
            with suppress(OSError):  # on another machine
                (Path(folder) / uuid.uuid4().hex).write_text(str(run.resolve()), encoding="utf-8")
            return best

        try:
            run_jobs(words, job)
        except JobFailed as error:
            failed = error
        if ranks is None or ranks.leads:
            _print_results(sorted(file.read_text(encoding="utf-8") for file in Path(folder).iterdir()))
    if failed is not None:
        sys.exit(failed.exit_code)


def _titles(words: Sequence[str]) -> dict[tuple[str, ...], str]:
    """`[3/8] model=gru seed=2` for the words of each job; nothing where another sweeper than hydra's own finds them."""
    with suppress(ConfigError):
        jobs = expand(words)
        numbered = enumerate(zip(jobs, differing_words(jobs), strict=True), 1)
        return {
            tuple(word for word in job if not word.startswith(("hydra.", "hydra/"))): (
                f"[{number}/{len(jobs)}] {' '.join(own)}".rstrip()
            )
            for number, (job, own) in numbered
        }
    return {}


def _print_results(runs: Sequence[str]) -> None:
    """The closing table of a multirun, and the verb that resumes one."""
    if len(runs) > 1:
        from .compare import main as compare

        print()
        compare(runs)
    print("\n`seqlm sweep NAME` with the same words keeps what is finished and resumes the rest when it is given again")
