"""Ranks that watch each other: when one is killed, stopped or fails, all of them end, and one says why.

    rank 1, 2, ... <-- a line a second, both ways --> rank 0

A collective operation cannot tell a slow rank from one that is stopped: rank 0 may evaluate for an hour while the
others wait for it. So each rank has a thread that sends a line every second whatever its main thread does; a closed
connection or a long silence means that a rank is gone, which rank 0 passes on to all the others.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from ..errors import RankFailed, SeqlmError, print_error

BEAT = 1.0  # seconds between two lines
SILENCE = 15.0  # seconds after which a rank counts as stopped
GRACE = 5.0  # seconds that the main thread has to leave by itself, once a rank is gone
ANSWER = 10.0  # seconds to wait for rank 0 to print the error of another rank
JOIN = 120.0  # seconds to wait at the start until all ranks are there


class Member(NamedTuple):
    """The process that is a rank."""

    rank: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}, pid {self.pid})"


class Failure(NamedTuple):
    """The end of a rank, which ends all: their exit code, the message, and whether rank 0 has printed it."""

    rank: int
    code: int
    text: str
    printed: bool = False


class Watch:
    """The connections of one rank: those of rank 0 to all others, or the one of another rank to rank 0.

    `way_on` is a line for whoever reads that a rank is gone: how the training is resumed.
    """

    def __init__(self, rank: int, members: Sequence[Member], peers: dict[int, socket.socket]) -> None:
        self.rank, self.members, self.way_on = rank, list(members), ""
        self._peers, self._unread = peers, {peer: b"" for peer in peers}
        self._heard = dict.fromkeys(peers, time.monotonic())
        self._done: set[int] = set()
        self._failure: Failure | None = None
        self._alone = False  # rank 0 is gone
        self._leave_at = 0.0
        self._changed, self._closing = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="seqlm-watch", daemon=True)
        self._thread.start()

    @property
    def local(self) -> tuple[int, int]:
        """The place of this rank among those on its machine, and their number."""
        here = [one.rank for one in self.members if one.host == self.members[self.rank].host]
        return here.index(self.rank), len(here)

    def check(self, seconds: float = 0.0) -> None:
        """Raise RankFailed if a rank has failed or is gone, or will be known to be within so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None, seconds)
        if self._failure is not None:
            raise RankFailed(self._failure.text, self._failure.code)

    def report(self, error: BaseException, text: str, code: int, show: Callable[[], int]) -> int:
        """End all ranks with an error of this one; it is shown once, by rank 0 if that can. Returns the exit code.

        A rank does not end before that: torchrun stops all others as soon as one has ended.
        """
        if self.rank == 0:
            self._found(Failure(0, code, text))
            shown = show()
            self._printed()
            return shown
        own = not isinstance(error, RankFailed)
        if own:
            self._send(0, {"failed": [self.rank, code, f"rank {self.rank}: {text}" if text else ""]})
        with self._changed:
            known = lambda: self._alone or (self._failure is not None and self._failure.printed)  # noqa: E731
            answered = self._changed.wait_for(known, ANSWER)
        return show() if (self._alone or not answered) and (own or self._speaks()) else code

    def close(self) -> None:
        """Leave without alarm: this rank has done all that there was to do."""
        for peer in self._peers:
            self._send(peer, {"done": True})
        self._closing = True
        self._thread.join(2 * BEAT)
        for connection in self._peers.values():
            connection.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for peer, connection in self._peers.items():
                selector.register(connection, selectors.EVENT_READ, peer)
            beat_at = looked = time.monotonic()
            while not self._closing:
                for key, _ in selector.select(max(0.0, beat_at - time.monotonic())):
                    if not self._read(key.data):
                        selector.unregister(key.fileobj)
                now = time.monotonic()
                if now - looked > SILENCE / 2:  # it was this process that was stopped, or had no time
                    self._heard = dict.fromkeys(self._heard, now)
                looked = now
                if now >= beat_at:
                    beat_at = now + BEAT
                    for peer in self._peers:
                        self._send(peer, None)
                self._look(now)

    def _look(self, now: float) -> None:
        """Notice who is silent; leave, if the main thread has not left by itself."""
        for peer, heard in self._heard.items():
            if now - heard > SILENCE and peer not in self._done:
                self._gone(peer, f"was not heard for {SILENCE:.0f} s: it is stopped, or its machine cannot be reached")
                if self.members[peer].host == self.members[self.rank].host:  # it is to end, too
                    with suppress(OSError):
                        os.kill(self.members[peer].pid, signal.SIGCONT)
        if self._failure is not None and now >= self._leave_at:
            if self._speaks() and self._failure.text:
                sys.stderr = sys.__stderr__
                print_error(RankFailed(self._failure.text, self._failure.code))
            if self.rank == 0:
                self._printed()
            leave(self._failure.code)

    def _read(self, peer: int) -> bool:
        """Take what a rank has sent; False if its connection is closed."""
        try:
            data = self._peers[peer].recv(65536)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            if peer not in self._done and not self._closing:
                self._gone(peer, "is gone: it was killed, or has crashed")
            return False
        self._heard[peer] = time.monotonic()
        *lines, self._unread[peer] = (self._unread[peer] + data).split(b"\n")
        for message in (json.loads(line) for line in lines if line):
            if "done" in message:
                self._done.add(peer)
            else:
                failure = Failure(*message["failed"])
                if peer or failure.printed:  # the connection will be closed next
                    self._done.add(peer)
                self._found(failure)
        return True

    def _gone(self, peer: int, how: str) -> None:
        self._done.add(peer)
        self._alone = peer == 0
        failure = Failure(peer, 1, f"{self.members[peer]} {how}" + (f"\n{self.way_on}" if self.way_on else ""))
        self._found(failure)
        if self._alone:  # should it wake up, it need not say anything
            self._send(peer, {"failed": failure._replace(printed=True)})

    def _found(self, failure: Failure) -> None:
        """Keep the first failure, and pass it on if this is rank 0."""
        with self._changed:
            if self._failure is None:
                self._failure = failure
                self._leave_at = time.monotonic() + GRACE * (1 if self.rank == 0 else 1.5)
            elif failure.printed:
                self._failure = self._failure._replace(printed=True)
            self._changed.notify_all()
        if self.rank == 0:
            self._tell()

    def _printed(self) -> None:
        """Let the others end, now that rank 0 has said why."""
        with self._changed:
            assert self._failure is not None
            self._failure = self._failure._replace(printed=True)
        self._tell()

    def _tell(self) -> None:
        assert self._failure is not None
        for peer in self._peers:
            self._send(peer, {"failed": self._failure})

    def _speaks(self) -> bool:
        """Whether it is for this rank to print the failure: rank 0, or where that is gone the first of each machine."""
        if self.rank == 0:
            return self._failure is not None and not self._failure.printed
        here = [one.rank for one in self.members[1:] if one.host == self.members[self.rank].host]
        return self._alone and self.rank == here[0]

    def _send(self, peer: int, message: object) -> None:
        line = b"\n" if message is None else json.dumps(message).encode() + b"\n"
        with suppress(OSError):  # it is gone, which is noticed when it is read from
            self._peers[peer].sendall(line)


def leave(code: int) -> None:
    """End this process now: with an operation that waits for a rank that is gone, torch would never let it end."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def gather_members(rank: int, count: int, address: str, tell: Callable[[str], None], ask: Callable[[], str]) -> Watch:
    """Connect all ranks with rank 0. `tell` publishes the text that `ask` waits for, on whichever rank.

    Raises SeqlmError if they are not all there in JOIN seconds.
    """
    me = Member(rank, socket.gethostname(), os.getpid())
    if rank:
        port, token = ask().split()
        try:
            connection = socket.create_connection((address, int(port)), JOIN)
            connection.sendall(json.dumps([token, *me]).encode() + b"\n")
            members = [Member(*one) for one in json.loads(_line(connection, time.monotonic() + JOIN))]
        except (OSError, ValueError) as error:
            raise SeqlmError(f"rank {rank} cannot reach rank 0 at {address} ({error})") from None
        return _watch(rank, members, {0: connection})
    here = "localhost" if address in ("localhost", "127.0.0.1", "::1") else ""
    with socket.create_server((here, 0), backlog=count) as server:
        token = secrets.token_hex(16)
        tell(f"{server.getsockname()[1]} {token}")
        found = _accept(server, count, token)
    members = [me, *(found[other][0] for other in sorted(found))]
    for _, connection in found.values():
        connection.sendall(json.dumps(members).encode() + b"\n")
    return _watch(0, members, {other: connection for other, (_, connection) in sorted(found.items())})


def _accept(server: socket.socket, count: int, token: str) -> dict[int, tuple[Member, socket.socket]]:
    """The members that have come to rank 0, each with its connection; who does not know the token is sent away."""
    end, found = time.monotonic() + JOIN, dict[int, tuple[Member, socket.socket]]()
    while missing := sorted({*range(1, count)} - found.keys()):
        server.settimeout(max(0.01, end - time.monotonic()))
        try:
            connection, _ = server.accept()
        except TimeoutError:
            ranks = f"rank{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
            raise SeqlmError(f"{ranks} did not come within {JOIN:.0f} s") from None
        try:
            known, *member = json.loads(_line(connection, min(end, time.monotonic() + 5.0)))
            if not hmac.compare_digest(str(known), token):
                raise ValueError(known)
            found[member[0]] = Member(*member), connection
        except (OSError, ValueError):
            connection.close()
    return found


def _line(connection: socket.socket, end: float) -> bytes:
    """A line, read byte by byte: what comes behind it belongs to the watch."""
    read = b""
    while not read.endswith(b"\n"):
        connection.settimeout(max(0.01, end - time.monotonic()))
        if not (byte := connection.recv(1)):
            raise ConnectionError("it closed the connection")
        read += byte
    return read


def _watch(rank: int, members: Sequence[Member], peers: dict[int, socket.socket]) -> Watch:
    for connection in peers.values():
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Watch(rank, members, peers)
