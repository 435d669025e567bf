"""Processes that torchrun has started become the ranks of one training: they meet, agree, and leave together."""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from .. import __version__
from ..config.keys import dotted
from ..config.schema import DATA_PATHS, RANDOM_SEED, Config
from ..errors import ConfigError, RankFailed, SeqlmError, broken_pipe, describe, print_error
from .distributed import ALONE, Ranks
from .signals import Interrupted
from .torchrun import Launched, by_torchrun, launched
from .watch import JOIN, Watch, gather_members, leave

if TYPE_CHECKING:
    from .session import Session

T = TypeVar("T")
FOREVER = timedelta(days=365)  # rank 0 may evaluate for long; whether others are still there is for Watch to say


class Ended(SystemExit):
    """An error on its way out through code that would print words of its own about any other exception."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error.exit_code if isinstance(error, SeqlmError) else 1)
        self.error = error


@contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks that this process is one of; ALONE if it was not started as one of several.

    Rank 0 alone prints. An error of one rank is an error of all: it is printed once, and each process ends with its
    exit code.
    """
    place = launched()
    if place is None:
        yield ALONE
        return
    if place.rank:
        _silence()
    watch = None
    try:
        watch, ranks = _join(place)
        yield ranks
        ranks.all(None)  # none leaves before all are done
    except BaseException as error:
        sys.stderr = sys.__stderr__
        leave(_end(error.error if isinstance(error, Ended) else error, watch, place.rank))
        raise
    watch.close()
    dist.destroy_process_group()


def _silence() -> None:
    """Let nothing be seen of this process but its errors."""
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    warnings.simplefilter("ignore")


def _join(place: Launched) -> tuple[Watch, Ranks]:
    """Meet the others at MASTER_ADDR, share out the cores, and be able to communicate."""
    store = _store(place)
    ask: Callable[[], str] = lambda: store.get("watch").decode()  # noqa: E731
    watch = gather_members(place.rank, place.world_size, place.address, lambda text: store.set("watch", text), ask)
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    try:
        dist.init_process_group(
            backend, store=PrefixStore("ranks", store), rank=place.rank, world_size=place.world_size,
            timeout=FOREVER,
        )  # fmt: skip
    except RuntimeError as error:
        watch.check(1.0)
        raise SeqlmError(f"the ranks cannot connect ({_first_line(error)}); see GLOO_SOCKET_IFNAME of torch") from None
    ranks = Ranks(place.rank, place.world_size, watch, store)
    _share_cores(ranks, watch)
    return watch, ranks


def _store(place: Launched) -> Any:
    """The key-value store of torch that all ranks know: that of torchrun, or one of rank 0."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        store, _, _ = next(iter(rendezvous("env://", timeout=timedelta(seconds=JOIN))))
    except (RuntimeError, OSError, ValueError) as error:
        if "EADDRINUSE" in str(error) or "in use" in str(error):
            raise ConfigError(
                f"MASTER_PORT={place.port} is in use on this machine, by another training perhaps; "
                f"start all ranks with another, such as MASTER_PORT={place.port + 1}"
            ) from None
        where = f"{place.address}:{place.port} (MASTER_ADDR, MASTER_PORT)"
        raise SeqlmError(f"rank {place.rank} cannot reach {where}: {_first_line(error)}") from None
    job = "/".join(os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RESTART_COUNT"))
    return PrefixStore(f"seqlm/{job}", store)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _share_cores(ranks: Ranks, watch: Watch) -> None:
    """Compute on this rank's share of the cores that it may use; torchrun sets OMP_NUM_THREADS=1 by itself."""
    own = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]
    host = watch.members[ranks.rank].host
    sharing = ranks.all([host, own]).count([host, own])
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, len(own) // sharing))


def _end(error: BaseException, watch: Watch | None, rank: int) -> int:
    """Say once why all ranks end; returns the exit code."""
    if (
        isinstance(error, KeyboardInterrupt) and watch is not None
    ):  # torchrun's, perhaps, because another rank has ended
        try:
            watch.check(0.5)
        except RankFailed as failed:
            error = failed
    code, text = _told(error)

    def show() -> int:
        if isinstance(error, BrokenPipeError):
            return broken_pipe()
        if not isinstance(error, (SeqlmError, OSError, KeyboardInterrupt, SystemExit)):
            traceback.print_exception(error)
        elif text:
            print_error(SeqlmError(f"rank {rank}: {text}" if rank and not isinstance(error, RankFailed) else text))
        return code

    if watch is None:
        return show()
    if isinstance(error, SystemExit):
        return watch.report(error, text, code, lambda: code)
    return watch.report(error, text, code, show)


def _told(error: BaseException) -> tuple[int, str]:
    """The exit code and the text of whatever ended a rank; no text where there is nothing to say."""
    if isinstance(error, SystemExit):
        return (error.code if isinstance(error.code, int) else 1 if error.code else 0), ""
    if isinstance(error, Interrupted):
        return 128 + error.number, f"stopped by {error}"
    if isinstance(error, KeyboardInterrupt):
        return 130, ""
    if isinstance(error, BrokenPipeError):
        return 141, ""
    if isinstance(error, SeqlmError):
        return error.exit_code, str(error)
    return 1, describe(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"


def agreed(ranks: Ranks, config: Config, words: Sequence[str]) -> Config:
    """The config that all ranks have, with the seeds that rank 0 has drawn. Raises ConfigError if they differ."""
    drawn = [word.partition("=")[0] for word in words if word.endswith(f"={RANDOM_SEED}")]
    elsewhere = ("run.", "threads", "resume", "init_from", *(f"data.{key}" for key in DATA_PATHS), *drawn)
    values = {key: value for key, value in dotted(asdict(config)).items() if not key.startswith(elsewhere)}
    typed = sorted(word for word in words if not word.lstrip("+").startswith((*elsewhere, "paths.")))
    agree(ranks, {"seqlm": __version__, "torch": str(torch.__version__), **values, "words": " ".join(typed)})
    seed, sample = ranks.first([config.seed, config.sample.seed])
    return replace(config, seed=seed, sample=replace(config.sample, seed=sample))


def check_same_data(session: Session) -> None:
    """Raise ConfigError, on all ranks, if one of them reads other data than rank 0."""
    if session.ranks.count > 1:
        agree(session.ranks, {"the data's fingerprint": session.data.fingerprint})


def agree(ranks: Ranks, facts: dict[str, Any]) -> None:
    """Raise ConfigError, on all ranks, if one of them differs from rank 0 in any of the facts, by name."""
    first, *others = ranks.all(json.loads(json.dumps(facts, default=str)))
    for rank, other in enumerate(others, 1):
        for name in [name for name in {**first, **other} if first.get(name) != other.get(name)][:1]:
            raise ConfigError(
                f"rank {rank} has {name}={_shown(other.get(name))}, rank 0 has {name}={_shown(first.get(name))}; "
                "start all ranks with the same words, files and versions"
            )


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def first_here(ranks: Ranks, do: Callable[[], T]) -> T:
    """Call `do` on one rank of each machine, then on the others there, which find in the cache what it has made."""
    if ranks.count == 1:
        return do()
    place = ranks.watch.local[0] if ranks.watch else ranks.rank
    if place == 0:
        done = do()
        ranks.all(None)
        return done
    ranks.all(None)
    return do()


def own_device(ranks: Ranks, device: str) -> str:
    """The device of this rank: of the GPUs of a machine each rank there has its own. Raises ConfigError."""
    if ranks.count == 1 or not device.startswith(("auto", "cuda")):
        return device
    if device == "auto" and not torch.cuda.is_available():
        return "cpu"
    if ":" in device:
        raise ConfigError(f"device={device} is one GPU, for {ranks.count} ranks; device=cuda gives each its own")
    place, here = ranks.watch.local if ranks.watch else (ranks.rank, ranks.count)
    there = torch.cuda.device_count()
    if 0 < there < here and (there > 1 or by_torchrun()):
        raise ConfigError(f"device={device}: {here} ranks here, but {there} GPUs; use --nproc-per-node={there}")
    index = place if there >= here else 0  # srun may show each process a GPU of its own alone
    with suppress(RuntimeError, AssertionError):  # a device that is not there is refused elsewhere
        torch.cuda.set_device(index)
    return f"cuda:{index}"


def resume_command(ranks: Ranks, run: str) -> str:
    """The command that resumes a run, given its words, by as many ranks; started by whatever else has started them."""
    if ranks.count == 1:
        return f"seqlm resume {run}"
    hosts = {one.host for one in ranks.watch.members} if ranks.watch else set()
    if by_torchrun() and len(hosts) == 1:
        return f"torchrun --standalone --nproc-per-node={ranks.count} -m seqlm resume {run}"
    return f"seqlm resume {run} (started as these {ranks.count} processes were)"
