"""Checkpoints: everything that can change the next step, written whole or not at all, verified before use.

checkpoints/step-000012000/model.safetensors   weights
                           state.pt            optimizer, schedule, progress, carry, random numbers
                           meta.json           format, step, rank, version, config: readable without torch
                           MANIFEST.sha256     of the three; neither format notices flipped bits itself
checkpoints/last, best                         the name of a folder
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..errors import NO_ROOM, ConfigError, SeqlmError, describe, is_out_of_memory
from ..files import MB, flush, read_bounded, remove, sha256_of
from .pointers import point, pointed
from .pointers import step_name as step_name
from .pointers import steps as steps
from .upkeep import OLD, tidy

if TYPE_CHECKING:  # which checkpoints there are is known without torch
    from torch import Tensor, nn

FORMAT = 1
ATTEMPTS = 5  # to read a checkpoint of a run that is being trained, which deletes older ones
STATE = {"progress", "optimizer", "schedule", "averaging", "carry", "random"}  # of state.pt, at least
FILES = ("model.safetensors", "state.pt", "meta.json")
MANIFEST = "MANIFEST.sha256"
T = TypeVar("T")


class NoneWhole(ConfigError):
    """No checkpoint of a run is whole."""


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


def best_step(folder: Path) -> int:
    """The step of the best checkpoint; raises ConfigError if there is none."""
    try:
        return int((pointed(folder, "best") or "").removeprefix("step-"))
    except ValueError:
        raise ConfigError(f"{folder.parent} has no best checkpoint yet: it has not been evaluated") from None


def digest(folder: Path, step: int) -> str:
    """SHA-256 of a checkpoint, the same wherever its run lies; raises ConfigError if there is none."""
    try:
        return sha256_of(folder / step_name(step) / MANIFEST)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder.parent} has no checkpoint of step {step} ({describe(error)})") from None


def find(folder: Path, which: str, warn: Callable[[str], None]) -> Checkpoint:
    """The checkpoint `last` (the newest that is whole), `best`, or of a step number.

    Damaged ones are skipped with a word to `warn` when looking for `last`, refused otherwise. Raises
    ConfigError if there is none, or if one was written by another format version.
    """
    if which == "last":
        return newest(folder, 1, warn)[0]

    def read() -> Checkpoint:
        path = locate(folder, which)
        try:
            return _verified(path)
        except Damaged as damage:
            raise ConfigError(
                f"{path} is damaged ({damage}); use checkpoint=last for the newest that is whole"
            ) from None

    return while_it_is_there(read, lambda text: None)


def while_it_is_there(read: Callable[[], T], warn: Callable[[str], None]) -> T:
    """The result of `read`, which finds checkpoints and reads them; done anew where one is deleted meanwhile.

    Raises ConfigError if that happens again and again.
    """
    for _ in range(ATTEMPTS):
        try:
            return read()
        except Deleted as error:
            gone = error
            warn(f"{gone}; trying the next one")
    raise ConfigError(f"{gone}, {ATTEMPTS} times in turn; try again")


def check_exists(folder: Path, which: str) -> None:
    """Raise ConfigError if `find` would find nothing to read; what is there is not verified."""
    if which != "last":
        locate(folder, which)
    elif not steps(folder):
        raise _none_whole(folder)


def locate(folder: Path, which: str) -> Path:
    """The folder of the checkpoint `best`, or of a step, not verified; raises ConfigError if there is none."""
    name = step_name(int(which)) if which.isdecimal() else pointed(folder, "best") if which == "best" else None
    if name is None or not (folder / name).is_dir():
        pointers = [pointer for pointer in ("best", "last") if pointed(folder, pointer)]
        there = ", ".join([*pointers, *(str(step) for step in steps(folder))]) or "none"
        raise ConfigError(f"checkpoint={which} does not exist in {folder}; there are: {there}")
    return folder / name


def newest(folder: Path, count: int, warn: Callable[[str], None]) -> list[Checkpoint]:
    """The newest `count` checkpoints that are whole, oldest first; damaged ones are skipped with a word to `warn`.

    Raises ConfigError if there are fewer.
    """
    found = list(islice(whole(folder, warn), count))[::-1]
    if len(found) == count:
        return found
    if count == 1:
        raise _none_whole(folder)
    there = f"{len(found)} whole checkpoints ({', '.join(str(one.step) for one in found) or 'none'})"
    raise ConfigError(
        f"average_last={count} needs more than the {there} in {folder}; use average_last={len(found)}, or train with "
        f"checkpoint.keep_last={count} or with checkpoint.keep_every=STEPS"
    )


def whole(folder: Path, warn: Callable[[str], None]) -> Iterator[Checkpoint]:
    """Every checkpoint that is whole, the newest first; damaged ones are skipped with a word to `warn`."""
    for step in reversed(steps(folder)):
        path = folder / step_name(step)
        try:
            found = _verified(path)
        except Deleted:
            continue
        except Damaged as damage:
            warn(f"checkpoint {path} is damaged ({damage}); trying the one before")
        else:
            yield found


def _verified(path: Path) -> Checkpoint:
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


def _none_whole(folder: Path) -> ConfigError:
    return NoneWhole(f"{folder} holds no whole checkpoint; seqlm resume {folder.parent} starts it from step 0")


def verify(path: Path) -> str:
    """The damage in the files of a checkpoint, or an empty text; raises ConfigError if they may not be read."""
    try:
        listed = _manifest(path)
        if sorted(listed) != sorted(FILES):
            return "its manifest is incomplete"
        for name, digest in listed.items():
            if sha256_of(path / name) != digest:
                return f"{name} does not match its SHA-256"
        _meta(read_bounded(path / "meta.json", 16 * MB))
    except PermissionError as error:
        way_out = f"its owner can type chmod -R a+rX {path.parent.parent}"
        raise ConfigError(f"{error.filename} may not be read by this user; {way_out}") from None
    except (OSError, ValueError, ConfigError) as error:
        return str(error)
    return ""


def _manifest(path: Path) -> dict[str, str]:
    """The digests of a checkpoint's files, by name. Raises OSError, ValueError and ConfigError for a damaged list."""
    lines = read_bounded(path / MANIFEST, 1 << 16).decode().splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def newest_meta(folder: Path) -> dict[str, Any] | None:
    """The newest meta.json that is as its manifest says, without a look at the weights; None if there is none."""
    for step in reversed(steps(folder)):
        path = folder / step_name(step)
        with suppress(OSError, ValueError, ConfigError):
            text = read_bounded(path / "meta.json", 16 * MB)
            if _manifest(path).get("meta.json") == hashlib.sha256(text).hexdigest():
                return _meta(text)
    return None


def _meta(text: bytes) -> dict[str, Any]:
    """The content of a meta.json, whoever wrote its manifest. Raises ValueError."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("step"), int):
        raise ValueError("meta.json names no step")
    return found


def _opened(path: Path) -> Checkpoint:
    meta = _meta(read_bounded(path / "meta.json", 16 * MB))
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
