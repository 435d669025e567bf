"""The cache is the user's alone, and what is in it is whole."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from seqlm.cache import entries, private
from seqlm.cache.entries import digest_of, entry, is_whole, locked
from seqlm.cache.private import open_private, private_folder


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """A cache of the test's own, and a temporary folder for what takes its place."""
    monkeypatch.setenv("SEQLM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(private, "_warned", set())
    private._of_this_process.cache_clear()
    return tmp_path / "cache"


def make(path):
    (path / "file").write_text("content")


def read(path):
    return (path / "file").read_text()


@pytest.mark.parametrize("umask", [0o002, 0o000, 0o077])
def test_folders_are_the_users_alone_whatever_the_umask(folder, umask):
    before = os.umask(umask)
    try:
        assert private_folder("a", "b") == folder / "a" / "b"
        entry(private_folder("a") / "key", make, read)
    finally:
        os.umask(before)
    made = [folder, *folder.rglob("*")]
    assert len(made) > 5 and not any(path.stat().st_mode & 0o077 for path in made)


@pytest.mark.parametrize("rights", [0o777, 0o770, 0o1777])
@pytest.mark.parametrize("level", ["", "kernels"])
def test_a_folder_that_others_may_write_to_is_not_used(folder, tmp_path, capsys, rights, level):
    private_folder("kernels")
    (folder / level).chmod(rights)
    place = tmp_path / "tmp" / f"seqlm-{os.geteuid()}"
    assert private_folder("kernels") == private_folder("kernels") == place / "kernels"
    assert not any(path.stat().st_mode & 0o077 for path in (place, place / "kernels"))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{folder / level} can be written to by other users and is not used" in said
    assert (f"chmod -R go-w {folder / level}" in said) == (rights != 0o1777)  # not of /tmp, which is for all
    (folder / level).chmod(0o700)
    assert private_folder("kernels") == folder / "kernels"


def test_a_folder_of_another_user_is_not_used(folder, tmp_path, capsys, monkeypatch):
    private_folder("kernels")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    place = private_folder("kernels")
    assert place.parent.parent == tmp_path / "tmp" and place.parent.name != f"seqlm-{os.geteuid()}"  # not ours either
    assert "belongs to the user" in capsys.readouterr().err


def test_a_planted_folder_in_the_temporary_folder_is_not_used(folder, tmp_path):
    folder.mkdir()
    folder.chmod(0o777)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "tmp" / f"seqlm-{os.geteuid()}").symlink_to(tmp_path / "elsewhere")
    assert private_folder("kernels").parent.parent == tmp_path / "tmp"
    assert not list((tmp_path / "elsewhere").iterdir())


def test_without_a_home_there_is_a_cache_too(tmp_path, monkeypatch, capsys):
    for name in ("SEQLM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", homeless)
    assert private_folder("kernels").is_relative_to(tmp_path / "tmp") and "home" in capsys.readouterr().err


def test_a_file_that_others_may_have_written_is_not_opened(tmp_path):
    file, link, pipe = tmp_path / "file", tmp_path / "link", tmp_path / "pipe"
    file.write_text("x")
    file.chmod(0o644)
    link.symlink_to(file)
    os.mkfifo(pipe)
    with open_private(file) as handle:
        assert handle.read() == b"x"
    for path in (link, pipe):
        with pytest.raises(OSError):
            open_private(path)
    file.chmod(0o664)
    with pytest.raises(PermissionError, match="only this user may write to"):
        open_private(file)


@pytest.mark.parametrize(
    "damage",
    [
        lambda made: (made / "file").write_text("Content"),
        lambda made: (made / "file").unlink(),
        lambda made: (made / "file").chmod(0o666),
        lambda made: (made / "MANIFEST.json").write_text("{"),
        lambda made: (made / "MANIFEST.json").write_text('{"file": 3}'),
        lambda made: (made / "MANIFEST.json").write_text("[" * 60_000),
        lambda made: made.chmod(0o777),
        lambda made: made.rename(made.with_name("other")) and made.symlink_to("other"),
        lambda made: made.rename(made.with_name("other")) and made.write_text(""),
    ],
)
def test_what_is_damaged_is_made_again_with_a_line(folder, damage, capsys):
    made = private_folder() / "key"
    assert entry(made, make, read) == entry(made, pytest.fail, read) == "content"
    assert capsys.readouterr().err == ""
    damage(made)
    assert not is_whole(made)
    assert entry(made, make, read) == "content" and is_whole(made)
    assert capsys.readouterr().err.count(f"{made} is damaged") == 1
    assert not list(folder.glob(".*-*"))


def test_an_entry_of_an_earlier_version_is_made_again(folder, capsys):
    made = private_folder() / "key"
    made.mkdir()
    (made / "file").write_text("unsealed")
    assert entry(made, make, read) == "content" and capsys.readouterr().err == ""


def test_what_cannot_be_read_is_made_again(folder, capsys):
    """Whole, but written by a version that stored something else."""
    made = private_folder() / "key"
    entry(made, lambda aside: (aside / "file").write_text("older"), read)

    def picky(path):
        if read(path) != "content":
            raise ValueError("not mine")

    entry(made, make, picky)
    assert read(made) == "content" and "not mine" in capsys.readouterr().err


def test_a_failure_leaves_nothing_and_is_raised(folder):
    with pytest.raises(ZeroDivisionError):
        entry(private_folder() / "key", lambda aside: 1 / 0, read)
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_files_are_verified_once_in_a_process(folder, monkeypatch):
    calls = []
    monkeypatch.setattr(entries, "digest_of", lambda handle: calls.append(handle) or digest_of(handle))
    made = private_folder() / "key"
    for _ in range(3):
        entry(made, make, read)
    assert len(calls) == 2  # when it was sealed, and when it was opened


def test_a_file_of_another_length_is_not_read(folder, monkeypatch):
    """A sparse file of terabytes would take hours."""
    made = private_folder() / "key"
    entry(made, make, read)
    monkeypatch.setattr(entries, "digest_of", pytest.fail)
    os.truncate(made / "file", 1 << 40)
    assert not is_whole(made)


def test_only_what_no_process_holds_is_swept(folder):
    """Process numbers say nothing: two containers have the same ones."""
    code = (
        "import sys; from pathlib import Path; from seqlm.cache.entries import *; from seqlm.cache.private import *\n"
        "def make(aside): (aside / 'file').write_text('half'); print('making', flush=True); sys.stdin.read()\n"
        "entry(private_folder() / 'other', make, lambda made: None)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        entry(private_folder() / "key", make, read)
        assert len(list(folder.glob(".other-*"))) == 1
        other.kill()
    of_before = folder / ".key-4711"  # by a version that knew no locks, perhaps still at work
    of_before.mkdir()
    entry(private_folder() / "third", make, read)
    assert list(folder.glob(".*-*")) == [of_before]
    os.utime(of_before, (0, 0))
    entry(private_folder() / "fourth", make, read)
    assert not list(folder.glob(".*-*"))


def test_a_lock_that_is_not_let_go_is_not_waited_for(folder, capsys):
    path = private_folder() / "lock"
    with locked(path) as first, locked(path, 0.05, "waiting") as second:
        assert first and not second and capsys.readouterr().err == "waiting\n"
    with locked(path, 0) as again:
        assert again


def test_a_digest_is_that_of_all_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(entries, "BLOCK", 1 << 21)
    seen, content = set(), bytearray(3 * (1 << 21) + 5)
    for place in (None, 0, 1 << 20, (1 << 21) - 1, len(content) - 1):
        changed = bytearray(content)
        if place is not None:
            changed[place] = 1
        (tmp_path / "file").write_bytes(changed)
        with (tmp_path / "file").open("rb") as handle:
            seen.add(digest_of(handle))
    assert len(seen) == 5
