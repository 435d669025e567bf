"""One checked way from a config node to an object."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from seqlm.cells import LSTMCell
from seqlm.config.build import build, check, fits
from seqlm.errors import ConfigError

LSTM = {"_target_": "seqlm.cells.lstm.LSTMCell"}
SIZES = {"input_size": 3, "hidden_size": 4}


def test_builds_with_runtime_arguments():
    cell = build({**LSTM, "forget_bias": 1}, "model.cell", **SIZES)
    assert isinstance(cell, LSTMCell) and cell.forget_bias == 1


def test_every_mistake_at_once_with_the_key_as_typed():
    node = {**LSTM, "forget_bais": 1.0, "bias": "yes", "input_size": 3}
    with pytest.raises(ConfigError) as caught:
        build(node, "model.cell", input_size=3)
    assert str(caught.value).splitlines() == [
        "model.cell.forget_bais is not an argument of LSTMCell; did you mean model.cell.forget_bias?",
        "model.cell.bias=yes should be true or false",
        "model.cell.input_size is set by the program, not by the config",
        "model.cell.hidden_size is required by LSTMCell",
    ]


def test_a_constructor_refusal_names_the_key():
    with pytest.raises(ConfigError, match=r"^model.cell.forget_bias=1.0 needs bias=true$"):
        build({**LSTM, "forget_bias": 1.0, "bias": False}, "model.cell", **SIZES)


def test_nodes_inside_become_factories():
    node = {"_target_": "seqlm.models.presets.build_language_model", "cell": LSTM, "hidden_size": 5}
    model = build(node, "model", vocab_size=7)
    assert isinstance(model.stack.layers[0].cell, LSTMCell)
    wrong = {**node, "layers": [{"cell": {**LSTM, "bias": 3}}]}
    assert check(wrong, "model", runtime=("vocab_size",)) == ["model.layers.0.cell.bias=3 should be true or false"]


@pytest.mark.parametrize(
    "target",
    ["os.system", "builtins.eval", "torch.load", "torch.hub.load", "subprocess.run", "seqlmevil.thing",
     "torch.optimizer", "seqlm.config.build.importlib.import_module", "seqlm.config.values.yaml",
     "seqlm.config.values.cast", "seqlm.config.values.get_type_hints", "", "seqlm.", "seqlm.nope", "seqlm.cells.nope"],
)  # fmt: skip
def test_only_trusted_code_is_named(target):
    with pytest.raises(ConfigError, match="outside the trusted code|does not exist|not a class"):
        build({"_target_": target}, "model")


def test_a_config_cannot_call_what_the_package_uses_itself():
    """Functions of seqlm that are no parts: among them a way round this very list."""
    for target in ("seqlm.commands.train.main", "seqlm.runs.load.load_run", "seqlm.config.build.build",
                   "seqlm.runs.folder.write_atomically", "seqlm.data.encode.encode_split", "seqlm.LSTMCell",
                   "seqlm.cells.base.Cell", "seqlm.cells.LSTMCell", "seqlm.data.sources.download.fetch",
                   "seqlm.models.stack.cells_of"):  # fmt: skip
        node = {"_target_": target, "words": ["trust=[subprocess]"], "trust": ["subprocess."]}
        with pytest.raises(
            ConfigError, match="outside the trusted code|is not a public part|does not exist|is not finished"
        ):
            build(node, "task")


def test_what_a_module_of_parts_imports_is_no_part(monkeypatch):
    monkeypatch.setattr("seqlm.cells.lstm.system", os.system, raising=False)
    with pytest.raises(ConfigError, match="is not a public part of seqlm.cells.lstm"):
        build({"_target_": "seqlm.cells.lstm.system", "command": "true"}, "task")


def test_trust_is_extended_by_the_caller_only():
    node = {"_target_": "collections.OrderedDict"}
    with pytest.raises(ConfigError, match=r"add trust=\[yourpackage.\] on the command line"):
        build(node, "model")
    assert build(node, "model", trust=["collections."]) == {}


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [(1, int, True), (True, int, False), (1, float, True), ("1", float, False), (None, int | None, True),
     (3.5, int | None, False), ([1, 2], list[int], True), ([1, "a"], list[int], False), ("a", str, True),
     (1, str, False), (True, bool, True), (1, bool, False), ([1, 2.0], tuple[float, float], True),
     ([1], tuple[float, float], False), ([1], tuple[float, ...], True), ("x", Callable[..., int], False)],
)  # fmt: skip
def test_fits(value, hint, expected):
    assert fits(value, hint) is expected
