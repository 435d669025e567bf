"""Downloads: resumed where they stopped, and verified before they get their name."""

from __future__ import annotations

import fcntl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import NamedTuple, cast

from ...errors import ConfigError
from ...files import flush, sha256_of
from ...terminal import bar

BLOCK = 1 << 16  # bytes read at once
TIMEOUT = 30.0  # seconds without an answer, or without the next byte
TRIES = 5  # connections that may break before we give up


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
    Raises ConfigError, with what to do by hand, if the server cannot be reached or sends something else.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _held(target):
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
            f"the cache {target.parent} cannot be used ({error}); set SEQLM_CACHE to another folder"
        ) from error


@contextmanager
def _held(target: Path) -> Iterator[None]:
    """Hold `target` for writing, waiting for whoever does now. Released even by kill -9."""
    with target.with_name(f".{target.name}.lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that downloads {target.name}", file=sys.stderr, flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _receive(remote: Remote, part: Path, by_hand: str) -> None:
    """Fill `part` up to `remote.size` bytes, connecting anew where a connection breaks."""
    for _ in range(TRIES):
        have = part.stat().st_size if part.is_file() else 0
        if have == remote.size:
            return
        if have > remote.size:  # of another version of the file
            part.unlink()
            have = 0
        with _connect(remote.url, have, by_hand) as response:
            _append(response, remote, part, have)
    have = part.stat().st_size if part.is_file() else 0
    if have != remote.size:
        raise ConfigError(
            f"{remote.url} broke off {TRIES} times, after {have:,} of {remote.size:,} bytes; the same command resumes "
            f"there. Or {by_hand}"
        )


def _connect(url: str, start: int, by_hand: str) -> HTTPResponse:
    """The response to a request for the bytes of `url` from `start`; the server may send all of them instead."""
    headers = {"User-Agent": "seqlm", "Accept-Encoding": "identity"}  # some servers refuse urllib's own name
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
        return cast("HTTPResponse", response)
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == 416:  # range not satisfiable: what we have is of another file
            return _connect(url, 0, by_hand)
        raise ConfigError(f"{url} cannot be had: the server says {error.code} {error.reason}; {by_hand}") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(f"{url} cannot be reached ({reason}); without a network, {by_hand}") from None


def _append(response: HTTPResponse, remote: Remote, part: Path, have: int) -> None:
    """Append the bytes of `response` to the `have` bytes of `part`, or replace them if it starts at byte 0."""
    resumed = response.status == 206
    if resumed and not str(response.headers["Content-Range"]).startswith(f"bytes {have}-"):
        part.unlink(missing_ok=True)  # not the bytes that were asked for: ask for all of them
        return
    length = response.headers["Content-Length"]
    if not resumed and length not in (None, str(remote.size)):
        raise ConfigError(
            f"{remote.url} is not the file it should be: the server has {length} bytes, expected {remote.size}; give "
            "data.path= with a copy that you trust"
        )
    shown = bar(remote.size, remote.name, "B", large=True, done=have if resumed else 0, delay=0)
    with shown, part.open("ab" if resumed else "wb") as out:
        while block := _next_block(response):
            out.write(block)
            shown.update(len(block))
            if out.tell() > remote.size:
                part.unlink()
                raise ConfigError(
                    f"{remote.url} is not the file it should be: it has more than {remote.size:,} bytes; it was thrown "
                    "away. Give data.path= with a copy that you trust"
                )


def _next_block(response: HTTPResponse) -> bytes:
    """The next bytes; none at the end, nor where the connection breaks: the size tells them apart."""
    try:
        return response.read(BLOCK)
    except (OSError, HTTPException):
        return b""
