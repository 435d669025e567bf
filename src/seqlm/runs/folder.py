"""A run's folder: what is in it, who writes it, and what state it is in. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..config.migrate import migrate_info, migrate_score
from ..config.words import no_path
from ..errors import ConfigError, RunExists, describe
from ..files import MB, free_path, read_bounded, read_json, to_json, write_atomically, writing
from .lock import Held, Lease, held, hostname, is_held, knows_leases

OUTPUTS = Path("outputs")  # where runs are, unless run.root says otherwise
CHECKSUM = "checksum"  # key of run.json, of all its others
WRITTEN = r"\.lock|run\.json|(\.config\.new|config)\.yaml|metrics\.jsonl|tokenizer\.json|step-\d+\.txt"
LEFTOVER = re.compile(rf"\.config\.new\.yaml|\.({WRITTEN})\.[0-9a-f]+")  # as files.beside names them
UNFINISHED = re.compile(r"\..+-[0-9a-f]{8}")  # of a run that is being made
UNFINISHED_SECONDS = 60.0  # after which one that nobody holds is one that nobody is about to hold either
_noted: set[Path] = set()  # folders whose run.json was said to be edited


class RunFolder:
    """config.yaml, run.json, metrics.jsonl, TensorBoard events, tokenizer.json, samples/, checkpoints/."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.tokenizer = path / "tokenizer.json"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"
        self.lease: Lease | None = None  # while this process holds the run for writing

    @classmethod
    @contextmanager
    def create(cls, root: Path, name: str | None, stem: str, fill: Callable[[RunFolder], None]) -> Iterator[RunFolder]:
        """Make <root>/<name> with what `fill` writes, and hold it; without a name <stem>, or <stem>.2 and so on.

        Filled and locked under a hidden name, then renamed: nobody sees half a run, and of two that start
        under one name one gets it. Raises RunExists if it exists, ConfigError if it cannot be made.
        """
        if name is not None and (".." in Path(name).parts or Path(name).is_absolute()):
            raise ConfigError(f"run.name={name} leaves run.root; set run.root to where the run should be")
        _sweep((root / name).parent if name else root)
        with ExitStack() as stack:
            run = None
            while run is None:
                path = root / name if name else free_path(root / stem)
                aside = cls(path.with_name(f".{path.name}-{secrets.token_hex(4)}"))
                try:
                    aside.path.mkdir(parents=True)
                    stack.enter_context(aside.locked())
                    fill(aside)
                    if path.is_dir() and any(path.iterdir()):
                        raise FileExistsError(path)
                    aside.path.rename(path)  # over an empty folder at most
                    run, lease = cls(path), aside.lease
                    assert lease is not None
                    run.lease, lease.path = lease, path / lease.path.name
                except OSError as error:
                    if isinstance(error, PermissionError) or not path.parent.is_dir():
                        raise ConfigError(f"run.root={root}: {path} cannot be made ({describe(error)})") from error
                    if not path.exists():  # a full disk
                        raise
                    if name is not None:
                        raise _taken(name, path) from None
                finally:
                    shutil.rmtree(aside.path, ignore_errors=True)
            try:
                yield run
            finally:
                run.lease = None

    def tidy(self) -> None:
        """Clear files that a process was killed while writing, for who holds the run; nobody else writes these."""
        for file in (*self.path.glob(".*"), *self.samples.glob(".*")):
            if LEFTOVER.fullmatch(file.name):
                file.unlink(missing_ok=True)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """The run in an existing folder, or of this name in outputs; raises ConfigError if there is none."""
        if problem := no_path(str(path)) or ("a run needs a name" if not str(path) else ""):
            raise ConfigError(problem)
        path = Path(path).expanduser() if str(path).startswith("~/") and not Path(path).exists() else Path(path)
        run = cls(path if path.name else path.resolve())  # `.` has a name too
        if not run.path.exists() and (OUTPUTS / path / "run.json").is_file():
            run = cls(OUTPUTS / path)
        if not run.path.is_dir():
            raise ConfigError(f"{path} does not exist; `seqlm runs` lists the runs in outputs")
        missing = [file.name for file in (run.config, run.path / "run.json") if not file.is_file()]
        if missing:
            raise ConfigError(
                f"{path} is not a run: it has no {' and no '.join(missing)}; `seqlm runs` lists the runs in outputs"
            )
        return run

    @property
    def name(self) -> str:
        return self.path.name

    def info(self) -> dict[str, Any]:
        """run.json: status, versions, seed, parameters, data fingerprint, metrics; with today's keys if it is older."""
        info, as_written = self.read_info()
        if not as_written and self.path not in _noted:
            _noted.add(self.path)
            print(f"note: {self.path / 'run.json'} was edited or damaged since seqlm wrote it", file=sys.stderr)
        return info

    def read_info(self) -> tuple[dict[str, Any], bool]:
        """The same, and whether it is as seqlm wrote it, as far as can be known: those of older versions are."""
        try:
            info = read_json(self.path / "run.json")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.path / 'run.json'} cannot be read ({describe(error)})") from error
        if not isinstance(info, dict):
            raise ConfigError(f"{self.path / 'run.json'} is not a record of a run")
        checksum = _checksum(info)
        as_written = info.pop(CHECKSUM, checksum) == checksum
        return migrate_info(info), as_written

    def update(self, **changes: Any) -> None:
        """Change keys of run.json. Raises LeaseLost where this process held the run and does no more."""
        self.check_held()
        known = self.info() if (self.path / "run.json").is_file() else {}
        info = {**known, **changes}
        info[CHECKSUM] = _checksum(info)
        write_atomically(self.path / "run.json", to_json(info, indent=2) + "\n")

    def status(self, info: Mapping[str, Any] | None = None) -> str:
        """The status in run.json, which may be at hand; `crashed` if it is running but its process is gone."""
        info = self.info() if info is None else info
        if info.get("status") == "running":
            try:
                known = info.get("host") == hostname() or knows_leases(self.path / ".lock")
                return "running" if not known or self.is_held() else "crashed"
            except OSError:  # a file we may not read
                return "unknown"
        return str(info.get("status", "unknown"))

    def is_held(self) -> bool:
        """Whether a process trains this run; raises OSError if that may not be read."""
        return is_held(self.path / ".lock")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for writing; raises ConfigError if another process does. Released even by kill -9 (lock.py)."""
        with ExitStack() as stack:
            try:
                self.lease = stack.enter_context(held(self.path / ".lock"))
            except Held as other:
                raise ConfigError(f"{self.path} is being trained by another process ({other})") from None
            try:
                yield
            finally:
                self.lease = None

    def check_held(self) -> None:
        """Raise LeaseLost if this process held the run for writing, and another machine has taken it over since."""
        if self.lease is not None:
            self.lease.check()

    def records(self) -> list[dict[str, Any]]:
        """metrics.jsonl; what a kill cut short, or damaged, is left out."""
        lines = self._metrics_bytes().split(b"\n")
        return [record for line in lines if (record := record_of(line)) is not None]

    def metrics_so_far(self) -> dict[str, Any]:
        """Length and SHA-256 of metrics.jsonl, which a checkpoint keeps."""
        data = self._metrics_bytes()
        return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def _metrics_bytes(self) -> bytes:
        return read_bounded(self.metrics, 512 * MB) if self.metrics.is_file() else b""

    def save_sample(self, step: int, text: str) -> None:
        """Keep the text that was shown at an evaluation."""
        path = self.samples / f"step-{step:09d}.txt"
        with writing(path):
            self.samples.mkdir(exist_ok=True)
        write_atomically(path, f"{text}\n")

    def times_scored(self, split: str) -> int:
        """How often `seqlm eval` has scored `split`, over all result files; one without a count counts once."""
        names = [path.stem.removeprefix("eval-") for path in self.path.glob(f"eval-{split}*.json")]
        counts = [self.eval_result(name).get("times_scored") for name in names]
        return max([sum(count is None for count in counts), *(count for count in counts if isinstance(count, int))])

    def eval_result(self, split: str) -> dict[str, Any]:
        """The last result of `seqlm eval` for `split`, with today's keys; empty if there is none."""
        try:
            result = read_json(self.path / f"eval-{split}.json")
        except (OSError, ValueError, ConfigError):
            return {}
        return migrate_score(result) if isinstance(result, dict) else {}

    def forget_after(self, step: int, evaluated_at: int, kept: Mapping[str, Any] | None = None) -> None:
        """Drop metrics beyond `step` and evaluations beyond `evaluated_at`, which a resumed run will repeat.

        `kept` is the `metrics_so_far` of the checkpoint at `step`. If records are damaged, the file is put aside as it
        was, and named.
        """

        def known(record: dict[str, Any]) -> bool:
            return bool(record["step"] <= (evaluated_at if "valid/loss" in record else step))

        if damage := self.metrics_damage(kept):
            aside = free_path(self.path / "metrics.damaged.jsonl")
            aside.write_bytes(self._metrics_bytes())
            print(f"note: {self.metrics} is damaged ({damage}); as it was it is kept in {aside.name}", file=sys.stderr)
        *lines, _ = self._metrics_bytes().split(b"\n")
        records = [record for line in lines if (record := record_of(line)) is not None and known(record)]
        write_atomically(self.metrics, "".join(to_json(record) + "\n" for record in records))

    def metrics_damage(self, kept: Mapping[str, Any] | None) -> str:
        """The damage in metrics.jsonl, or an empty text; `kept` is the `metrics_so_far` of the newest checkpoint."""
        data = self._metrics_bytes()
        *lines, _ = data.split(b"\n")  # behind the last line feed is what a kill cut short
        damaged = [str(number) for number, line in enumerate(lines, 1) if record_of(line) is None]
        if damaged:
            return f"line {', '.join(damaged[:5])}{', ...' * (len(damaged) > 5)}"
        changed = kept and hashlib.sha256(data[: kept["bytes"]]).hexdigest() != kept["sha256"]
        return "a number in it" if changed else ""


def record_of(line: bytes) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None if it is damaged."""
    with suppress(ValueError, RecursionError):
        record = json.loads(line)
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            return record
    return None


def _sweep(root: Path) -> None:
    """Delete what is left of runs whose process was killed while it made them: hidden folders that nobody holds."""
    for path in root.glob(".*-????????"):
        with suppress(OSError):
            files = [file.name for file in path.iterdir()] if UNFINISHED.fullmatch(path.name) else ["no run"]
            if time.time() - path.stat().st_mtime < UNFINISHED_SECONDS or (files and ".lock" not in files):
                continue
            with suppress(ConfigError), RunFolder(path).locked():
                shutil.rmtree(path, ignore_errors=True)


def _checksum(info: Mapping[str, Any]) -> str:
    others = {key: value for key, value in info.items() if key != CHECKSUM}
    return hashlib.sha256(to_json(others).encode()).hexdigest()


def check_free(root: Path, name: str | None) -> None:
    """Raise RunExists if a run cannot get this name below `root`; whether it can is known once it has it."""
    path = root / (name or "")
    if name is not None and path.is_dir() and any(path.iterdir()):
        raise _taken(name, path)


def _taken(name: str, path: Path) -> RunExists:
    return RunExists(f"run.name={name}: {path} exists; choose another name, or resume=auto to resume it")


def find_runs(root: Path) -> list[RunFolder]:
    """Every run below `root`, by name."""
    if not root.is_dir():
        raise ConfigError(f"{root} is not a folder; give one that runs are in, such as outputs")
    root = root.resolve() if root.name in ("", "..") else root  # `.` has a name too
    found = []
    for folder, folders, files in os.walk(root):  # which passes over what a training deletes meanwhile
        folders[:] = [name for name in folders if not name.startswith(".")]
        if "run.json" in files and all((Path(folder) / name).is_file() for name in ("run.json", "config.yaml")):
            found.append(RunFolder(Path(folder)))
    return sorted(found, key=lambda run: run.path)
