"""One run as a batch job: the command that a person would type; its name is decided when it is submitted."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path

from ..config.schema import RANDOM_SEED
from ..config.trust import typed_trust
from ..config.verb_schema import SlurmConfig
from ..errors import ConfigError
from ..files import read_json, to_json, write_atomically
from .cluster import SlurmError, queue, submit
from .options import sbatch_options
from .script import batch_script

FOLDER = "slurm"  # in run.root


def free_name(root: Path, stem: str) -> str:
    """The name for a run that is given none: `stem`, or <stem>.2 and so on, neither there nor submitted."""
    names = itertools.chain([stem], (f"{stem}.{number}" for number in itertools.count(2)))
    return next(name for name in names if not (root / name).exists() and not _script(root, name).exists())


def train_words(words: Sequence[str], run: Path, seed: int) -> list[str]:
    """The words behind `seqlm train` that start the run when its time has come."""
    kept = [word for word in words if word.partition("=")[0] not in ("run.root", "run.name", "resume")]
    kept = [f"seed={seed}" if word == f"seed={RANDOM_SEED}" else word for word in kept]
    return [*kept, f"run.root={run.parent}", f"run.name={run.name}"]


def submit_run(
    run: Path, config: SlurmConfig, train: Sequence[str] | None, resume: Sequence[str], print_only: bool
) -> None:
    """Submit a run and say how to watch it, or print its script.

    It is started with the words `train`, and resumed with `resume` once it is there; without `train` it is there.
    Raises SlurmError; ConfigError if it is in the queue already.
    """
    script = _script(run.parent, run.name)
    options = sbatch_options(config, run.name, script.with_name(f"{run.name.replace('%', '%%')}-%j.out"))
    path = shlex.quote(str(run))
    again = " ".join(map(shlex.quote, resume))
    before = [f"set -- resume {path} {again}".rstrip()]
    if train is not None:
        started = " ".join(map(shlex.quote, train))
        before = [f"if [ -e {path}/run.json ]; then {before[0]}; else set -- train {started}; fi"]
    about = [
        f"the run {run}",
        "Warned by USR1 it saves, puts this job back into the queue, and resumes when that starts again.",
    ]
    text = batch_script(config, options, about, ['"$@"'], before)
    if print_only:
        print(text, end="")
        return
    _check_not_queued(run)
    script.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(script, text, 0o777)
    try:
        number = submit(script, options)
    except SlurmError as error:
        raise SlurmError(f"{error}\nnothing was submitted by {script}, which is kept") from None
    write_atomically(script.with_suffix(".json"), to_json({"number": number}) + "\n")
    log = script.with_name(f"{run.name}-{number}.out")
    print(f"submitted {run} as job {number}; {script}\nlog    tail -f {shlex.quote(str(log))}")
    print(f"queue  squeue --jobs {number}\nstop   scancel {number}")


def trust_words(words: Sequence[str]) -> list[str]:
    """The `trust` among the words of a run, which whoever resumes it types again."""
    names = sorted(typed_trust(words))
    return [f"trust=[{','.join(names)}]"] if names else []


def _check_not_queued(run: Path) -> None:
    try:
        number = str(read_json(_script(run.parent, run.name).with_suffix(".json"))["number"])
    except (OSError, ValueError, KeyError, TypeError, ConfigError):  # never submitted
        return
    if any(not task.ended for task in queue({number}).values()):
        raise ConfigError(f"{run} is in the queue already, as job {number}; scancel {number} takes it out")


def _script(root: Path, name: str) -> Path:
    return root / FOLDER / f"{name}.sh"
