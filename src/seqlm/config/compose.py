"""From words of a command line to a configuration: the only file that imports hydra."""

from __future__ import annotations

import copy
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from ..errors import ConfigError
from .comparison import differences
from .flags import check_words, is_multirun, values_of
from .keys import dotted
from .reference import Reference
from .schema import DATA_PATHS, PARTS, PATH_KEYS, Config
from .tree import find_configs
from .values import nearest, typed, unknown_key
from .yaml_files import resolve_layer_cells

Words = Sequence[str]
Choices = dict[str, str]  # the option taken of each config group, {"model": "lstm"}
Job = Callable[[Callable[[], Config], Choices, list[str]], float | None]
# Values that are left to hydra's grammar: quoted, composite, interpolated, or a function of it.
GRAMMAR = re.compile(r"""['"\[{$]|(null|\?\?\?)$|(choice|range|interval|glob|sort|shuffle)\(""")
NO_NAMES = re.compile(r"(?i)[\[{].*|true|false|nan|[+-]?(inf|[\d.][\d.e_+-]*)")  # which hydra takes for no option
WORDS_OF_YAML = re.compile(r"(?i)null|true|false|nan|inf")
INIT_FROM = "init_from."


def compose_words(words: Words = ()) -> tuple[Config, Choices]:
    """The configuration that `seqlm train WORDS` trains, and the option taken of each group. Raises ConfigError."""
    values, choices = _compose(overrides(words))
    return typed_config(values, [find_configs()]), choices


def experiment(name: str, words: Words = ()) -> dict[str, Any]:
    """The values that `seqlm train experiment=NAME` composes; `default` is no experiment. Raises ConfigError."""
    values, _ = _compose([*([] if name == "default" else [f"experiment={name}"]), *overrides(words)])
    resolve_layer_cells(values["model"], [find_configs()])
    return values


def words_of(config: Mapping[str, Any]) -> list[str]:
    """Words of a command line that set the keys of a mapping, which may be dotted or nested by section."""
    words = []
    for key, value in config.items():
        if isinstance(value, Mapping) and "." not in key:
            words += [f"{key}.{inner}={_as_word(item)}" for inner, item in value.items()]
        else:
            words.append(f"{key}={_as_word(value)}")
    return words


def words_that_compose(config: Config, begin: Words) -> list[str] | None:
    """Words from which `seqlm train` composes `config`, without its name and what it begins with; None if none do.

    `begin` are words that are known to come near. A part of `config` may be the name of a choice, as in model=gru.
    """
    target = {key: value for key, value in asdict(config).items() if key not in ("run", "resume", "init_from")}
    named = {part: target.pop(part) for part in PARTS if isinstance(target[part], str)}
    data = target.get("data", {})
    files = {f"data.{key}": data[key] for key in DATA_PATHS if isinstance(data.get(key), str)}
    replaced = ("run.name=", "resume=", "init_from", *(f"{key}=" for key in files), *(f"{key}." for key in named))
    words = [word for word in begin if not word.startswith(replaced)] + words_of({**named, **files})
    try:
        changed = _words_between(words, target)
        keys = {word.partition("=")[0] for word in changed}
        words = [word for word in words if word.partition("=")[0] not in keys] + changed
        return None if _words_between(words, target) else words
    except ConfigError:
        return None


def _words_between(words: Words, target: Mapping[str, Any]) -> list[str]:
    """The words that `words` lack to compose the values of `target`."""
    values, _ = _compose(words)
    resolve_layer_cells(values["model"], [find_configs()])
    found, wanted = (dotted({key: one[key] for key in target}) for one in (values, target))
    return [
        ("" if key in found else "+") + f"{key}={_as_word(new)}" if key in wanted else f"~{key}"
        for key, _, new in differences(found, wanted)
    ]


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
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf.errors import OmegaConfBaseException

    words = [*words, "-m"]  # commas separate jobs
    _check(words)
    with _loader(words) as loader:
        parser = OverridesParser.create(config_loader=loader)
        try:
            given = parser.parse_overrides(quoted_paths(words))
            fixed = [str(one.input_line) for one in given if not one.is_sweep_override()]
            listed = loader.load_configuration("train", fixed, RunMode.MULTIRUN).hydra.sweeper.params or {}
            parsed = [*parser.parse_overrides([f"{key}={value}" for key, value in listed.items()]), *given]
            jobs: list[list[str]] = BasicSweeper.split_arguments(parsed, None)[0]
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


def overrides(words: Words) -> list[str]:
    """Those of the words that are not flags, or what follows one."""
    return [word for word in words if word.startswith("~") or ("=" in word and not word.startswith("-"))]


def quoted_paths(words: Words) -> list[str]:
    """The overrides, paths in quotes and ~ expanded: to hydra a plain é, & or ( is an error, and 1984 a number."""
    several = is_multirun(words)  # then commas separate jobs
    found = []
    for word in _with_whole_init_from(overrides(words), several):
        key, _, value = word.partition("=")
        is_path = key.lstrip("+") in PATH_KEYS or key.lstrip("+").startswith("paths.")
        if is_path and value and not GRAMMAR.match(value):
            paths = value.split(",") if several else [value]
            word = f"{key}=" + ",".join(_quoted(os.path.expanduser(path)) for path in paths)
        found.append(word)
    return found


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


def _with_whole_init_from(words: Words, several: bool) -> list[str]:
    """`init_from=RUN init_from.optimizer=true` as one word: to hydra the first makes it a text, which has no keys."""
    given = {key: value for word in words for key, _, value in [word.partition("=")] if f"{key}.".startswith(INIT_FROM)}
    run = given.pop("init_from", given.pop(f"{INIT_FROM}run", ""))
    if not given or not run or run.startswith("{"):
        return list(words)
    texts = {"run": run, **{key.removeprefix(INIT_FROM): value for key, value in given.items()}}
    choices = [value.split(",") if several else [value] for value in texts.values()]
    choices[0] = [path if GRAMMAR.match(path) else _quoted(os.path.expanduser(path)) for path in choices[0]]
    jobs = (",".join(map(":".join, zip(texts, chosen, strict=True))) for chosen in itertools.product(*choices))
    kept = [word for word in words if not f"{word.partition('=')[0]}.".startswith(INIT_FROM)]
    return [*kept, "init_from=" + ",".join(f"{{{job}}}" for job in jobs)]


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
        else unknown_group(str(item.input_line), reference.groups) or unknown_key(item.key_or_group, known)
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
    return "\n".join(problems) or " ".join(str(error).split("\n    full_key")[0].split())


def _wrong_option(word: str, reference: Reference) -> str:
    """The message for the first option in `group=a,b` that does not exist; empty if all do, or hydra must say."""
    group, _, options = word.lstrip("+").partition("=")
    folder = group.partition("@")[0]
    for option in options.split(","):
        if not GRAMMAR.match(option) and not reference.page(f"{folder}/{option}"):
            return unknown_option(group, option, reference.groups[folder])
    return ""


def unknown_option(group: str, option: str, allowed: Sequence[str]) -> str:
    """The message for an option that a group does not have, the likely ones first."""
    likely = [name for name in allowed if option and name.startswith(option)] or nearest(option, allowed, 3)
    hint = f"did you mean {', '.join(likely[:3])}? " if likely else ""
    return f"{group}={option} is unknown; {hint}allowed: {', '.join(allowed)}"


def unknown_group(word: str, groups: Mapping[str, Sequence[str]]) -> str:
    """The message for `group=option` if the group is misspelt; empty if it looks like something else."""
    group, _, option = word.partition("=")
    near = [name for name in nearest(group, groups, 3) if option in groups[name]]
    near = near or (nearest(group, groups, 1) if "/" in group else [])
    return f"{group} is neither a group nor a key; did you mean {near[0]}={option}?" if near else ""


def _compose(words: Words) -> tuple[dict[str, Any], Choices]:
    """Composed values, not checked yet, and choices; raises ConfigError that explains the errors of hydra."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    _check(words)
    try:
        values, choices = _composed(quoted_paths(words))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(words, error)) from error
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


def _as_word(value: Any) -> str:
    """A plain value in hydra's grammar of overrides."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_as_word(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_as_word, value)) + "]"
    if isinstance(value, (str, Path)):
        plain = re.fullmatch(r"[A-Za-z_][\w/.-]*", str(value), re.ASCII) and not WORDS_OF_YAML.fullmatch(str(value))
        return str(value) if plain else _quoted(str(value))
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _quoted(text: str) -> str:
    """A text in hydra's grammar of overrides, where backslashes count only in front of a quote."""
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + (found[2] and "\\'"), text)
    return f"'{escaped}'"
