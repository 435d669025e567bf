"""Full disks: runs on a file system of a few kilobytes, so that every write of a run is once the first to fail."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
from pathlib import Path

from .hooks import mutate, replace
from .jobs import Done
from .kill import damage_of
from .runner import Campaign, Case
from .settings import difference, litter, outcome, train_or_resume, trained, training

LEVELS = 26
NEWNS, NEWUSER = 0x00020000, 0x10000000  # of unshare(2)
REMOUNT, REC, PRIVATE = 32, 16384, 1 << 18  # of mount(2)
PAGE = 4096
VERBS = (
    ("resume", "run", "train.steps=30"), ("eval", "run"), ("eval", "run", "split=test"), ("runs", "."),
    ("predict", "run", "-"),
)  # fmt: skip


def case(case: Case) -> None:
    task = ("lm", "tagging")[case.number % 2]
    words, whole = trained(case, task)
    disk = case.folder / "disk"
    disk.mkdir()
    if not mount(disk, 64 << 20):
        case.count("no file system of one's own")
        return
    env = {"SEQLM_CACHE": str(disk / "cache"), "TMPDIR": str(disk)}
    run = disk / "run"
    used = _used(case, words, disk, env)
    level = (15 + 11 * case.number) % LEVELS  # spread: the few of the short form meet different writes
    mount(disk, max(1, used * (level + 1) // LEVELS) * PAGE, again=True)
    done = case.run(training(case, words, disk), folder=disk, env=env)
    case.count("levels")
    _judge(case, f"level {level}, train", done, run)
    mount(disk, 64 << 20, again=True)
    done = case.run(train_or_resume(case, words, run), folder=disk, env=env)
    if done.code:
        case.fail("lost", f"level {level}: not resumed once there was room: {done.tail()}")
        return
    wanted = json.loads((whole / "outcome.json").read_text(encoding="utf-8"))["outcome"]
    if differs := difference(wanted, outcome(run)):
        case.fail("differs", f"level {level}: {differs}")
    if left := litter(run) + [path.name for path in disk.glob(".*")]:
        case.fail("litter", f"level {level}: {left}")
    _fill(disk)
    for verb in VERBS:
        done = case.run(verb, folder=disk, env=env, input=b"a b c\n")
        case.count("verbs on a full disk")
        _judge(case, f"full, {verb[0]}", done, run)


def _used(case: Case, words: list[str], disk: Path, env: dict[str, str]) -> int:
    """Pages that a whole run and its cache take; the disk is empty again."""
    done = case.run(training(case, words, disk), folder=disk, env=env)
    if done.code:
        raise AssertionError(done.tail(20))
    stat = os.statvfs(disk)
    used = stat.f_blocks - stat.f_bfree
    for path in disk.iterdir():
        shutil.rmtree(path)
    return used


def _judge(case: Case, where: str, done: Done, run: Path) -> None:
    """A refusal is a few lines that name a path and what is free, and no part of a checkpoint is left."""
    if not done.clean:
        case.fail("traceback", f"{where}: {done.tail()}")
    elif done.code and re.search(r"\bErrno\b", done.text) or done.code and len(done.text.strip().splitlines()) > 30:
        case.fail("bare message", f"{where}: {done.tail()}")
    elif done.code and not (re.search(r"full|free|room|space", done.text) and re.search(r"\brun/|/disk/", done.text)):
        case.fail("bare message", f"{where}: names no path or no room: {done.tail()}")
    elif done.code:
        case.count("refused")
    for path in (run / "checkpoints").glob("step-*"):
        if damage := damage_of(path):
            case.fail("partial", f"{where}: {path.name}: {damage}")


def _fill(disk: Path) -> None:
    """Take all the room there is."""
    descriptor = os.open(disk / "filler", os.O_CREAT | os.O_WRONLY)
    try:
        while True:
            os.write(descriptor, bytes(PAGE))
    except OSError:
        os.close(descriptor)


def mount(folder: Path, size: int, again: bool = False) -> bool:
    """A file system in memory, seen by this process and its children only; False where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={size}".encode()
    if again:
        return bool(libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", REMOUNT, options) == 0)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(NEWNS if user == 0 else NEWNS | NEWUSER):
        return False
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    libc.mount(b"none", b"/", None, REC | PRIVATE, None)
    return bool(libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, options) == 0)


def _part() -> None:
    """A save that fails leaves its part under the name of the whole."""
    mutate(
        "seqlm.runs.checkpoint:save",
        "shutil.rmtree(aside, ignore_errors=True)",
        "aside.exists() and aside.rename(final)",
    )


def _bare() -> None:
    replace("seqlm.runs.checkpoint:_save_failed", lambda path, error: error)


CAMPAIGN = Campaign(
    "disk",
    f"a full disk, at {LEVELS} sizes of the disk and under {len(VERBS)} verbs",
    case,
    sizes={"short": 3, "full": LEVELS},
    least={"levels": LEVELS},
    mutants={"leave-parts": _part, "bare-message": _bare},
)
