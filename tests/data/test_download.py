"""Downloads from a server of our own, and archives that mean ill."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import random
import re
import socket
import subprocess
import sys
import tarfile
import threading
import tracemalloc
import zipfile
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from seqlm.data.sources.archive import is_archive, unpack
from seqlm.data.sources.download import Remote, fetch
from seqlm.errors import ConfigError

from ..pseudo_terminal import left_on_screen

BODY = bytes(range(256)) * 1200
DIGEST = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Sends `body` as `mode` says, and remembers what it was asked for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.mode, self.cut, self.asked, self.closed = BODY, "range", None, [], False

    def remote(self, **changes):
        url = f"http://127.0.0.1:{self.server_address[1]}/file.bin"
        return Remote(url, DIGEST, len(BODY))._replace(**changes)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        start = int(wanted[6:-1]) if wanted else 0
        while server.mode == "drip headers" and self.drop(b"H"):
            pass
        if server.mode == "missing":
            return self.send_error(404)
        if wanted and server.mode != "no range" and start >= len(server.body):
            return self.send_error(416)
        ranged = wanted and server.mode != "no range"
        body = server.body[start:] if ranged else server.body
        self.send_response(206 if ranged else 200)
        if ranged:
            first = start + 1 if server.mode == "other range" else start
            self.send_header("Content-Range", f"bytes {first}-{len(server.body) - 1}/{len(server.body)}")
        if server.mode != "no length":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.mode == "slow":
            threading.Event().wait(0.7)
        while server.mode == "drip" and body and self.drop(body[:10]):
            body = body[10:]
        self.wfile.write(body[: server.cut])

    def drop(self, some):
        """Whether somebody still listens."""
        with suppress(OSError):
            self.wfile.write(some)
            threading.Event().wait(0.05)
            return not self.server.closed
        return False

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.closed = True
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_arrives_whole_and_only_once(server, tmp_path, capsys):
    target = tmp_path / "cache" / "file.bin"
    fetch(server.remote(), target)
    fetch(server.remote(), target)
    assert target.read_bytes() == BODY and server.asked == [None]
    assert [path.name for path in target.parent.iterdir() if not path.name.startswith(".")] == ["file.bin"]
    assert capsys.readouterr() == ("", "")  # progress is for terminals


def test_progress_is_shown_on_a_terminal(server, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    fetch(server.remote(), tmp_path / "file.bin")
    assert "file.bin:   0%" in terminal.getvalue() and left_on_screen(terminal.getvalue()) == [""]


def test_a_damaged_file_in_the_cache_is_fetched_anew(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(BODY[:-1] + b"!")
    fetch(server.remote(), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == BODY


@pytest.mark.parametrize(
    ("mode", "asked"),
    [("range", ["bytes=1000-"]), ("no range", ["bytes=1000-"]), ("other range", ["bytes=1000-", None])],
)
def test_it_goes_on_where_it_stopped_if_the_server_can(server, tmp_path, mode, asked):
    server.mode = mode
    (tmp_path / "file.bin.part").write_bytes(BODY[:1000])
    fetch(server.remote(), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == BODY and server.asked == asked
    assert not (tmp_path / "file.bin.part").exists()


def test_a_part_of_another_file_is_not_gone_on_with(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(b"x" * (len(BODY) + 1))
    fetch(server.remote(), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == BODY and server.asked == [None]


def test_a_smaller_part_than_there_is_leads_to_the_start(server, tmp_path):
    """The server holds less than what has arrived: its file is another one than before."""
    (tmp_path / "file.bin.part").write_bytes(bytes(2000))
    server.body = BODY[:1000]
    fetch(server.remote(size=1000, sha256=hashlib.sha256(server.body).hexdigest()), tmp_path / "file.bin")
    (tmp_path / "other.bin.part").write_bytes(bytes(1500))
    with pytest.raises(ConfigError, match="the server has 1000 bytes, expected 2000"):
        fetch(server.remote(size=2000), tmp_path / "other.bin")
    assert server.asked == [None, "bytes=1500-", None]


def test_a_connection_that_breaks_is_made_anew(server, tmp_path):
    server.cut = 100_000
    fetch(server.remote(), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert server.asked == [None, "bytes=100000-", "bytes=200000-", "bytes=300000-"]


def test_what_has_arrived_is_kept_when_it_gives_up(server, tmp_path):
    server.cut = 1000
    with pytest.raises(ConfigError, match=r"broke off 5 times, after 5,000 of 307,200 bytes; the same command resumes"):
        fetch(server.remote(), tmp_path / "file.bin")
    assert not (tmp_path / "file.bin").exists() and (tmp_path / "file.bin.part").read_bytes() == BODY[:5000]
    server.cut = None
    fetch(server.remote(), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == BODY and server.asked[-1] == "bytes=5000-"


def test_another_content_never_gets_the_name(server, tmp_path):
    server.body = BODY[:-1] + b"!"
    other = hashlib.sha256(server.body).hexdigest()
    with pytest.raises(ConfigError, match=f"is not the file it should be: SHA-256 {other}, expected {DIGEST}"):
        fetch(server.remote(), tmp_path / "file.bin")
    assert [path.name for path in tmp_path.iterdir()] == [".file.bin.lock"]


def test_another_size_is_refused_before_it_is_read(server, tmp_path):
    with pytest.raises(ConfigError, match="the server has 307200 bytes, expected 1000"):
        fetch(server.remote(size=1000), tmp_path / "file.bin")


def test_a_body_without_end_is_not_read_to_its_end(server, tmp_path):
    server.mode = "no length"
    with pytest.raises(ConfigError, match="it has more than 1,000 bytes"):
        fetch(server.remote(size=1000), tmp_path / "file.bin")
    assert [path.name for path in tmp_path.iterdir()] == [".file.bin.lock"]


def test_what_cannot_be_had_is_said_with_what_to_do(server, tmp_path):
    server.mode, target = "missing", tmp_path / "file.bin"
    url, by_hand = server.remote().url, f"download it yourself, and put it at {target} or give data.path=FILE"
    with pytest.raises(ConfigError, match=re.escape(f"{url} cannot be had: the server says 404 Not Found; {by_hand}")):
        fetch(server.remote(), target)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refused = server.remote(url=f"http://127.0.0.1:{unused.getsockname()[1]}/file.bin")
    with pytest.raises(ConfigError, match=r"cannot be reached \(.*refused\); without a network, " + re.escape(by_hand)):
        fetch(refused, target)


def test_an_unwritable_cache_is_said_so(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="set SEQLM_CACHE to another folder"):
        fetch(server.remote(), tmp_path / "file" / "file.bin")


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
@pytest.mark.parametrize("size", [0, 1000])
def test_a_link_in_the_place_of_the_file_is_not_written_through(server, tmp_path, link, size):
    """Whoever put it there would have us write to a file of his choice."""
    mine = tmp_path / "mine.txt"
    mine.write_bytes(BODY[:size])
    getattr(tmp_path / "file.bin.part", link)(mine)
    fetch(server.remote(), tmp_path / "file.bin")
    assert mine.read_bytes() == BODY[:size] and (tmp_path / "file.bin").read_bytes() == BODY and server.asked == [None]
    (tmp_path / "other.bin").symlink_to(mine)
    fetch(server.remote(), tmp_path / "other.bin")
    assert mine.read_bytes() == BODY[:size] and (tmp_path / "other.bin").read_bytes() == BODY


@pytest.mark.parametrize(("mode", "message"), [
    ("drip", r"too slow: less than 10 kB a second, [\d,]+ of 307,200 bytes so far; the same command resumes there"),
    ("drip headers", "cannot be reached .no answer for 0.4 seconds"),
])  # fmt: skip
def test_a_server_that_sends_drop_by_drop_is_given_up(server, tmp_path, monkeypatch, mode, message):
    server.mode = mode
    monkeypatch.setattr("seqlm.data.sources.download.WINDOW", 0.4)
    monkeypatch.setattr("seqlm.data.sources.download.TIMEOUT", 0.2)
    with pytest.raises(ConfigError, match=message):
        fetch(server.remote(), tmp_path / "file.bin")


def test_two_processes_at_once_download_once(server, tmp_path):
    server.mode = "slow"
    code = (
        "import sys; from pathlib import Path; from seqlm.data.sources.download import Remote, fetch; "
        "fetch(Remote(sys.argv[1], sys.argv[2], int(sys.argv[3])), Path(sys.argv[4]))"
    )
    command = [sys.executable, "-c", code, *map(str, server.remote()), str(tmp_path / "file.bin")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert (tmp_path / "file.bin").read_bytes() == BODY and server.asked == [None]


# ---- archives


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(path, members):
    """A member whose content is a TarInfo is that TarInfo."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name = name
            if isinstance(content, bytes):
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


BOTH = pytest.mark.parametrize("make", [zipped, tarred])


@BOTH
def test_only_the_files_asked_for_are_unpacked(make, tmp_path):
    archive = make(tmp_path / "a", {"./x/one.txt": b"1", "x/two.txt": b"22", "three.txt": b"333"})
    assert is_archive(archive)
    files = unpack(archive, [["nope.txt", "two.txt"], ["three.txt"]], tmp_path / "out")
    assert [file.read_bytes() for file in files] == [b"22", b"333"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["three.txt", "two.txt"]


@BOTH
def test_missing_and_ambiguous_files_are_refused(make, tmp_path):
    archive = make(tmp_path / "a", {"x/one.txt": b"1", "y/one.txt": b"2"})
    with pytest.raises(ConfigError, match="a has no two.txt and no three.txt in it; give data.path="):
        unpack(archive, [["two.txt", "three.txt"]], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"has 2 files of the name one.txt"):
        unpack(archive, [["one.txt"]], tmp_path / "out")


@BOTH
@pytest.mark.parametrize("name", ["../evil", "/evil", "x/../../evil", "..\\evil", "C:/evil"])
def test_members_outside_are_refused(make, name, tmp_path):
    archive = make(tmp_path / "a", {"one.txt": b"1", name: b"2"})
    with pytest.raises(ConfigError, match=r"evil' lies outside of it"):
        unpack(archive, [["one.txt"]], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(kind, tmp_path):
    link = tarfile.TarInfo()
    link.type, link.linkname = kind, "/etc/passwd"
    archive = tarred(tmp_path / "a", {"one.txt": link})
    with pytest.raises(ConfigError, match=r"'one.txt' is a link or a device"):
        unpack(archive, [["one.txt"]], tmp_path / "out")


def test_links_in_a_zip_are_refused(tmp_path):
    info = zipfile.ZipInfo("one.txt")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ConfigError, match=r"'one.txt' is a link or a device"):
        unpack(tmp_path / "a", [["one.txt"]], tmp_path / "out")


@BOTH
def test_bombs_are_refused_before_they_burst(make, tmp_path, monkeypatch):
    monkeypatch.setattr("seqlm.data.sources.archive.MOST", 1_000_000)
    archive = make(tmp_path / "a", {name: bytes(400_000) for name in ("one.txt", "two.txt", "three.txt")})
    assert archive.stat().st_size < 3000
    with pytest.raises(ConfigError, match="it would unpack to more than 1,000,000 bytes"):
        unpack(archive, [["one.txt"]], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_member_larger_than_it_says_is_refused(tmp_path):
    archive = zipped(tmp_path / "a", {"one.txt": bytes(600_000)})
    lied = archive.read_bytes().replace((600_000).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    archive.write_bytes(lied)
    with pytest.raises(ConfigError, match="a cannot be unpacked .*CRC"):
        unpack(archive, [["one.txt"]], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@BOTH
def test_damaged_archives_are_refused_and_leave_nothing(make, tmp_path):
    archive = make(tmp_path / "a", {"one.txt": b"first", "two.txt": random.Random(0).randbytes(100_000)})
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(ConfigError, match="a cannot be unpacked"):
        unpack(archive, [["one.txt"], ["two.txt"]], tmp_path / "out")
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


class Zeros(io.RawIOBase):
    """Content of a size that nobody wants to have in memory."""

    def __init__(self, size):
        self.left = size

    def readable(self):
        return True

    def readinto(self, buffer):
        count = min(len(buffer), self.left)
        buffer[:count] = bytes(count)
        self.left -= count
        return count


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_names_and_headers_without_end_are_not_read(kind, tmp_path):
    info = tarfile.TarInfo("long")
    info.type, info.size = kind, 100 << 20
    with tarfile.open(tmp_path / "a", "w:gz", compresslevel=1) as archive:
        archive.addfile(info, Zeros(info.size))
        archive.addfile(tarfile.TarInfo("one.txt"))
    tracemalloc.start()
    assert is_archive(tmp_path / "a")
    with pytest.raises(ConfigError, match="its names and headers take more than 16 MB"):
        unpack(tmp_path / "a", [["one.txt"]], tmp_path / "out")
    assert tracemalloc.get_traced_memory()[1] < 40 << 20
    tracemalloc.stop()


@BOTH
def test_too_many_members_and_too_long_names_are_refused(make, tmp_path, monkeypatch):
    monkeypatch.setattr("seqlm.data.sources.archive.MOST_MEMBERS", 100)
    many = make(tmp_path / "many", {f"{index}.txt": b"" for index in range(101)})
    with pytest.raises(ConfigError, match="it has more than 100 members"):
        unpack(many, [["1.txt"]], tmp_path / "out")
    long = make(tmp_path / "long", {"one.txt": b"", "x" * 2000: b""})
    with pytest.raises(ConfigError, match="the name 'x{40}'... has more than 1,000 characters"):
        unpack(long, [["one.txt"]], tmp_path / "out")


def test_the_directory_of_a_zip_file_is_read_within_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr("seqlm.data.sources.archive.MOST_AT_ONCE", 4000)
    many = zipped(tmp_path / "many", {f"{index}.txt": b"" for index in range(101)})
    with pytest.raises(ConfigError, match="its names and headers take more than"):
        unpack(many, [["1.txt"]], tmp_path / "out")


@pytest.mark.parametrize("make", [gzip.compress, bz2.compress, lzma.compress, bytes])
def test_a_tar_file_may_be_packed_in_any_usual_way(make, tmp_path):
    packed = tarred(tmp_path / "gz", {"one.txt": b"1"})
    (tmp_path / "a").write_bytes(make(gzip.decompress(packed.read_bytes())))
    assert is_archive(tmp_path / "a")
    assert unpack(tmp_path / "a", [["one.txt"]], tmp_path / "out")[0].read_bytes() == b"1"
    (tmp_path / "text").write_bytes(make(b"a text and no archive"))
    assert not is_archive(tmp_path / "text")
