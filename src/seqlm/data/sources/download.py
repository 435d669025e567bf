"""Downloads: resumed where they stopped, and verified before they get their name."""

from __future__ import annotations

import math
import os
import queue
import stat
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar, cast

from ...cache.entries import locked
from ...errors import ConfigError, describe
from ...files import create, flush, sha256_of, writing
from ...terminal import bar

T = TypeVar("T")
BLOCK = 1 << 16  # bytes read at once
TIMEOUT = 30.0  # seconds without an answer, or without the next byte
TRIES = 5  # connections that may break before we give up
LEAST_SPEED = 10_000  # bytes a second, on average over so many seconds: a slower server is given up, and in the end
WINDOW = 60.0  # a download of N bytes takes N / LEAST_SPEED seconds at most


class Remote(NamedTuple):
    """A file to download, with its size and SHA-256."""

    url: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def fetch(remote: Remote, target: Path) -> None:
    """Download `remote` to `target`, unless it is there already.

    What has arrived stays in `<target>.part`, where the next attempt goes on if the server allows it. Only a file of
    the right size and SHA-256 gets the name `target`. A second process that wants the same file waits for the first.
    A link in the place of either file is not followed. Raises ConfigError, with what to do by hand, if the server
    cannot be reached, is too slow, or sends something else.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        waiting = f"waiting for another process that downloads {target.name}"
        with locked(target.with_name(f".{target.name}.lock"), math.inf, waiting):
            if target.is_file() and sha256_of(target) == remote.sha256:
                return
            part = target.with_name(f"{target.name}.part")
            _receive(remote, part, f"download it yourself, and put it at {target} or give data.path=FILE")
            digest = sha256_of(part)
            if digest != remote.sha256:
                part.unlink()
                raise ConfigError(
                    f"{remote.url} is not the file it should be: SHA-256 {digest}, expected {remote.sha256}; it was "
                    "thrown away. Try again; if that does not help, give data.path= with a copy that you trust"
                )
            flush(part)
            part.replace(target)
            flush(target.parent)
    except OSError as error:
        raise ConfigError(
            f"the cache {target.parent} cannot be used ({describe(error)}); set SEQLM_CACHE to another folder"
        ) from error


def _receive(remote: Remote, part: Path, by_hand: str) -> None:
    """Fill `part` up to `remote.size` bytes, connecting anew where a connection breaks."""
    for _ in range(TRIES):
        have = _arrived(part)
        if have == remote.size:
            return
        if have > remote.size:  # of another version of the file
            part.unlink()
            have = 0
        with _connect(remote.url, have, by_hand) as response:
            if _append(response, remote, part, have):
                continue
        raise ConfigError(
            f"{remote.url} is too slow: less than {LEAST_SPEED / 1000:g} kB a second, {_arrived(part):,} of "
            f"{remote.size:,} bytes so far; the same command resumes there. Or {by_hand}"
        )
    have = _arrived(part)
    if have != remote.size:
        raise ConfigError(
            f"{remote.url} broke off {TRIES} times, after {have:,} of {remote.size:,} bytes; the same command resumes "
            f"there. Or {by_hand}"
        )


def _arrived(part: Path) -> int:
    """The bytes that have arrived; a link, or a file that has another name too, is removed: it is not of our making."""
    try:
        facts = part.lstat()
    except FileNotFoundError:
        return 0
    if stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1:
        return facts.st_size
    part.unlink()
    return 0


def _open_part(part: Path, resumed: bool) -> BinaryIO:
    """The file for what arrives, to go on with it or to begin it again."""
    if not resumed:
        part.unlink(missing_ok=True)
        return create(part, 0o600)
    return os.fdopen(os.open(part, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC), "ab")


def _connect(url: str, start: int, by_hand: str) -> HTTPResponse:
    """The response to a request for the bytes of `url` from `start`; the server may send all of them instead."""
    headers = {"User-Agent": "seqlm", "Accept-Encoding": "identity"}  # some servers refuse urllib's own name
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        request = urllib.request.Request(url, headers=headers)
        response = _within(2 * TIMEOUT, lambda: urllib.request.urlopen(request, timeout=TIMEOUT))
        return cast("HTTPResponse", response)
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == 416:  # range not satisfiable: what we have is of another file
            return _connect(url, 0, by_hand)
        raise ConfigError(f"{url} cannot be had: the server says {error.code} {error.reason}; {by_hand}") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(f"{url} cannot be reached ({reason}); without a network, {by_hand}") from None


def _within(seconds: float, work: Callable[[], T]) -> T:
    """The result of `work`; raises TimeoutError if it takes longer, as a server can do that sends a header bytewise."""
    done: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((work(), None))
        except BaseException as error:
            done.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = done.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer for {seconds:g} seconds") from None
    if error is not None:
        raise error
    return cast("T", result)


def _append(response: HTTPResponse, remote: Remote, part: Path, have: int) -> bool:
    """Append the bytes of `response` to the `have` bytes of `part`, or replace them if it starts at byte 0.

    Whether it was fast enough.
    """
    resumed = response.status == 206
    if resumed and not str(response.headers["Content-Range"]).startswith(f"bytes {have}-"):
        part.unlink(missing_ok=True)  # not the bytes that were asked for: ask for all of them
        return True
    length = response.headers["Content-Length"]
    if not resumed and length not in (None, str(remote.size)):
        raise ConfigError(
            f"{remote.url} is not the file it should be: the server has {length} bytes, expected {remote.size}; give "
            "data.path= with a copy that you trust"
        )
    shown = bar(remote.size, remote.name, "B", large=True, done=have if resumed else 0, delay=0)
    with shown, _open_part(part, resumed) as out:
        end, due = time.monotonic() + WINDOW, out.tell() + LEAST_SPEED * WINDOW
        while block := _next_block(response):
            with writing(part, remote.size - have):
                out.write(block)
            shown.update(len(block))
            if time.monotonic() > end:
                if out.tell() < due:
                    return False
                end, due = time.monotonic() + WINDOW, out.tell() + LEAST_SPEED * WINDOW
            if out.tell() > remote.size:
                part.unlink()
                raise ConfigError(
                    f"{remote.url} is not the file it should be: it has more than {remote.size:,} bytes; it was thrown "
                    "away. Give data.path= with a copy that you trust"
                )
    return True


def _next_block(response: HTTPResponse) -> bytes:
    """The next bytes; none at the end, nor where the connection breaks: the size tells them apart."""
    try:
        return response.read1(BLOCK)  # what is there: to wait for a whole block would hide a slow server
    except (OSError, HTTPException):
        return b""
