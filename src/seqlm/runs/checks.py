"""Is a run whole, and can it be resumed? Each of its files and each thing that a resume needs, looked at by itself.

Nothing of the run is changed. Imports torch only for the last checks: numbers, parts and data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from ..errors import ConfigError, NonFiniteError, SeqlmError
from . import checkpoint, finding
from .folder import RunFolder
from .pointers import pointed, ranked, step_name, steps
from .sealed import check_tokenizer, is_as_written, saved_config
from .table import DAMAGED

BUILT = ("parts", "data")  # checks of what is made from config.yaml and tokenizer.json


class Check(NamedTuple):
    """One thing that was looked at: its name, whether it is well, and what was found."""

    name: str
    ok: bool
    found: str


def check_run(run: RunFolder, trust: Sequence[str] = ()) -> list[Check]:
    """Every check of a run, in order; `trust` names packages of the user's that it is built from."""
    made: list[Check] = []
    for name, check in CHECKS.items():
        damaged = {one.name for one in made if not one.ok}
        if name not in BUILT or not damaged & {"config.yaml", "tokenizer.json"}:  # which are damaged for that reason
            made.append(_made(name, run, trust, check))
    return made


def _made(name: str, run: RunFolder, trust: Sequence[str], check: Callable[[RunFolder, Sequence[str]], str]) -> Check:
    try:
        return Check(name, True, check(run, trust))
    except (*DAMAGED, SeqlmError, OSError) as error:
        return Check(name, False, str(error) or type(error).__name__)


def _info(run: RunFolder, trust: Sequence[str]) -> str:
    info, as_written = run.read_info()
    if not as_written:
        raise ConfigError("it was edited or damaged since seqlm wrote it; the next resume writes it again as it is now")
    return f"{run.status(info)}, written by seqlm {info.get('seqlm', 'of an older version')}"


def _config(run: RunFolder, trust: Sequence[str]) -> str:
    saved_config(run)
    known = "sha256" in run.read_info()[0]
    written = "as it was written" if is_as_written(run) else "written in other words, with the same values"
    return written if known else "without a digest: of an older version"


def _tokenizer(run: RunFolder, trust: Sequence[str]) -> str:
    from ..data.tokenizers.saved import load_tokenizer

    check_tokenizer(run)
    return f"{load_tokenizer(run.tokenizer).kind} tokens"


def _metrics(run: RunFolder, trust: Sequence[str]) -> str:
    if damage := run.metrics_damage((finding.newest_meta(run.checkpoints) or {}).get("metrics")):
        raise ConfigError(f"{damage} is damaged; a resume keeps the file as it is in metrics.damaged.jsonl")
    number = len(run.records())
    return f"{number:,} {'record' if number == 1 else 'records'}"


def _checkpoints(run: RunFolder, trust: Sequence[str]) -> str:
    there = steps(run.checkpoints)
    damages = {step: checkpoint.verify(run.checkpoints / step_name(step)) for step in there}
    for deleted in set(there) - set(steps(run.checkpoints)):  # meanwhile, by who trains the run
        del damages[deleted]
    if there and not damages:
        return "deleted while they were read: the run is being trained"
    whole = [f"{step:,}" for step, damage in damages.items() if not damage]
    lines = [f"step {step:,}: {damage}" for step, damage in damages.items() if damage]
    found = (
        f"{len(whole)} whole, of steps {', '.join(whole)}" if whole else "none is whole: a resume starts from step 0"
    )
    if lines or not whole:
        raise ConfigError("\n".join([*lines, found]))
    return found


def _pointers(run: RunFolder, trust: Sequence[str]) -> str:
    right = {"last": steps(run.checkpoints)[-1:], "best": ranked(run.checkpoints)[:1]}
    found = {name: pointed(run.checkpoints, name) for name in right}
    wrong = []
    for name, best in right.items():
        file = run.checkpoints / name
        written = file.read_bytes().decode("utf-8", "replace").strip()[:40] if file.is_file() else "nothing"
        if best and (found[name] != written or (name == "last" and found[name] != step_name(best[0]))):
            wrong.append(f"{name} holds {written!r}; the next resume writes it again")
    if wrong and run.is_held():
        return "being written: the run is being trained"
    if wrong:
        raise ConfigError("\n".join(wrong))
    return ", ".join(f"{name} is {where}" for name, where in found.items() if where) or "none yet"


def _numbers(run: RunFolder, trust: Sequence[str]) -> str:
    from .finite import non_finite_in

    for one in finding.whole(run.checkpoints, lambda text: None):
        with suppress(checkpoint.Deleted):
            if name := non_finite_in(one.weights(), one.load_state()):
                raise NonFiniteError(f"{name} of step {one.step:,} is not finite")
    return "all of them finite"


def _parts(run: RunFolder, trust: Sequence[str]) -> str:
    from .assemble import check_parts

    config = saved_config(run)
    config.trust = list(trust)
    check_parts(config)
    return "known to this version, with all their keys"


def _data(run: RunFolder, trust: Sequence[str]) -> str:
    from ..data.tokenizers.saved import load_tokenizer
    from .assemble import build_data, check_parts

    config, known = saved_config(run), run.read_info()[0].get("data_fingerprint")
    config.trust = list(trust)
    check_parts(config)
    if known != build_data(config, load_tokenizer(run.tokenizer)).fingerprint:
        raise ConfigError("it has changed since the run was started; put the old data back to resume it")
    return "there, and as it was"


def _resume(run: RunFolder, trust: Sequence[str]) -> str:
    if run.is_held():
        return "is being trained at this moment"
    newest = next(finding.whole(run.checkpoints, lambda text: None), None)
    return f"from step {newest.step:,}" if newest else "from step 0"


CHECKS: dict[str, Callable[[RunFolder, Sequence[str]], str]] = {
    "run.json": _info,
    "config.yaml": _config,
    "tokenizer.json": _tokenizer,
    "metrics.jsonl": _metrics,
    "checkpoints": _checkpoints,
    "pointers": _pointers,
    "numbers": _numbers,
    "parts": _parts,
    "data": _data,
    "resume": _resume,
}
