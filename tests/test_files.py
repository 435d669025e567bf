"""Files are read within bounds."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from seqlm.errors import NO_ROOM, ConfigError, describe, print_error
from seqlm.files import MB, open_regular, read_bounded, read_json, write_atomically


def test_what_never_ends_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ConfigError, match="not a regular file"):
            open_regular(path)


def test_a_file_is_read_up_to_its_bound_and_not_beyond(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * MB)
    assert len(read_bounded(tmp_path / "file", MB)) == MB
    (tmp_path / "file").write_bytes(b"x" * (MB + 1))
    with pytest.raises(ConfigError, match="larger than 1 MB"):
        read_bounded(tmp_path / "file", MB)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 50_000, b"{", b"\xff", b"[" + b"[]," * (5 << 20)])
def test_damaged_json_is_a_value_error(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError):
        read_json(tmp_path / "file")


def test_what_is_written_aside_follows_no_link(tmp_path, monkeypatch):
    """Names by process number can be foreseen, and two containers have the same ones."""
    (tmp_path / "mine").write_text("mine")
    for name in (f".file.{os.getpid()}", ".file.0011"):
        (tmp_path / name).symlink_to("mine")
    write_atomically(tmp_path / "file", "é")
    assert (tmp_path / "file").read_bytes() == "é".encode()
    monkeypatch.setattr("secrets.token_hex", lambda size: "0011")
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "file", "other")
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("number", NO_ROOM)
def test_a_full_disk_is_told_with_path_and_bytes(tmp_path, monkeypatch, capsys, number):
    def full(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as caught:
        write_atomically(tmp_path / "run.json", "12345")
    assert print_error(caught.value) == 1 and list(tmp_path.iterdir()) == []
    said = capsys.readouterr().err
    assert f"{tmp_path / 'run.json'} could not be written: {NO_ROOM[number]}" in said and "Errno" not in said
    assert number == errno.EROFS or re.search(r"\(5 bytes are needed, [\d,]+ bytes are free\)", said)


def test_other_errors_of_the_system_name_the_path(tmp_path):
    with pytest.raises(OSError) as caught:
        (tmp_path / "none").read_bytes()
    assert describe(caught.value) == f"{tmp_path / 'none'}: No such file or directory"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_to_a_full_disk_is_an_error_in_a_line():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "seqlm", "--version"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr == "seqlm: a file, or the output, could not be written: the disk is full\n"
