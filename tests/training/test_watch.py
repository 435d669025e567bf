"""Ranks that watch each other, here as threads of one process: who is gone, who says so, and who may take long."""

from __future__ import annotations

import json
import os
import queue
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from seqlm.errors import ConfigError, RankFailed, SeqlmError
from seqlm.training import watch
from seqlm.training.torchrun import launched

STARTED: list[watch.Watch] = []


@pytest.fixture
def left(monkeypatch):
    """Exit codes of the ranks that were made to leave, in quick time; none does."""
    codes: list[int] = []
    monkeypatch.setattr(watch, "leave", codes.append)
    for name, seconds in {"BEAT": 0.02, "SILENCE": 0.5, "GRACE": 0.2, "ANSWER": 2.0}.items():
        monkeypatch.setattr(watch, name, seconds)
    yield codes
    close(STARTED)  # also where a test has failed: their threads would end this process, once `leave` is as it was
    STARTED.clear()


def together(count: int, silent: bool = False) -> tuple[list[watch.Watch], socket.socket | None]:
    """The watches of all ranks; the last of them may be one that only says who it is."""
    published: queue.Queue[str] = queue.Queue()

    def tell(text: str) -> None:
        for _ in range(count - 1):
            published.put(text)

    def mute() -> socket.socket:
        port, token = published.get().split()
        connection = socket.create_connection(("localhost", int(port)))
        connection.sendall(json.dumps([token, count - 1, "elsewhere", 7]).encode() + b"\n")
        return connection

    with ThreadPoolExecutor(count) as threads:
        known = [
            threads.submit(watch.gather_members, rank, count, "localhost", tell, published.get)
            for rank in range(count - silent)
        ]
        other = threads.submit(mute) if silent else None
        watches = [one.result() for one in known]
        STARTED.extend(watches)
        return watches, other.result() if other else None


def close(watches: list[watch.Watch]) -> None:
    threads = [threading.Thread(target=one.close) for one in watches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_rank_may_take_its_time_and_leave_in_peace(left):
    watches, _ = together(3)
    assert [one.local for one in watches] == [(0, 3), (1, 3), (2, 3)]
    time.sleep(2 * watch.SILENCE)
    watches[2].close()
    time.sleep(3 * watch.BEAT)
    for one in watches[:2]:
        one.check()
    close(watches[:2])
    assert not left


@pytest.mark.parametrize("gone", [0, 2])
def test_a_rank_that_is_gone_ends_all_with_its_name(left, gone):
    watches, _ = together(3)
    others = [one for one in watches if one.rank != gone]
    for one in others:
        one.way_on = "resume it"
    watches[gone]._closing = True
    watches[gone]._thread.join()
    for connection in watches[gone]._peers.values():  # as the system does for a process that is killed
        connection.shutdown(socket.SHUT_RDWR)
    shown = []
    for one in others:
        with pytest.raises(RankFailed, match=f"(?s)rank {gone} .*pid {os.getpid()}.* is gone.*resume it") as failed:
            one.check(5.0)
        one.report(failed.value, str(failed.value), 1, lambda rank=one.rank: shown.append(rank) or 1)
    assert shown == [1 if gone == 0 else 0]
    time.sleep(2 * watch.GRACE)
    assert left and set(left) == {1}, "whose main thread does not leave by itself is made to"
    close(watches)


def test_a_rank_that_is_silent_counts_as_stopped(left):
    watches, connection = together(2, silent=True)
    with pytest.raises(RankFailed, match=r"rank 1 \(elsewhere, pid 7\) was not heard for"):
        watches[0].check(5.0)
    connection.close()
    close(watches)


def test_the_error_of_a_rank_is_shown_once_by_rank_0_with_its_number(left, capsys):
    watches, _ = together(3)
    error = ConfigError("data.path=x is not there")
    with ThreadPoolExecutor(1) as thread:
        code = thread.submit(watches[1].report, error, str(error), 2, lambda: pytest.fail("rank 0 shows it"))
        _told_to(watches, 0, 2)
        assert code.result() == 2
    close(watches)


def _told_to(watches, *ranks):
    for rank in ranks:
        with pytest.raises(RankFailed, match="rank 1: data.path=x is not there") as failed:
            watches[rank].check(5.0)
        assert failed.value.exit_code == 2
        shown = []
        assert watches[rank].report(failed.value, "", 2, lambda shown=shown: shown.append(1) or 2) == 2
        assert len(shown) == (rank == 0)


def test_an_error_of_all_ranks_is_shown_once(left):
    watches, _ = together(3)
    shown = []
    with ThreadPoolExecutor(3) as threads:
        codes = [
            threads.submit(one.report, SeqlmError("no"), "no", 1, lambda rank=one.rank: shown.append(rank) or 1)
            for one in watches
        ]
        assert [code.result() for code in codes] == [1, 1, 1]
    assert shown == [0]
    close(watches)


def test_who_does_not_know_the_word_is_sent_away(left):
    with socket.create_server(("localhost", 0)) as server:
        known = ThreadPoolExecutor(1).submit(watch._accept, server, 2, "token")
        stranger = socket.create_connection(server.getsockname())
        stranger.sendall(json.dumps(["guess", 1, "host", 1]).encode() + b"\n")
        member = socket.create_connection(server.getsockname())
        member.sendall(json.dumps(["token", 1, "host", 2]).encode() + b"\n")
        found, connection = known.result()[1]
        assert found == (1, "host", 2) and stranger.recv(1) == b""
        for one in (stranger, member, connection):
            one.close()


def test_ranks_that_do_not_come_are_named(monkeypatch):
    monkeypatch.setattr(watch, "JOIN", 0.1)
    with pytest.raises(SeqlmError, match="ranks 1, 2 did not come within"):
        watch.gather_members(0, 3, "localhost", lambda text: None, str)


def test_a_place_among_ranks_is_known_from_the_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert launched() is None
    monkeypatch.setenv("RANK", "0")
    assert launched() is None, "RANK alone may mean anything"
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched() is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="MASTER_ADDR.*torchrun"):
        launched()
    monkeypatch.setenv("MASTER_ADDR", "node1")
    with pytest.raises(ConfigError, match="MASTER_PORT= .*whole number"):
        launched()
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert launched() == (0, 2, "node1", 29500)
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ConfigError, match="RANK=2 should be from 0 to WORLD_SIZE-1=1"):
        launched()
