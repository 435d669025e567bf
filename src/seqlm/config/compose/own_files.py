"""YAML files of the user's own: read within bounds, and refused if they widen what a configuration may do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from ...errors import ConfigError, describe, several
from ..flags import is_multirun
from ..keys import dotted
from ..tree import find_configs
from ..trust import has_own_files, widening
from ..words import Words, quoted_paths
from ..yaml_files import check_yaml
from .loading import open_loader, parse_multirun


def check_own_files(words: Words) -> None:
    """Raise ConfigError for the user's YAML files if they widen what a configuration may do. Nothing in them is run."""
    if not has_own_files(words):
        return
    _guard_files()
    from hydra._internal.defaults_list import create_defaults_list
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf

    ours, problems = f"file://{find_configs()}", []
    with open_loader(words) as loader:
        for job in _group_choices(loader, words):
            try:
                parsed, files = loader._parse_overrides_and_create_caching_repo("train", job)
                chosen = create_defaults_list(files, "train", parsed, prepend_hydra=True, skip_missing=False).defaults
            except HydraException:  # composing it will tell
                continue
            for one in chosen:
                name, package = str(one.config_path), f"{one.package}." if one.package else ""
                found: Any = files.load_config(name)
                is_ours = found.path == ours and not name.startswith("local/")
                if found.path.startswith("file://") and not is_ours and isinstance(found.config, DictConfig):
                    values = dotted(cast("dict[str, Any]", OmegaConf.to_container(found.config)), package)
                    problems += widening(f"{found.path.removeprefix('file://')}/{name}.yaml", values, words)
    if problems:
        raise several(problems)


def _guard_files() -> None:
    """Have hydra load no YAML file without a look at its bounds."""
    from hydra._internal.sources_registry import SourcesRegistry
    from hydra.core.plugins import Plugins
    from yaml import YAMLError

    Plugins.instance()  # which registers where files come from
    source_of_files: Any = SourcesRegistry.instance().resolve("file")
    load = source_of_files.load_config
    if load.__module__ == __name__:
        return

    def load_within_bounds(source: Any, config_path: str) -> Any:
        path = Path(source.path) / source._normalize_file_name(config_path)
        if not path.exists():  # hydra tells what there is
            return load(source, config_path)
        try:
            check_yaml(path)
            return load(source, config_path)
        except (OSError, ValueError, YAMLError) as error:
            raise ConfigError(f"{path} cannot be read: {describe(error)}") from error

    source_of_files.load_config = load_within_bounds


def _group_choices(loader: Any, words: Words) -> list[list[str]]:
    """The words that choose files: those without commas, and with them the options of groups that each job has."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.errors import HydraException

    if not is_multirun(words):
        return [quoted_paths(words)]
    try:
        parsed = parse_multirun(loader, words)
        fixed = [str(one.input_line) for one in parsed if not one.is_sweep_override()]
        groups = [one for one in parsed if one.is_sweep_override() and loader.repository.group_exists(one.key_or_group)]
        return [fixed, *(fixed + job for job in BasicSweeper.split_arguments(groups, None)[0])]
    except HydraException:  # composing them will tell
        return []
