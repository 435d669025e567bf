"""The YAML files as text: what help, completion and docs/config.md know is what hydra composes and classes accept."""

from __future__ import annotations

import subprocess
import sys
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import yaml

from seqlm.config.build import _hints, _target
from seqlm.config.compose.loading import compose_by_hydra
from seqlm.config.flags import values_of
from seqlm.config.keys import dotted
from seqlm.config.reference import MOST_USED, Reference, read_page
from seqlm.config.schema import Config
from seqlm.config.values import _keys
from seqlm.config.verb_schema import BenchConfig, EvalConfig, PredictConfig, SampleConfig
from seqlm.config.yaml_files import find_configs, read_yaml

from ..conftest import REPOSITORY

CONFIGS, REFERENCE = find_configs(), Reference()
FILES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))
CHOICES = [
    f"{group}={option}" for group, options in REFERENCE.groups.items() for option in options if group != "model/head"
]
VERBS = {"eval": EvalConfig, "sample": SampleConfig, "predict": PredictConfig, "bench": BenchConfig}


@pytest.mark.parametrize("choice", ["", *CHOICES])
def test_keys_and_values_are_those_that_hydra_composes(choice):
    words = [choice] * bool(choice)
    values_of_all = dotted(compose_by_hydra(words, False)[0])
    composed = {key: value for key, value in values_of_all.items() if not key.endswith("_target_")}
    known = {name: key for name, key in REFERENCE.keys(words).items() if key.value}
    assert not [key for key in composed if key not in known and not any(key.startswith(f"{one}.") for one in known)]
    assert not [key for key in known if not any(f"{one}.".startswith(f"{key}.") for one in values_of_all)]
    values = {name: yaml.safe_load(key.value) for name, key in known.items() if name in composed}
    # YAML 1.1 reads 1.0e-8 as a number and 1e-8 as a text; omegaconf reads both as numbers.
    assert {name: value for name, value in values.items() if not isinstance(composed[name], float)} == {
        name: composed[name] for name in values if not isinstance(composed[name], float)
    }


def test_words_of_several_choices():
    assert REFERENCE.keys(["model=tagger", "model/cell=rhn"])["model.cell.depth"].value == "5"
    assert REFERENCE.keys(["experiment=zaremba_small"])["train.bptt"].value == "20"
    assert REFERENCE.keys(["experiment=zaremba_small", "data=text"])["data.fractions"].value == "[0.9, 0.05, 0.05]"
    assert REFERENCE.keys(["experiment=zaremba_small"])["train.bptt"].comment.startswith("time steps of a chunk")
    assert set(MOST_USED) <= REFERENCE.keys().keys()


def test_a_folder_of_ones_own(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# Mine.\ndefaults: [gru]\nhidden_size: 7  # small\n")
    own = Reference([tmp_path])
    assert "mine" in own.groups["model"] and "gru" in own.groups["model"]
    key = own.keys(["model=mine"])["model.hidden_size"]
    assert (key.value, key.comment) == ("7", "small") and "model.cell.reset" in own.keys(["model=mine"])
    assert values_of("--config-dir", ["-cd", "a", "--config-dir=b", "x=1"]) == ["a", "b"]


@pytest.mark.parametrize("file", FILES)
def test_every_file_and_every_key_has_a_comment(file):
    page = read_page(CONFIGS / file)
    assert page.summary, f"configs/{file} should begin with a comment that says what it is"
    if not file.startswith(("experiment/", "debug/")):
        bare = [key.name for key in page.keys if not key.comment and not key.value.startswith("${")]
        assert not bare, f"configs/{file}: no comment explains {', '.join(bare)}"


def literals(hint: Any) -> list[str]:
    """The options of a type that is a Literal, or that or null."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]
    return [str(option) for part in parts if get_origin(part) is Literal for option in get_args(part)]


def test_values_that_comments_list_are_those_that_are_accepted():
    """In both directions: an option that is not documented is found here, too."""
    checked = 0
    for name, (_, field) in _keys(Config).items():
        if allowed := [str(one) for one in field.metadata["allowed"] if one is not None]:
            key = REFERENCE.keys().get(name)
            assert key and (sorted(key.choices) == sorted(allowed) or name == "resume"), (name, key)
            checked += 1
    for verb, schema in VERBS.items():
        for name, (_, field) in _keys(schema).items():
            if allowed := [str(one) for one in field.metadata["allowed"] if one is not None]:
                key = REFERENCE.verb_keys(verb)[name]
                assert set(key.choices) | {key.value} == set(allowed), (verb, key)
                checked += 1
    for file in FILES:
        node = read_yaml(CONFIGS / file)
        if "_target_" not in node or not node["_target_"].startswith("seqlm."):
            continue
        hints = _hints(_target(node, file, ()))
        for key in read_page(CONFIGS / file).keys:
            options = literals(hints.get(key.name))
            options += ["true", "false"] if options and bool in get_args(hints[key.name]) else []
            if options and options != ["header"]:  # data.columns, which is a list or this word
                assert sorted(key.choices) == sorted(options), (file, key)
                checked += 1
    assert checked > 40


def test_docs_show_what_configs_say(tmp_path):
    script = str(REPOSITORY / "scripts" / "config_docs.py")
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (REPOSITORY / "docs" / "config.md").read_text()
    for text in ("| `train.bptt` | `64` |", "## model/cell=", "| `lstm` (default) |", "## seqlm eval RUN"):
        assert text in page
    page = (REPOSITORY / "docs" / "recipes.md").read_text()
    assert all(f"\n## {path.stem}\n" in page for path in (CONFIGS / "experiment").glob("*.yaml"))
