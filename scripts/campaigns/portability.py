"""Other users, folders, languages and rights: it works the same, or a line says what is missing."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from .hooks import replace
from .jobs import Action, Done
from .runner import Campaign, Case
from .settings import difference, outcome, trained, training

NOBODY = 65534


def case(case: Case) -> None:
    name = list(PLACES)[case.number * 7 % len(PLACES)]
    case.count("places")
    PLACES[name](case, name)


def _whole(case: Case, where: str, *, folder: Path | None = None, env: dict[str, str] | None = None,
           before: Action | None = None) -> Path:  # fmt: skip
    """Train, read and resume in a place; the run is as it is everywhere."""
    words, whole = trained(case, "lm")
    here = folder or case.folder
    here.mkdir(exist_ok=True, parents=True)
    options = {"folder": here, "env": env or {}, "before": before}
    _fine(case, where, case.run(training(case, words, here), **options))
    wanted = json.loads((whole / "outcome.json").read_text(encoding="utf-8"))["outcome"]
    run = here / "run"
    if (run / "checkpoints" / "last").is_file() and (differs := difference(wanted, outcome(run))):
        case.fail("differs", f"{where}: {differs}")
    for verb in (["eval", "run"], ["runs", "."], ["sample", "run", "tokens=4"], ["resume", "run", "train.steps=26"]):
        _fine(case, where, case.run(verb, **options))
    return run


def _fine(case: Case, where: str, done: Done) -> None:
    if done.code or not done.clean:
        case.fail("failed", f"{where}: {done.tail()}")


def _refused(case: Case, where: str, done: Done, *words: str) -> None:
    """Or done: but if not, a few lines that hold one of these words."""
    lines = done.text.strip().splitlines()
    if not done.clean or (done.code and (len(lines) > 30 or not any(word in done.text for word in words))):
        case.fail("failed", f"{where}: {done.tail()}")


def _spaces(case: Case, where: str) -> None:
    _whole(case, where, folder=case.folder / "with spaces, é and 中文 & 'quotes'")


def _no_home(case: Case, where: str) -> None:
    _whole(case, where, env={"HOME": "/nowhere", "SEQLM_CACHE": "", "XDG_CACHE_HOME": str(case.folder / "xdg")})


def _no_home_at_all(case: Case, where: str) -> None:
    words, _ = trained(case, "lm")

    def leave() -> None:
        for name in ("HOME", "SEQLM_CACHE", "XDG_CACHE_HOME", "USER", "LOGNAME"):
            os.environ.pop(name, None)
        _become(54321)

    done = case.run(training(case, words), before=leave)
    _refused(case, where, done, "SEQLM_CACHE", "HOME", "cache", "cannot be made")


def _language(case: Case, where: str) -> None:
    _whole(case, where, env={"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})


def _no_temporary(case: Case, where: str) -> None:
    _whole(case, where, env={"TMPDIR": "/nowhere", "TMP": "/nowhere", "TEMP": "/nowhere"})


def _moved(case: Case, where: str) -> None:
    """A run that is moved, with its cache gone, is resumed where it lies."""
    run = _whole(case, where)
    moved = case.folder / "elsewhere" / "other"
    moved.parent.mkdir()
    run.rename(moved)
    shutil.rmtree(case.folder / "cache", ignore_errors=True)
    for verb in (["eval", moved], ["resume", moved, "train.steps=28"], ["runs", moved.parent]):
        _fine(case, where, case.run(verb))
    if run.exists():
        case.fail("failed", f"{where}: {run} is there again")


def _elsewhere(case: Case, where: str) -> None:
    """From another working folder, by a relative path and by a link."""
    run = _whole(case, where)
    other = case.folder / "a" / "b"
    other.mkdir(parents=True)
    (other / "link").symlink_to(run)
    for verb in (["eval", "../../run"], ["eval", "link"], ["resume", "link", "train.steps=28"]):
        _fine(case, where, case.run(verb, folder=other))


def _read_only(case: Case, where: str) -> None:
    """A run of another user, that may be read: reading works, writing says why not."""
    run = _whole(case, where)
    for path in [case.folder, run, *run.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    env = {"SEQLM_CACHE": f"/tmp/campaign-cache-{os.getpid()}"}
    try:
        for verb in (["runs", "."], ["sample", "run", "tokens=4"], ["compare", "run", "run"], ["eval", "run"],
                     ["resume", "run", "train.steps=30"]):  # fmt: skip
            done = case.run(verb, env=env, before=lambda: _become(NOBODY))
            _refused(case, where, done, "ermission", "may not", "cannot be", "two runs")
    finally:
        shutil.rmtree(env["SEQLM_CACHE"], ignore_errors=True)


def _cache_read_only(case: Case, where: str) -> None:
    """A cache that cannot be written: refused with the way out, or done without."""
    (case.folder / "cache").mkdir()
    case.folder.chmod(0o777)
    (case.folder / "cache").chmod(0o555)
    words, _ = trained(case, "lm")
    done = case.run(training(case, words), before=lambda: _become(NOBODY))
    _refused(case, where, done, "SEQLM_CACHE")


def _umask(mask: int, file: int, folder: int) -> Callable[[Case, str], None]:
    def place(case: Case, where: str) -> None:
        run = _whole(case, where, before=lambda: os.umask(mask))
        for path in run.rglob("*"):
            mode, wanted = stat.S_IMODE(path.stat().st_mode), folder if path.is_dir() else file
            if mode != wanted and path.name != ".lock":
                case.fail("rights", f"{where}: {path.relative_to(run)} is {mode:o}, not {wanted:o}")

    return place


def _no_stdin(case: Case, where: str) -> None:
    _whole(case, where, before=lambda: os.close(0))


def _closed_output(case: Case, where: str) -> None:
    """Nobody reads the output any more: as every filter ends."""
    words, _ = trained(case, "lm")

    def close() -> None:
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, 1)

    done = case.run(training(case, words), before=close)
    if "Traceback" in done.text or done.code not in (0, 141):
        case.fail("failed", f"{where}: {done.tail()}")


def _few_files(case: Case, where: str) -> None:
    import resource

    _whole(case, where, before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48)))


def _long_name(case: Case, where: str) -> None:
    words, _ = trained(case, "lm")
    done = case.run(training(case, words, name="n" * 300))
    _refused(case, where, done, "too long", "run.name", "cannot be made")


def _old_clock(case: Case, where: str) -> None:
    """Every file of the run looks as if it were made in 1970, or in the future."""
    run = _whole(case, where)
    for path in run.rglob("*"):
        os.utime(path, (0, 0) if case.rng.random() < 0.5 else (4e9, 4e9))
    _fine(case, where, case.run(["resume", "run", "train.steps=28"]))


def _become(user: int) -> None:
    """Another user, if we may."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)


PLACES: dict[str, Callable[[Case, str], None]] = {
    "a path of spaces and other alphabets": _spaces,
    "a home that does not exist": _no_home,
    "no home": _no_home_at_all,
    "LANG=C": _language,
    "TMPDIR missing": _no_temporary,
    "a run that was moved": _moved,
    "another working folder": _elsewhere,
    "a run that may only be read": _read_only,
    "a cache that may only be read": _cache_read_only,
    "umask 022": _umask(0o022, 0o644, 0o755),
    "umask 077": _umask(0o077, 0o600, 0o700),
    "umask 002": _umask(0o002, 0o664, 0o775),
    "no standard input": _no_stdin,
    "output that nobody reads": _closed_output,
    "few open files": _few_files,
    "a name that is too long": _long_name,
    "clocks that differ": _old_clock,
}


def _by_name() -> None:
    """Runs are found in `outputs` only."""
    from seqlm.runs.folder import OUTPUTS, RunFolder

    replace("seqlm.runs.folder:RunFolder.open", classmethod(lambda cls, path: RunFolder(OUTPUTS / Path(path).name)))


CAMPAIGN = Campaign(
    "portability",
    f"{len(PLACES)} kinds of users, folders, languages and rights",
    case,
    sizes={"short": 4, "full": 2 * len(PLACES)},
    mutants={"find-runs-by-name": _by_name},
)
