"""YAML files are read within bounds."""

from __future__ import annotations

import os
import time

import pytest

from seqlm.config.compose import compose_words
from seqlm.config.yaml_files import read_saved, read_yaml
from seqlm.errors import ConfigError

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
HOSTILE = {
    "bomb": BOMB,
    "merged": "a: &a {b: 1}\n" + "".join(f"a{i}: &a{i} {{<<: *a, c: *a{i - 1}, d: *a{i - 1}}}\n" for i in range(1, 40)),
    "endless": "a: &a [*a]\n",
    "brackets": "a: " + "[" * 5000,
    "dashes": "- " * 5000 + "x",
    "deep": "".join(" " * depth + "a:\n" for depth in range(1000)),
    "list as key": "? [a]\n: b\n",
    "bytes": "a: \x00",
    "tag": "a: !!python/object/apply:os.system [touch pwned]",
}  # a reader that writes aliases out takes minutes and all memory for the first two


@pytest.mark.parametrize("read", [read_saved, read_yaml])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_at_once(tmp_path, name, read):
    path, start = tmp_path / "config.yaml", time.monotonic()
    path.write_text(HOSTILE[name].replace("*a0,", "*a,") if name == "merged" else HOSTILE[name])
    with pytest.raises(ConfigError, match="config.yaml"):
        read(path)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("read", [read_saved, read_yaml])
def test_what_is_no_file_is_not_read(tmp_path, read):
    os.mkfifo(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="not a regular file"):
        read(tmp_path / "config.yaml")


def test_a_few_aliases_are_read(tmp_path):
    (tmp_path / "config.yaml").write_text("a: &a [1, 2]\nb: *a\nc: [*a, *a]\n")
    assert read_saved(tmp_path / "config.yaml")["c"] == [[1, 2], [1, 2]] == read_yaml(tmp_path / "config.yaml")["c"]


@pytest.mark.parametrize("name", ["bomb", "endless", "brackets", "tag", "bytes"])
def test_hydra_reads_within_the_same_bounds(tmp_path, name):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "evil.yaml").write_text("# @package _global_\n" + HOSTILE[name])
    with pytest.raises(ConfigError, match=r"evil.yaml"):
        compose_words([f"hydra.searchpath=[{tmp_path}]", "experiment=evil"])
