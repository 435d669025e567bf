"""From words of a command line to a configuration: the only package that imports hydra."""

from __future__ import annotations

import copy
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ..flags import check_words, values_of
from ..reference import Reference, names_in
from ..schema import Config
from ..suggest import unknown_option
from ..tree import find_configs
from ..trust import check_trust
from ..values import typed
from ..words import Choices, Words, overrides, quoted_paths
from ..yaml_files import resolve_layer_cells
from .explain import explain
from .loading import compose_by_hydra, folders_read, open_loader, parse_multirun, taken, values_of_node
from .own_files import check_own_files

Job = Callable[[Callable[[], Config], Choices, list[str]], float | None]
SEVERAL = ("logger",)  # groups of which a list of options may be taken
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
        values, folders = values_of_node(node), folders_read(runtime)
        check_trust(values, words)
        return job(lambda: typed_config(values, folders), taken(runtime.choices), list(typed_words))

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
    with open_loader(words) as loader:
        try:
            jobs: list[list[str]] = BasicSweeper.split_arguments(parse_multirun(loader, words), None)[0]
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(explain(words, error)) from error
    return jobs


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
    with open_loader(flags) as loader:
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
                yield typed_config(values_of_node(node), folders_read(runtime)), taken(runtime.choices)
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
            if group in SEVERAL and value.startswith("["):
                wrong = [name for name in names_in(value) if name not in options]
                if wrong:
                    raise ConfigError(unknown_option(group, wrong[0], options))
            elif NO_NAMES.fullmatch(value.partition(",")[0]):
                raise ConfigError(unknown_option(group, value, options))
    check_own_files(words)


def _compose(words: Words) -> tuple[dict[str, Any], Choices]:
    """Composed values, not checked yet, and choices; raises ConfigError that explains the errors of hydra."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    _check(words)
    try:
        values, choices = compose_by_hydra(quoted_paths(words))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(words, error)) from error
    check_trust(values, words)
    del values["paths"]  # which the data has read
    return values, choices


def _sets_a_key(word: str, loader: Any) -> bool:
    """Whether a word gives an existing key another value, and chooses no option of a config group."""
    key = word.partition("=")[0]
    if re.search(r"[+~/@]", key):
        return False
    return "." in key or (key in {one.name for one in fields(Config)} and not loader.repository.group_exists(key))
