"""Files are read within bounds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seqlm.errors import ConfigError
from seqlm.files import MB, open_regular, read_bounded


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
