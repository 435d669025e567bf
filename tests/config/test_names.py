"""A path or a name is what was typed, whatever hydra's grammar or YAML would make of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seqlm.config.compose import compose_words, expand
from seqlm.config.values import verb_config
from seqlm.config.verb_schema import EvalConfig
from seqlm.errors import ConfigError
from seqlm.runs.folder import RunFolder

NAMES = [
    "é.txt", "名前.txt", "a&b.txt", "c#.txt", "d #.txt", "book (1).txt", "a,b.txt", "it's.txt",
    'say "x".txt', "'n'.txt", "a=b", "[1].txt", "{a}.txt", "$x", "a:b", "a: b", "~x~", "-dash", "--",
    "*", "?", "!t", "%d", "@at", "|", "back\\slash", "\\", "a\tb", "1984", "nan", "1e3", "0x10", "007",
    "1_000", "True", "false", "on", "off", "no", "yes", "NULL", "Null", "None", "inf", "-.5",
    "2024-01-01", "12:30", "a/", "./a", "../a", "a//b", " lead", "trail ", "choice(a).txt", "range(1)x",
    "\u200bzero", "😀", "x" * 255,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_are_what_was_typed(name):
    keys = ("data.path", "run.name", "run.root", "init_from")
    config, _ = compose_words(["data=text", *(f"{key}={name}" for key in keys)])
    typed = os.path.expanduser(name)
    assert [config.data["path"], config.run.root, config.init_from, config.run.name] == [typed, typed, typed, name]
    options = verb_config("eval", EvalConfig, [f"file={name}", f"data.path={name}", "ensemble=[outputs/a]"])
    assert [options.file, options.data["path"]] == [typed, typed]


def test_home_is_expanded_in_paths_only(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config, _ = compose_words(["data=text", "data.path=~/book.txt", "run.root=~/runs", "run.name=~/x"])
    assert [config.data["path"], config.run.root, config.run.name] == ["/home/me/book.txt", "/home/me/runs", "~/x"]
    assert verb_config("eval", EvalConfig, ["file=~/book.txt"]).file == "/home/me/book.txt"


def test_commas_separate_jobs_but_not_within_quotes():
    jobs = expand(["data=text", "data.path=é.txt,'a,b.txt',1984"])
    assert [compose_words(job)[0].data["path"] for job in jobs] == ["é.txt", "a,b.txt", "1984"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.path=", "data.path= is empty; give a path, or leave it out"),
        ("run.name=", "run.name= is empty; give a name"),
        ("init_from=", "init_from= is empty"),
        ("data.path=a\nb", r"data.path='a\\nb' holds '\\n'"),
        ("data.path=a\0b", "holds '.x00'"),
        ("data.path=" + "x" * 256, "data.path=xxx.* is too long: the name of a file has 255 bytes at most"),
        ("run.name=" + "é" * 200, "is too long"),
    ],
)
def test_what_no_file_can_be_called(word, message):
    with pytest.raises(ConfigError, match=message):
        compose_words(["data=text", word])
    if word.startswith("data."):
        with pytest.raises(ConfigError, match=message):
            verb_config("eval", EvalConfig, [word])


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "", "a\nb", "~nobody/x", "nan"])
def test_a_run_that_cannot_be_is_an_error_of_ours(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        RunFolder.open(name)


def test_a_run_is_found_by_odd_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a=b", "1984", "-dash", "é (1)", "a&b"):
        folder = tmp_path / "outputs" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("{}")
        (folder / "config.yaml").touch()
        for typed in (
            f"outputs/{name}",
            f"~/outputs/{name}",
            f"outputs/{name}/",
            f"outputs/../outputs/{name}",
            str(folder),
        ):
            assert RunFolder.open(typed).path.resolve() == folder
        assert RunFolder.open(name).name == Path(name).name
