"""Several ranks of one training, each in a process of its own, with an end to all waiting."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

SECONDS = 300  # after which ranks that still wait are killed: a machine may be busy


def together(processes: Any, count: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """The results of function(ranks, *arguments) on `count` ranks that talk by gloo, by rank.

    `function` belongs to a module, and arguments and result can be pickled. Raises AssertionError with what was raised
    on any rank, or if one does not come to its end.
    """
    meeting = folder / f"meeting-{time.monotonic_ns()}"
    meeting.mkdir(parents=True)
    started = [
        processes.Process(target=_rank, args=(rank, count, meeting, function, arguments)) for rank in range(count)
    ]
    for one in started:
        one.start()
    end = time.monotonic() + SECONDS
    while any(one.is_alive() for one in started) and time.monotonic() < end:
        time.sleep(0.02)
        if any(one.exitcode for one in started):  # the others would wait for it
            end = min(end, time.monotonic() + 2)
    waiting = [rank for rank, one in enumerate(started) if one.is_alive()]
    for one in started:
        if one.is_alive():
            one.kill()
        one.join()
    told = [path.read_text() for path in sorted(meeting.glob("*.error"))]
    if waiting or told or any(one.exitcode for one in started):
        codes = [one.exitcode for one in started]
        raise AssertionError("\n".join([f"exit codes {codes}, killed while waiting: {waiting}", *told]))
    return [pickle.loads((meeting / f"{rank}.pickle").read_bytes()) for rank in range(count)]


def _rank(rank: int, count: int, meeting: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch
    from torch import distributed as dist

    from seqlm.training.distributed import Ranks

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    os.fsync = lambda descriptor: None
    torch.set_num_threads(1)
    try:
        if count > 1:
            store = dist.FileStore(str(meeting / "store"), count)
            limit = timedelta(seconds=SECONDS)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=limit)
        with contextlib.redirect_stdout(io.StringIO()):
            result = function(Ranks(rank, count), *arguments)
        (meeting / f"{rank}.pickle").write_bytes(pickle.dumps(result))
        if count > 1:
            dist.barrier()
            dist.destroy_process_group()
    except BaseException:
        (meeting / f"{rank}.error").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        os._exit(1)
