"""From words of a command line to a configuration: the only file that imports hydra."""

from __future__ import annotations

import copy
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from ..errors import ConfigError, describe, several
from .flags import check_words, is_multirun, values_of
from .keys import dotted
from .reference import Reference
from .schema import Config
from .suggest import unknown_option, unknown_word
from .tree import find_configs
from .trust import check_trust, has_own_files, widening
from .values import typed
from .words import GRAMMAR, INIT_FROM, Words, overrides, quoted_paths
from .yaml_files import check_yaml, resolve_layer_cells

Choices = dict[str, str]  # the option taken of each config group, {"model": "lstm"}
Job = Callable[[Callable[[], Config], Choices, list[str]], float | None]
NO_NAMES = re.compile(r"(?i)[\[{].*|true|false|nan|[+-]?(inf|[\d.][\d.e_+-]*)")  # which hydra takes for no option


def compose_words(words: Words = ()) -> tuple[Config, Choices]:
    """The configuration that `seqlm train WORDS` trains, and the option taken of each group. Raises ConfigError."""
    values, choices = _compose(overrides(words))
    return typed_config(values, [find_configs()]), choices


def experiment(name: str, words: Words = ()) -> dict[str, Any]:
    """The values that `seqlm train experiment=NAME` composes; `default` is no experiment. Raises ConfigError."""
    return compose_values([*([] if name == "default" else [f"experiment={name}"]), *overrides(words)])


def compose_values(words: Words) -> dict[str, Any]:
    """The values that `seqlm train WORDS` composes, by section. Raises ConfigError."""
    values, _ = _compose(words)
    resolve_layer_cells(values["model"], [find_configs()])
    return values


def typed_config(values: dict[str, Any], folders: Sequence[Path]) -> Config:
    """Composed values as a Config; cells that layers name are looked up in `folders`. Raises ConfigError."""
    resolve_layer_cells(values["model"], folders)
    return typed(Config, values)


def run_jobs(words: Words, job: Job) -> None:
    """Call `job(make, choices, typed)` for the configuration of `words`, or for each of a multirun (-m).

    `make` checks it, and `typed` are the words of this job. Raises ConfigError if they cannot be composed.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    def run(node: DictConfig) -> float | None:
        runtime, typed_words = HydraConfig.get().runtime, HydraConfig.get().overrides.task
        values, folders = _values(node), _folders(runtime)
        check_trust(values, words)
        return job(lambda: typed_config(values, folders), _taken(runtime.choices), list(typed_words))

    _check(words)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # its errors come here, to be printed in a few lines
    # Flags first, wherever they were typed: argparse takes the words it knows in one piece only.
    keys = overrides(words)
    sys.argv = ["seqlm train", *(word for word in words if word not in keys), *quoted_paths(words)]
    try:
        hydra.main(config_path=str(find_configs()), config_name="train", version_base="1.3")(run)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(words, error)) from error


def expand(words: Words) -> list[list[str]]:
    """The words of each job of a multirun, by hydra's own grammar: `seed=1,2`, `optim.lr=choice(...)`, `range`, `glob`.

    Values that an experiment lists in `hydra.sweeper.params` come first, as they do in `train -m`. Raises ConfigError.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    words = [*words, "-m"]  # commas separate jobs
    _check(words)
    with _loader(words) as loader:
        try:
            jobs: list[list[str]] = BasicSweeper.split_arguments(_parsed(loader, words), None)[0]
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(explain(words, error)) from error
    return jobs


def _parsed(loader: Any, words: Words) -> list[Any]:
    """The words of a multirun as hydra's overrides, behind those that an experiment lists."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.types import RunMode

    parser = OverridesParser.create(config_loader=loader)
    given = parser.parse_overrides(quoted_paths(words))
    fixed = [str(one.input_line) for one in given if not one.is_sweep_override()]
    listed = loader.load_configuration("train", fixed, RunMode.MULTIRUN).hydra.sweeper.params or {}
    return [*parser.parse_overrides([f"{key}={value}" for key, value in listed.items()]), *given]


def differing_words(jobs: Sequence[Words]) -> list[list[str]]:
    """Of each job of a multirun the words that other jobs do not have."""
    several = [len(set(values)) > 1 for values in zip(*jobs, strict=True)]
    return [[word for word, one in zip(job, several, strict=True) if one] for job in jobs]


def compose_jobs(jobs: Sequence[Words], flags: Words = ()) -> Iterator[tuple[Config, Choices] | ConfigError]:
    """Each job as `seqlm train WORDS` would compose it, or the error that it would end with.

    What jobs have in common is composed once: all but the plain keys (`optim.lr=0.01`), which are set in a copy.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import DictConfig, open_dict
    from omegaconf.errors import OmegaConfBaseException

    parse = lru_cache(maxsize=None)(lambda word: OverridesParser.create().parse_overrides([word]))
    explained: dict[str, str] = {}
    with _loader(flags) as loader:
        hydra: Any = HydraConfig.instance()

        @lru_cache(maxsize=64)
        def common(*words: str) -> tuple[DictConfig, DictConfig, Any]:
            """A composed config without the node hydra, what ${hydra:...} reads in it, and where it comes from."""
            node = loader.load_configuration("train", list(words), RunMode.RUN)
            hydra.set_config(node)
            with open_dict(node):
                return node, hydra.cfg, node.pop("hydra").runtime

        for job in jobs:
            plain = [word for word in job if _sets_a_key(word, loader)]
            try:
                base, hydra.cfg, runtime = common(*(word for word in job if word not in plain))
                node = copy.deepcopy(base)
                ConfigLoaderImpl._apply_overrides_to_config([one for word in plain for one in parse(word)], node)
                yield typed_config(_values(node), _folders(runtime)), _taken(runtime.choices)
            except (HydraException, OmegaConfBaseException) as error:
                if str(error) not in explained:  # composes again: once for a mistake that all jobs share
                    explained[str(error)] = explain([*job, *flags], error)
                yield ConfigError(explained[str(error)])
            except ConfigError as error:
                yield error


def _check(words: Words) -> None:
    """Raise ConfigError for words that hydra ignores, or ends in a traceback for."""
    check_words(words)
    groups = Reference(map(Path, values_of("--config-dir", words))).groups
    for group, _, value in (word.lstrip("+").partition("=") for word in overrides(words)):
        if options := groups.get(group.partition("@")[0]):
            if value == "null":
                raise ConfigError(f"{group}=null chooses nothing; leave it out, or write ~{group} to have none")
            if NO_NAMES.fullmatch(value.partition(",")[0]):
                raise ConfigError(unknown_option(group, value, options))
    if has_own_files(words):
        _guard_files()
        _check_files(words)


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
        try:
            check_yaml(path)
        except (OSError, ValueError, YAMLError) as error:
            if path.exists():  # else hydra tells what there is
                raise ConfigError(f"{path} cannot be read: {describe(error)}") from error
        return load(source, config_path)

    source_of_files.load_config = load_within_bounds


def _check_files(words: Words) -> None:
    """Raise ConfigError for the user's YAML files if they widen what a configuration may do. Nothing in them is run."""
    from hydra._internal.defaults_list import create_defaults_list
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf

    ours, problems = f"file://{find_configs()}", []
    with _loader(words) as loader:
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


def _group_choices(loader: Any, words: Words) -> list[list[str]]:
    """The words that choose files: those without commas, and with them the options of groups that each job has."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.errors import HydraException

    if not is_multirun(words):
        return [quoted_paths(words)]
    try:
        parsed = _parsed(loader, words)
        fixed = [str(one.input_line) for one in parsed if not one.is_sweep_override()]
        groups = [one for one in parsed if one.is_sweep_override() and loader.repository.group_exists(one.key_or_group)]
        return [fixed, *(fixed + job for job in BasicSweeper.split_arguments(groups, None)[0])]
    except HydraException:  # composing them will tell
        return []


def explain(words: Words, error: Exception) -> str:
    """The message for a composition error: every key and choice that does not exist, else the message of hydra."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException, MissingConfigException

    parsed = []
    for word in quoted_paths(words):
        try:
            parsed += OverridesParser.create().parse_overrides([word])
        except HydraException:
            return (
                f"{word} cannot be read; write key=value without spaces around =, and quote a value with "
                "spaces, commas, = or brackets: 'key=\"a, b\"'"
            )
    reference = Reference(map(Path, values_of("--config-dir", words)))
    groups = [item for item in parsed if item.key_or_group.partition("@")[0] in reference.groups]
    if again := [item.input_line for item in groups if item.is_add() and "Multiple values" in str(error)]:
        return f"{again[0]} adds a group that is there; write {str(again[0]).lstrip('+')}"
    wrong = {item.input_line: _wrong_option(str(item.input_line), reference) for item in groups}
    if isinstance(error, MissingConfigException) and error.options is not None and not any(wrong.values()):
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return unknown_option(group, option, sorted(error.options))
    folders = ",".join(f"file://{folder.resolve()}" for folder in reference.folders[:-1])
    right = [str(item.input_line) for item in groups if not wrong[item.input_line]]
    try:
        known = dotted(_composed([*right, f"hydra.searchpath=[{folders}]"], False)[0])
    except HydraException:  # not a matter of keys
        return " ".join(str(error).split())
    sections = {key.rsplit(".", depth)[0] for key in known for depth in range(1, key.count(".") + 1)}
    parts = {group.partition("/")[0] for group in reference.groups}  # whose keys depend on the option
    problems = [problem for problem in wrong.values() if problem] + [
        f"{item.input_line} needs the run too: init_from=RUN {item.input_line}"
        if item.key_or_group.startswith(INIT_FROM)
        else unknown_word(str(item.input_line), known, reference.groups)
        for item in parsed
        if item not in groups and not item.is_add() and item.key_or_group not in {*known, *sections, "hydra"}
        and not item.key_or_group.startswith("hydra.")
        and not (any(wrong.values()) and item.key_or_group.partition(".")[0] in parts)
    ]  # fmt: skip
    problems += [
        f"{item.input_line} should be a list"
        for item in parsed
        if isinstance(known.get(item.key_or_group), list)
        and not item.is_sweep_override() and not isinstance(item.value(), list)
    ]  # fmt: skip
    return str(several(problems)) if problems else " ".join(str(error).split("\n    full_key")[0].split())


def _wrong_option(word: str, reference: Reference) -> str:
    """The message for the first option in `group=a,b` that does not exist; empty if all do, or hydra must say."""
    group, _, options = word.lstrip("+").partition("=")
    folder = group.partition("@")[0]
    for option in options.split(","):
        if not GRAMMAR.match(option) and not reference.page(f"{folder}/{option}"):
            return unknown_option(group, option, reference.groups[folder])
    return ""


def _compose(words: Words) -> tuple[dict[str, Any], Choices]:
    """Composed values, not checked yet, and choices; raises ConfigError that explains the errors of hydra."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    _check(words)
    try:
        values, choices = _composed(quoted_paths(words))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(words, error)) from error
    check_trust(values, words)
    del values["paths"]  # which the data has read
    return values, choices


def _composed(words: Words, resolve: bool = True) -> tuple[dict[str, Any], Choices]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf, open_dict

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(find_configs()), version_base="1.3"):
        node = compose("train", list(words), return_hydra_config=True)
    with open_dict(node):
        choices = _taken(node.pop("hydra").runtime.choices)
    return cast("dict[str, Any]", OmegaConf.to_container(node, resolve=resolve)), choices


@contextmanager
def _loader(flags: Words) -> Iterator[Any]:
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


def _sets_a_key(word: str, loader: Any) -> bool:
    """Whether a word gives an existing key another value, and chooses no option of a config group."""
    key = word.partition("=")[0]
    if re.search(r"[+~/@]", key):
        return False
    return "." in key or (key in {one.name for one in fields(Config)} and not loader.repository.group_exists(key))


def _values(node: Any) -> dict[str, Any]:
    """The values of a composed config."""
    from omegaconf import OmegaConf

    values = cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True))
    del values["paths"]  # which the data has read
    return values


def _folders(runtime: Any) -> list[Path]:
    """The folders of YAML files that hydra has read from."""
    return [Path(source.path) for source in runtime.config_sources if source.schema == "file"]


def _taken(choices: Mapping[str, Any]) -> Choices:
    """The options taken of our config groups."""
    return {group: choice for group, choice in choices.items() if choice and not group.startswith(("hydra", "local"))}
