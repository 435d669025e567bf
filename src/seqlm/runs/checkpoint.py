"""Checkpoints: everything that can change the next step, written whole or not at all, verified before use.

checkpoints/step-000012000/model.safetensors   weights
                           state.pt            optimizer, schedule, progress, carry, random numbers
                           meta.json           format, step, rank, version, config: readable without torch
                           MANIFEST.sha256     of the three; neither format notices flipped bits itself
checkpoints/last, best                         the name of a folder
"""

from __future__ import annotations

import errno
import json
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import NO_ROOM, ConfigError, SeqlmError, describe, is_out_of_memory
from ..files import MB, flush, read_bounded, remove, sha256_of
from .pointers import point
from .pointers import step_name as step_name
from .pointers import steps as steps
from .upkeep import OLD, tidy

if TYPE_CHECKING:  # which checkpoints there are is known without torch
    from torch import Tensor, nn

FORMAT = 1
STATE = {"progress", "optimizer", "schedule", "averaging", "carry", "random"}  # of state.pt, at least
FILES = ("model.safetensors", "state.pt", "meta.json")
MANIFEST = "MANIFEST.sha256"


class Damaged(ConfigError):
    """A checkpoint's files are not as they were written."""


class Deleted(FileNotFoundError):
    """A checkpoint is not there any more: who trains its run has deleted it while it was read."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} was deleted while it was read: its run is being trained")


@dataclass(frozen=True)
class Checkpoint:
    """One verified checkpoint, not loaded yet."""

    path: Path
    meta: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.meta["step"])

    def load_weights(self, model: nn.Module) -> None:
        """Copy the stored weights into `model`; raises ConfigError if they are not the weights of this model."""
        import torch

        stored, own = self.weights(), weights_of(model)
        wrong = sorted(stored.keys() ^ own.keys())
        wrong += [name for name in stored.keys() & own.keys() if stored[name].shape != own[name].shape]
        if wrong:
            raise ConfigError(f"{self.path} holds the weights of another model; first difference: {wrong[0]}")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(stored[name])

    def weights(self) -> dict[str, Tensor]:
        """The stored weights by name; raises ConfigError if the file holds none, whoever wrote its manifest."""
        from safetensors.torch import load_file

        with self._reading("model.safetensors", "weights"):
            return load_file(self.path / "model.safetensors")

    def load_state(self) -> dict[str, Any]:
        """The rest of the training state, as it was given to `save`; raises ConfigError if the file holds none."""
        import torch

        with self._reading("state.pt", "training state"):
            state = torch.load(self.path / "state.pt", map_location="cpu", weights_only=True)
            if missing := STATE - state.keys():
                raise KeyError(f"no {min(missing)}")
        return cast("dict[str, Any]", state)

    @contextmanager
    def _reading(self, name: str, content: str) -> Iterator[None]:
        """Raise ConfigError if a file is of another kind than its name says, whoever wrote its manifest.

        Raises Deleted if the checkpoint is not there any more.
        """
        try:
            with _deletion_told(self.path):
                yield
        except Exception as error:  # safetensors and torch raise any of a dozen kinds
            if isinstance(error, (SeqlmError, OSError)) or is_out_of_memory(error):
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                f"{self.path / name} holds no {content}; nothing in it was executed ({reason})"
            ) from error


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and persistent buffer once: of tied ones only the first name counts."""
    seen: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        seen.setdefault(id(tensor), name)
    return {name: state[name].detach() for name in seen.values()}


def save(folder: Path, model: nn.Module, state: dict[str, Any], meta: dict[str, Any]) -> Checkpoint:
    """Write a checkpoint for step `meta["step"]` into `folder` and point `last` at it.

    Written aside, flushed to disk and renamed: at every moment each step-* folder is whole. Raises
    SeqlmError when the disk is full; what was saved before stays as it was.
    """
    import torch
    from safetensors.torch import save_file

    meta = {"format": FORMAT, **meta}
    final, aside = folder / step_name(meta["step"]), folder / f".{step_name(meta['step'])}-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tidy(folder)
        aside.mkdir()
        save_file(
            {name: tensor.contiguous() for name, tensor in weights_of(model).items()}, aside / "model.safetensors"
        )
        torch.save(state, aside / "state.pt")
        (aside / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
        shutil.copymode(aside / "meta.json", aside / "model.safetensors")  # save_file lets nobody else read it
        lines = [f"{sha256_of(aside / name)}  {name}\n" for name in FILES]
        (aside / MANIFEST).write_text("".join(lines), encoding="utf-8")
        for file in aside.iterdir():
            flush(file)
        old = folder / f"{OLD}{final.name}"
        if final.exists():  # this step was saved before; until the new one is in place, the old one can be found
            final.rename(old)
        aside.rename(final)
        remove(old)
        flush(folder)
        point(folder, "last", meta["step"])
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError, safetensors as its own
        if is_out_of_memory(error):
            raise
        raise _save_failed(final, error) from error
    except Exception as error:
        if type(error).__module__.startswith("safetensors"):
            raise _save_failed(final, error) from error
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Checkpoint(final, meta)


def point_best(folder: Path, checkpoint: Checkpoint) -> None:
    """Make `best` name this checkpoint."""
    point(folder, "best", checkpoint.step)


def digest(folder: Path, step: int) -> str:
    """SHA-256 of a checkpoint, the same wherever its run lies; raises ConfigError if there is none."""
    try:
        return sha256_of(folder / step_name(step) / MANIFEST)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder.parent} has no checkpoint of step {step} ({describe(error)})") from None


def open_verified(path: Path) -> Checkpoint:
    """The checkpoint in this folder. Raises Damaged, Deleted, and ConfigError if it may not be read."""
    with _deletion_told(path):
        if damage := verify(path):
            raise Damaged(damage)
        return _opened(path)


@contextmanager
def _deletion_told(path: Path) -> Iterator[None]:
    """Raise Deleted for whatever goes wrong with a checkpoint that is not there any more."""
    try:
        yield
    except Exception as error:
        if path.is_dir():
            raise
        raise Deleted(path) from error


def verify(path: Path) -> str:
    """The damage in the files of a checkpoint, or an empty text; raises ConfigError if they may not be read."""
    try:
        listed = digests(path)
        if sorted(listed) != sorted(FILES):
            return "its manifest is incomplete"
        for name, digest in listed.items():
            if sha256_of(path / name) != digest:
                return f"{name} does not match its SHA-256"
        parse_meta(read_bounded(path / "meta.json", 16 * MB))
    except PermissionError as error:
        way_out = f"its owner can type chmod -R a+rX {path.parent.parent}"
        raise ConfigError(f"{error.filename} may not be read by this user; {way_out}") from None
    except (OSError, ValueError, ConfigError) as error:
        return str(error)
    return ""


def digests(path: Path) -> dict[str, str]:
    """The digests of a checkpoint's files, by name. Raises OSError, ValueError and ConfigError for a damaged list."""
    lines = read_bounded(path / MANIFEST, 1 << 16).decode().splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def parse_meta(text: bytes) -> dict[str, Any]:
    """The content of a meta.json, whoever wrote its manifest. Raises ValueError."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("step"), int):
        raise ValueError("meta.json names no step")
    return found


def _opened(path: Path) -> Checkpoint:
    meta = parse_meta(read_bounded(path / "meta.json", 16 * MB))
    if meta.get("format") != FORMAT:
        raise ConfigError(
            f"{path} was written in checkpoint format {meta.get('format')}, this seqlm reads format {FORMAT}; "
            "use the version of seqlm in the run's run.json"
        )
    return Checkpoint(path, meta)


def _save_failed(path: Path, error: Exception) -> SeqlmError:
    free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
    told = re.search(r"\(os error (\d+)\)", str(error))  # safetensors; torch says nothing of the kind
    number = getattr(error, "errno", None) or (int(told[1]) if told else 0)
    room = NO_ROOM.get(number or (errno.ENOSPC if free < MB else 0))
    cause = f"{room}: {free / 1e6:.1f} MB are free" if room else f"{type(error).__name__}: {error}"
    return SeqlmError(
        f"the checkpoint {path} could not be written ({cause}); "
        "earlier checkpoints are untouched; make room and resume the run"
    )
