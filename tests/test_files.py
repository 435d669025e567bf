"""Files are read within bounds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seqlm.errors import ConfigError
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
