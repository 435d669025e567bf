"""A run's folder: what is in it, who writes it, and what state it is in. Imports no torch."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ConfigError


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text`: a reader sees the old content or the new, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


class RunFolder:
    """config.yaml, run.json, metrics.jsonl, TensorBoard events, tokenizer.json, samples/, checkpoints/."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.tokenizer = path / "tokenizer.json"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"

    @classmethod
    def create(cls, root: Path, name: str | None, stem: str) -> RunFolder:
        """A new, empty folder <root>/<name>; without a name <stem>-<time>-<4 hex>. Raises ConfigError if it exists."""
        while True:
            now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
            path = root / (name or f"{stem}-{now}-{secrets.token_hex(2)}")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.mkdir()  # fails if it exists: two runs never share a folder
                return cls(path)
            except FileExistsError:
                if name is None:
                    continue
                raise ConfigError(
                    f"run.name={name}: {path} exists; choose another name, or resume=auto to go on with it"
                ) from None
            except OSError as error:
                raise ConfigError(f"run.root={root}: {path} cannot be made ({error})") from error

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """The run in an existing folder; raises ConfigError if there is none."""
        run = cls(Path(path))
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
        """run.json: status, versions, seed, parameters, data fingerprint, final metrics."""
        try:
            info = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.path / 'run.json'} cannot be read ({error})") from error
        if not isinstance(info, dict):
            raise ConfigError(f"{self.path / 'run.json'} is not a record of a run")
        return info

    def update(self, **changes: Any) -> None:
        """Change keys of run.json."""
        known = self.info() if (self.path / "run.json").is_file() else {}
        write_atomically(self.path / "run.json", json.dumps({**known, **changes}, indent=2) + "\n")

    def status(self) -> str:
        """The status in run.json; `dead` for a run that says it is running while its process is gone."""
        info = self.info()
        if info.get("status") == "running" and info.get("host") == socket.gethostname():
            try:
                with self.locked():
                    return "dead"
            except ConfigError:
                return "running"
        return str(info.get("status", "unknown"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for writing; raises ConfigError if another process does. Released even by kill -9."""
        with (self.path / ".lock").open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigError(
                    f"{self.path} is being trained by another process (pid {self.info().get('pid')})"
                ) from None
            yield

    def records(self) -> list[dict[str, Any]]:
        """metrics.jsonl; a last line that a kill cut short is left out."""
        if not self.metrics.is_file():
            return []
        records = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                continue
        return records

    def eval_result(self, split: str) -> dict[str, Any]:
        """What `seqlm eval` last said of `split`; empty if it has not been asked."""
        try:
            result = json.loads((self.path / f"eval-{split}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return result if isinstance(result, dict) else {}

    def forget_after(self, step: int) -> None:
        """Drop metrics of steps beyond `step`, which a resumed run is about to repeat."""
        kept = [json.dumps(record) for record in self.records() if record.get("step", 0) <= step]
        write_atomically(self.metrics, "".join(f"{line}\n" for line in kept))


def file_stem(text: str) -> str:
    """`text` as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("_") or "run"


def find_runs(root: Path) -> list[RunFolder]:
    """Every run below `root`, oldest first."""
    if not root.is_dir():
        raise ConfigError(f"{root} is not a folder; seqlm runs [DIR] wants the one that runs are in (default: outputs)")
    found = [RunFolder(path.parent) for path in root.rglob("run.json") if (path.parent / "config.yaml").is_file()]
    return sorted(found, key=lambda run: (str(run.info().get("started", "")), run.name))
