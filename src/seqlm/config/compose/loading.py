"""Hydra's reader of YAML files, and what it makes of words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from ..flags import values_of
from ..tree import find_configs
from ..words import Choices, Words, quoted_paths


def compose_by_hydra(words: Words, resolve: bool = True) -> tuple[dict[str, Any], Choices]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf, open_dict

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(find_configs()), version_base="1.3"):
        node = compose("train", list(words), return_hydra_config=True)
    with open_dict(node):
        choices = taken(node.pop("hydra").runtime.choices)
    return cast("dict[str, Any]", OmegaConf.to_container(node, resolve=resolve)), choices


@contextmanager
def open_loader(flags: Words) -> Iterator[Any]:
    """Hydra's reader of our configs and of those in a `--config-dir` among the flags, as hydra.main would make it."""
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.global_hydra import GlobalHydra
    from hydra.version import setbase

    setbase("1.3")
    path = create_config_search_path(str(find_configs()))
    for folder in map(Path, values_of("--config-dir", flags)):
        path.prepend("command-line", f"file://{folder.resolve()}", SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    try:
        yield Hydra.create_main_hydra2("seqlm", path).config_loader
    finally:
        GlobalHydra.instance().clear()


def parse_multirun(loader: Any, words: Words) -> list[Any]:
    """The words of a multirun as hydra's overrides, behind those that an experiment lists."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.types import RunMode

    parser = OverridesParser.create(config_loader=loader)
    given = parser.parse_overrides(quoted_paths(words))
    fixed = [str(one.input_line) for one in given if not one.is_sweep_override()]
    listed = loader.load_configuration("train", fixed, RunMode.MULTIRUN).hydra.sweeper.params or {}
    return [*parser.parse_overrides([f"{key}={value}" for key, value in listed.items()]), *given]


def values_of_node(node: Any) -> dict[str, Any]:
    """The values of a composed config."""
    from omegaconf import OmegaConf

    values = cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True))
    del values["paths"]  # which the data has read
    return values


def folders_read(runtime: Any) -> list[Path]:
    """The folders of YAML files that hydra has read from."""
    return [Path(source.path) for source in runtime.config_sources if source.schema == "file"]


def taken(choices: Mapping[str, Any]) -> Choices:
    """The options taken of our config groups."""
    return {group: choice for group, choice in choices.items() if choice and not group.startswith(("hydra", "local"))}
